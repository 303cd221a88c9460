"""Under a push the listed tokens become likelier, by as much as the model itself says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from steering import output_tokens
from steering.errors import EvaluationError
from steering.intervention import Add
from steering.output_tokens import beyond_others, likelier, own_list, said
from steering.sources.random import random_direction
from steering.steer import steer

if TYPE_CHECKING:
    from lm import LanguageModel

POINT = "blocks.0.hook_resid_post"
TEXTS = ["One day a little boat sailed on the sea.", "The farmer fed the horse."]


def pushes(lm: LanguageModel, n: int) -> list[tuple[Add, ...]]:
    return [
        (Add(random_direction(lm.d_model, hook_point=POINT, seed=seed, mean_norm=3.0), 1.0),)
        for seed in range(n)
    ]


def test_what_is_said_is_the_mean_over_the_places_that_a_push_edits(
    tiny_lm: LanguageModel,
) -> None:
    prompts = [tiny_lm.encode(text) for text in TEXTS]
    arms = pushes(tiny_lm, 2)
    (found,) = said(tiny_lm, prompts, arms)
    for number, arm in enumerate(arms):
        for place, ids in enumerate(prompts):
            with steer(tiny_lm, arm), torch.no_grad():
                logits = tiny_lm.model(torch.tensor([ids])).logits[0, 1:].float()
            wanted = logits.log_softmax(dim=-1).mean(dim=0)
            torch.testing.assert_close(
                found.log_probs()[number, place], wanted, atol=1e-4, rtol=1e-4
            )
            torch.testing.assert_close(
                found.probs()[number, place], logits.softmax(dim=-1).mean(dim=0)
            )


def test_many_pushes_come_in_order_whatever_fits_a_pass(
    tiny_lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [tiny_lm.encode(text) for text in TEXTS]
    arms = pushes(tiny_lm, 5)
    (together,) = (part.log_probs() for part in said(tiny_lm, prompts, arms))
    for name, limit in (("ROWS", 4), ("LOGITS", 1)):
        with monkeypatch.context() as patch:
            patch.setattr(output_tokens, name, limit)
            parts = [part.log_probs() for part in said(tiny_lm, prompts, arms)]
        assert len(parts) == {"ROWS": 3, "LOGITS": 5}[name]
        torch.testing.assert_close(torch.cat(parts), together, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("texts", [[], [""], [TEXTS[0], ""]])
def test_a_prompt_without_a_token_to_push_is_refused(
    tiny_lm: LanguageModel, texts: list[str]
) -> None:
    prompts = [tiny_lm.encode(text) for text in texts]
    with pytest.raises(EvaluationError, match="give longer prompts"):
        next(said(tiny_lm, prompts, pushes(tiny_lm, 1)))


def test_the_likeliest_allowed_tokens_come_first_and_ties_by_number() -> None:
    gain = torch.tensor([[0.0, 3.0, 2.0, 5.0], [1.0, 1.0, 1.0, 9.0]])
    allowed = torch.tensor([True, True, True, False])
    assert likelier(gain, allowed, 2).tolist() == [[1, 2], [0, 1]]
    assert likelier(gain, allowed, 9).tolist() == [[1, 2, 0], [0, 1, 2]]


def test_a_push_is_read_at_its_own_tokens() -> None:
    each = torch.arange(24.0).view(2, 3, 4)
    lists = torch.tensor([[0, 1], [3, 2]])
    assert own_list(each, lists).tolist() == [
        [[0, 1], [4, 5], [8, 9]],
        [[15, 14], [19, 18], [23, 22]],
    ]


def test_a_random_push_is_compared_with_the_others_and_not_with_itself() -> None:
    each = torch.tensor([[1.0, 0.0], [2.0, 0.0], [6.0, 3.0]])
    torch.testing.assert_close(
        beyond_others(each), torch.tensor([[-3.0, -1.5], [-1.5, -1.5], [4.5, 3.0]])
    )
    with pytest.raises(EvaluationError, match="two or more"):
        beyond_others(each[:1])
