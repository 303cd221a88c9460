"""A pass over generated tokens is told its places at no cost, and they are the right ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lm import HookPoint, LanguageModel, Step, edited
from lm.clock import Clock
from lm.generate import generate
from lm.step import InnerStep

IDS = torch.tensor([[0, 0, 1, 5, 6], [1, 5, 6, 7, 8]])
LEFT, NONE = (IDS > 0).long(), torch.ones_like(IDS)
RIGHT = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
GREEDY: dict[str, Any] = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}


def by_generate(lm: LanguageModel, mask: Tensor, **how: Any) -> None:
    lm.model.generate(IDS, attention_mask=mask, **GREEDY, **how)


def by_hand(lm: LanguageModel, mask: Tensor | None, rest: int = 3) -> None:
    """A cached decode that gives the whole mask, or none, in each pass."""
    out = lm.model(IDS, attention_mask=mask, use_cache=True)
    for n in range(rest):
        if mask is not None:
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        given = {"attention_mask": mask, "past_key_values": out.past_key_values}
        out = lm.model(torch.tensor([[20 + n], [30 + n]]), **given)


def by_rows_that_end(lm: LanguageModel) -> None:
    prompts = [[1, 5 + n, *range(9, 9 + n)] for n in range(6)]
    generate(lm, prompts, max_new_tokens=12, temperature=3.0, seeds=list(range(6)))


RUNS: dict[str, Any] = {
    "generate, padded on the left": lambda lm: by_generate(lm, LEFT),
    "generate, padded on the right": lambda lm: by_generate(lm, RIGHT),
    "generate, no padding": lambda lm: by_generate(lm, NONE),
    "generate, beams": lambda lm: by_generate(lm, LEFT, num_beams=3),
    "generate, prompt in pieces": lambda lm: by_generate(lm, LEFT, prefill_chunk_size=2),
    "generate, static cache": lambda lm: by_generate(lm, LEFT, cache_implementation="static"),
    "by hand, no mask": lambda lm: by_hand(lm, None),
    "by hand, a mask of ones": lambda lm: by_hand(lm, NONE),
    "by hand, padded": lambda lm: by_hand(lm, LEFT),
    "rows that end": by_rows_that_end,
}


def steps_of(lm: LanguageModel, run: Any) -> list[Step]:
    steps: list[Step] = []

    def note(h: Tensor, step: Step) -> Tensor:
        steps.append(step)
        return h

    with edited(lm, {HookPoint(0): note}):
        run(lm)
    return steps


@pytest.mark.parametrize("how", RUNS)
def test_places_made_when_asked_for_are_those_that_the_mask_gives(
    how: str, tiny_lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = steps_of(tiny_lm, RUNS[how])
    monkeypatch.setattr(Clock, "_continued", Clock._outer)
    worked_out = steps_of(tiny_lm, RUNS[how])
    assert len(told) == len(worked_out)
    for one, other in zip(told, worked_out, strict=True):
        assert not isinstance(other, InnerStep)
        for name in ("positions", "is_real", "token_ids", "rows", "prompt_lengths"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
        assert (one.pass_index, one.n_rows) == (other.pass_index, other.n_rows)
        assert one.from_place == 0 or int(other.positions.min()) >= one.from_place
        if one.generated is not None:
            behind = other.positions[:, 0] - other.prompt_lengths
            assert behind.tolist() == [one.generated] * len(behind)


@pytest.mark.parametrize("how", sorted(set(RUNS) - {"by hand, padded"}))
def test_every_pass_behind_the_prompt_is_known_to_be_generated(
    how: str, tiny_lm: LanguageModel
) -> None:
    steps = steps_of(tiny_lm, RUNS[how])
    inner = [step for step in steps if isinstance(step, InnerStep) and step.generated is not None]
    assert [step.generated for step in inner] == list(range(len(inner)))
    assert len(inner) >= 3


def test_a_row_without_a_prompt_is_not_said_to_have_a_first_token(tiny_lm: LanguageModel) -> None:
    mask = torch.tensor([[0, 0, 0, 0, 0], [1, 1, 1, 1, 1]])
    steps = steps_of(tiny_lm, lambda lm: by_generate(lm, mask))
    assert [step.from_place for step in steps[:2]] == [0, 0]
    assert steps[1].positions[:, 0].tolist() == [0, 5]


def test_a_cache_that_a_generation_has_filled_is_continued_as_its_own(
    tiny_lm: LanguageModel,
) -> None:
    def go_on(lm: LanguageModel) -> None:
        made = lm.model.generate(IDS, attention_mask=NONE, return_dict_in_generate=True, **GREEDY)
        lm.model(made.sequences[:, -1:], past_key_values=made.past_key_values)

    last = steps_of(tiny_lm, go_on)[-1]
    assert last.prompt_lengths.tolist() == [5, 5]
    assert (last.pass_index, last.generated) == (4, 3)
    assert last.positions.tolist() == [[8], [8]]


def test_a_stem_that_is_given_the_ids_itself_is_watched_by_two_hooks(
    tiny_lm: LanguageModel,
) -> None:
    def n_hooks() -> list[int]:
        doors = (tiny_lm.model, tiny_lm.stem)
        return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in doors]

    before = n_hooks()
    with edited(tiny_lm, {HookPoint(1): lambda h, _: h}):
        assert [now - then for now, then in zip(n_hooks(), before, strict=True)] == [0, 2]
    assert n_hooks() == before


def test_a_step_has_nothing_but_its_own_fields(tiny_lm: LanguageModel) -> None:
    step = steps_of(tiny_lm, lambda lm: by_hand(lm, None))[-1]
    with pytest.raises(AttributeError, match="place"):
        _ = step.place  # type: ignore[attr-defined]
