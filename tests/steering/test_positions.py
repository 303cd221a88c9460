"""Which tokens are chosen: in absolute places, through padding and caches, never by accident."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lm.step import Step
from steering.errors import PositionError
from steering.mask import Mask
from steering.positions import (
    Constant,
    Decay,
    Everywhere,
    Except,
    FirstN,
    Generation,
    Places,
    Positions,
    Prompt,
    Schedule,
    Tokens,
    WarmUp,
    Window,
    require_reachable,
)
from steering.rows import EVERY_LIST
from steering.strength import Strength

BOS = 1


def step(
    n_tokens: int = 8, prompt: int = 5, *, left: int = 0, right: int = 0, start: int = 0
) -> Step:
    """One row: <bos> 10 11 12 ..., of which `start` tokens are already in the cache."""
    places = [-1] * left + list(range(start, n_tokens)) + [-1] * right
    ids = [0 if place < 0 else BOS if place == 0 else 9 + place for place in places]
    positions = torch.tensor([places])
    return Step(
        positions=positions,
        token_ids=torch.tensor([ids]),
        is_real=positions >= 0,
        pass_index=int(start > 0),
        rows=torch.arange(1),
        prompt_lengths=torch.tensor([prompt]),
        n_rows=1,
    )


def chosen(choice: Positions, at: Step) -> set[int]:
    mask = Mask([choice], {0, BOS})(at)
    assert mask.shape == (1, *at.positions.shape)
    return set(at.positions[mask[0]].tolist())


def strength(choice: Schedule, at: Step) -> list[float]:
    return [
        round(value, 6)
        for value in Strength([choice], torch.zeros(1, 1).long())(at, EVERY_LIST)[0, :, 0].tolist()
    ]


CHOICES: list[tuple[Positions, set[int]]] = [
    (Everywhere(), {1, 2, 3, 4, 5, 6, 7}),
    (Everywhere(include_special=True), {0, 1, 2, 3, 4, 5, 6, 7}),
    (Prompt(), {1, 2, 3, 4}),
    (Generation(), {5, 6, 7}),
    (Places((-1,)), {4}),
    (Places((2, -2, 6)), {2, 3, 6}),
    (Places((2, 6), prompt_only=True), {2}),
    (Places((0, 1), include_special=True), {0, 1}),
    (Window(2, 4), {2, 3}),
    (Window(0, 3), {1, 2}),
    (Window(2, -1), {2, 3}),
    (Window(-2), {3, 4, 5, 6, 7}),
    (Tokens((11, 15)), {2, 6}),
    (Except(Prompt()), {5, 6, 7}),
    (Except(Places((-1, 2))), {1, 3, 5, 6, 7}),
    (Except(Tokens((11,)), include_special=True), {0, 1, 3, 4, 5, 6, 7}),
]


@pytest.mark.parametrize(("choice", "expected"), CHOICES)
def test_a_choice_means_these_places(choice: Positions, expected: set[int]) -> None:
    assert chosen(choice, step()) == expected


@pytest.mark.parametrize(("choice", "expected"), CHOICES)
@pytest.mark.parametrize("padding", [{"left": 3}, {"right": 3}, {"left": 2, "right": 1}])
def test_padding_moves_no_choice_and_is_never_chosen(
    choice: Positions, expected: set[int], padding: dict[str, int]
) -> None:
    assert chosen(choice, step(**padding)) == expected


@pytest.mark.parametrize(("choice", "expected"), CHOICES)
def test_a_choice_is_the_same_however_the_text_is_cut_into_passes(
    choice: Positions, expected: set[int]
) -> None:
    for cut in range(1, 8):
        passes = chosen(choice, step(n_tokens=cut)) | chosen(choice, step(start=cut))
        assert passes == expected


def test_several_choices_are_several_masks() -> None:
    choices = [choice for choice, _ in CHOICES]
    masks = Mask(choices, {0, BOS})(step(left=2))
    for mask, (_, expected) in zip(masks, CHOICES, strict=True):
        assert set(step(left=2).positions[mask].tolist()) == expected


def test_rows_of_unequal_prompts_count_from_their_own_end() -> None:
    both = Step(
        positions=torch.tensor([[-1, 0, 1, 2], [0, 1, 2, 3]]),
        token_ids=torch.tensor([[0, BOS, 5, 6], [BOS, 5, 6, 7]]),
        is_real=torch.tensor([[False, True, True, True], [True] * 4]),
        pass_index=0,
        rows=torch.arange(2),
        prompt_lengths=torch.tensor([3, 4]),
        n_rows=2,
    )
    mask = Mask([Places((-2,))], {0, BOS})(both)[0]
    assert mask.tolist() == [[False, False, True, False], [False, False, True, False]]


@given(
    places=st.lists(st.integers(-6, 9).filter(bool), min_size=1, max_size=6),
    prompt=st.integers(1, 7),
)
def test_named_places_are_those_and_no_others(places: list[int], prompt: int) -> None:
    expected = {place if place > 0 else prompt + place for place in places}
    found = chosen(Places(tuple(places)), step(prompt=prompt))
    assert found == {place for place in expected if 0 < place < 8}


def test_place_zero_is_never_chosen_in_silence() -> None:
    with pytest.raises(PositionError, match="include_special"):
        Places((0,))
    with pytest.raises(PositionError, match="include_special"):
        Window(0, 1)


def test_a_special_token_that_was_asked_for_is_not_skipped_in_silence() -> None:
    with pytest.raises(PositionError, match=r"\[1\] are special"):
        require_reachable(Tokens((BOS, 12)), {0, BOS})
    require_reachable(Tokens((BOS, 12), include_special=True), {0, BOS})


@pytest.mark.parametrize(
    "make",
    [
        lambda: Places(()),
        lambda: Tokens(()),
        lambda: Tokens((-1,)),
        lambda: Window(3, 3),
        lambda: Window(-1, -2),
        lambda: Except(Everywhere()),
        lambda: FirstN(0),
        lambda: WarmUp(-1),
        lambda: Decay(0.0),
    ],
)
def test_a_choice_of_nothing_is_refused(make: object) -> None:
    with pytest.raises(PositionError):
        make()  # type: ignore[operator]


def test_schedules_count_generated_tokens() -> None:
    at = step()
    assert strength(Constant(), at) == [1.0] * 8
    assert strength(FirstN(2), at) == [1.0] * 7 + [0.0]
    assert strength(Decay(1.0), at) == [1.0] * 6 + [0.5, 0.25]
    assert strength(WarmUp(2), at) == [0.0] * 5 + [0.5, 1.0, 1.0]


def test_a_schedule_goes_on_where_the_cache_ends() -> None:
    whole = strength(Decay(2.0), step())
    assert strength(Decay(2.0), step(start=6)) == whole[6:]
