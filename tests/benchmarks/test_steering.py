"""The pieces of the steering benchmark that a table's truth rests on."""

from __future__ import annotations

import copy

import pytest
import torch

from benchmarks import steering, steering_models, steering_overhead, steering_sweep
from benchmarks.steering_time import decode_seconds, fixed_ids, in_turns, interval, over
from lm.hookpoint import HookPoint
from lm.model import LanguageModel
from lm.step import Step
from lm.tap import edited
from steering.intervention import Add
from steering.steer import apply, edits_for


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return steering_models.microworld_model()


def test_an_unknown_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert steering.main(["speed"]) == 2
    assert "speed" in capsys.readouterr().err


def test_the_interval_holds_its_median_and_narrows_with_more_pairs() -> None:
    few, many = interval([1.0, 1.1, 1.2, 1.3]), interval([1.0, 1.1, 1.2, 1.3] * 50)
    assert few.low <= few.middle <= few.high
    assert few.middle == pytest.approx(1.15)
    assert many.high - many.low < few.high - few.low


def test_a_share_is_read_in_percent() -> None:
    assert interval([1.02] * 5).added() == "+2.00 % (+2.00, +2.00)"


def test_every_round_measures_every_side_and_pairs_stay_together() -> None:
    clock = iter(range(100))
    sides = {"a": lambda: float(next(clock)), "b": lambda: 100.0 + next(clock)}
    found = in_turns(sides, 5)
    assert [len(times) for times in found.values()] == [5, 5]
    assert all(int(a // 2) == int((b - 100) // 2) for a, b in zip(*found.values(), strict=True))
    assert over({"x": [2.0, 4.0], "y": [1.0, 2.0]}, "x", "y").middle == 2.0


def test_the_timed_steps_are_cached_steps_of_one_token(model: LanguageModel) -> None:
    seen: list[tuple[int, int, int]] = []

    def look(resid: torch.Tensor, step: Step) -> torch.Tensor:
        seen.append((resid.shape[0], resid.shape[1], int(step.positions[0, -1])))
        return resid

    with edited(model, {HookPoint(1): look}):
        assert decode_seconds(model, 2, 3) > 0
    assert seen == [(2, 24, 23), (2, 1, 24), (2, 1, 25), (2, 1, 26)]
    assert not set(fixed_ids(model, 2, 3).flatten().tolist()) & model.special_ids


def test_the_hooks_of_a_model_that_computes_nothing_are_the_hooks_that_are_timed(
    model: LanguageModel,
) -> None:
    shapes: set[torch.Size] = set()
    passes: list[tuple[int, int]] = []

    def look(resid: torch.Tensor, step: Step) -> torch.Tensor:
        shapes.add(resid.shape)
        passes.append((step.pass_index, int(step.positions[0, 0])))
        return resid

    attach = steering_overhead.by({steering_models.middle(model): look})
    seconds = steering_overhead.hook_seconds(model, 2, attach)
    assert seconds > 0
    assert shapes == {torch.Size((2, 1, model.d_model))}
    assert passes[:3] == [(0, 24), (1, 25), (2, 26)]


def test_the_bare_hook_moves_the_stream_as_the_one_add_does(model: LanguageModel) -> None:
    ids = fixed_ids(model, 1, 1)[:, 1:]
    attach = steering_overhead.by(edits_for(model, steering_models.one_add(model)))
    logits = []
    with torch.inference_mode():
        past = model.model(ids[:, :1], use_cache=True).past_key_values
        for enter in (attach, steering_overhead.bare_add):
            with enter(model):
                given = model.model(ids[:, 1:2], past_key_values=copy.deepcopy(past))
            logits.append(given.logits)
    torch.testing.assert_close(*logits)
    assert steering_overhead.hook_seconds(model, 1, steering_overhead.bare_add) > 0


def test_the_naive_clamp_gives_what_the_clamp_of_the_columns_gives(model: LanguageModel) -> None:
    sae = steering_models.autoencoder(model)
    resid = torch.randn(2, 3, model.d_model, generator=torch.Generator().manual_seed(0))
    whole = steering_models.WholeAutoencoder(sae, range(8), steering_models.CAP)
    naive = whole(resid, _no_step(resid))
    ours = apply(steering_models.clamped(sae), resid)
    assert not torch.equal(ours, resid)
    torch.testing.assert_close(ours, naive, atol=2e-5, rtol=1e-5)


def test_one_call_and_both_loops_make_the_same_texts(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steering_sweep, "NEW_TOKENS", 4)
    prompts, cells = steering_sweep.prompts_of(model)[:2], steering_sweep.cells_of(model)[:3]
    ways = (steering_sweep.in_one_batch, steering_sweep.in_calls, steering_sweep.one_by_one)
    one, *others = ([text.ids for text in way(model, prompts, cells)] for way in ways)
    assert len(one) == 6
    assert all(other == one for other in others)
    assert steering_sweep.agreement(model, prompts, cells) == (6, 6)


def test_the_sweep_is_eight_by_sixteen_by_twelve(model: LanguageModel) -> None:
    assert len(steering_sweep.prompts_of(model)) == 16
    assert len(steering_sweep.cells_of(model)) == 8 * 12


def test_every_row_of_the_mixed_batch_has_edits_of_its_own(model: LanguageModel) -> None:
    rows = steering_models.rows_of_kinds(model, steering_models.autoencoder(model))
    assert len(rows) == 8
    kinds = [type(row[0]).__name__ for row in rows]
    assert len({*kinds}) == 7
    assert sum(isinstance(row[0], Add) for row in rows) == 2


def _no_step(resid: torch.Tensor) -> Step:
    place = torch.ones(resid.shape[:2], dtype=torch.int64)
    return Step(place, place, place.bool(), 0, place[:, 0], place[:, 0], len(place))
