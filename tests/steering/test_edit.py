"""What is known beforehand spares work and changes no bit; what is computed says the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lm.step import Course, InnerStep, Step
from steering import delta
from steering.change import slots_of
from steering.delta import Delta
from steering.direction import Direction
from steering.edit import HookEdit
from steering.gate import Above
from steering.intervention import (
    Add,
    Cap,
    Floor,
    Intervention,
    KeepNorm,
    ProjectOut,
    Replace,
    Scale,
    Set,
)
from steering.mask import Mask
from steering.positions import (
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
)
from steering.rows import EVERY_LIST
from steering.steer import apply
from steering.strength import Strength
from steering.target import Latent

HOOK, SPECIAL, PROMPT = "blocks.0.hook_resid_post", frozenset({0, 1}), 6


def direction(n: int = 0) -> Direction:
    drawn = torch.randn(16, generator=torch.Generator().manual_seed(n))
    return Direction.from_vector(drawn, HOOK, mean_norm=4.0, max_act=2.0)


def latent(n: int, threshold: float = 0.0) -> Latent:
    return Latent(3 * direction(n).vector, 0.2, threshold, direction(n + 50).vector, HOOK, 2.0, 4.0)


def told(ids: Tensor, generated: int) -> InnerStep:
    """A decode step that is known to be one."""
    course = Course(0, len(ids), 3, PROMPT, None, PROMPT)
    past = PROMPT + generated
    return InnerStep(ids, torch.arange(len(ids)), len(ids), course, past, past, generated, None)


def worked_out(ids: Tensor, generated: int) -> Step:
    """The same step, of which nothing is known beforehand."""
    batch = len(ids)
    return Step(
        positions=torch.full((batch, 1), PROMPT + generated),
        token_ids=ids,
        is_real=torch.ones(batch, 1, dtype=torch.bool),
        pass_index=3,
        rows=torch.arange(batch),
        prompt_lengths=torch.full((batch,), PROMPT),
        n_rows=batch,
    )


LISTS: dict[str, list[Intervention]] = {
    "add": [Add(direction(), 1.5)],
    "add to generated tokens": [Add(direction(), 1.5, positions=Generation())],
    "add to the prompt": [Add(direction(), 1.5, positions=Prompt())],
    "add by token": [Add(direction(), 1.5, positions=Tokens((7,)))],
    "add from a place on": [Add(direction(), 1.5, positions=Window(9))],
    "add to everything": [Add(direction(), 1.5, positions=Everywhere(include_special=True))],
    "set eight latents": [Set(latent(n), 0.3) for n in range(8)],
    "band": [Floor(latent(1), 0.1), Cap(latent(1), 0.4)],
    "scale above a threshold": [Scale(latent(2, 0.5), 2.5), ProjectOut(direction(3))],
    "replace": [Replace(latent(4), direction(5), 2.0, positions=Except(Prompt()))],
    "first tokens": [Add(direction(6), 1.0, schedule=FirstN(3))],
    "warmed up": [Set(latent(7), 1.0, schedule=WarmUp(5))],
    "kept length": [Add(direction(8), 2.0), KeepNorm(HOOK)],
    "capped length": [Add(direction(8), 9.0), KeepNorm(HOOK, 1.1, positions=Generation())],
}


@pytest.mark.parametrize("token", [7, 0])
@pytest.mark.parametrize("generated", [0, 2, 3, 70])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("is_per_row", [False, True])
def test_a_step_that_is_known_beforehand_is_edited_to_the_same_bits(
    token: int, generated: int, dtype: torch.dtype, is_per_row: bool
) -> None:
    rows = list(LISTS.values()) if is_per_row else None
    for name, edits in LISTS.items():
        edit = HookEdit(rows or [edits], is_per_row=is_per_row, special_ids=SPECIAL)
        ids = torch.full((len(LISTS), 1), 7)
        ids[1] = token
        stream = torch.randn(len(ids), 1, 16, generator=torch.Generator().manual_seed(1)).to(dtype)
        stream[0, 0, :2] = torch.tensor([-0.0, 0.0])
        known = edit(stream, told(ids, generated))
        computed = edit(stream, worked_out(ids, generated))
        assert torch.equal(known, computed), name
        assert torch.equal(known.signbit(), computed.signbit()), name


def test_where_nothing_can_act_the_very_stream_comes_back() -> None:
    ids, stream = torch.full((2, 1), 7), torch.randn(2, 1, 16)
    for positions in (Prompt(), Places((-1, 3)), Window(1, 5), Places((30,), prompt_only=True)):
        edit = HookEdit([[Set(latent(0), 1.0, positions=positions)]], is_per_row=False)
        assert edit(stream, told(ids, 0)) is stream
        assert torch.equal(edit(stream, worked_out(ids, 0)), stream)


CHOICES: list[tuple[Positions, bool | None]] = [
    (Everywhere(), True),
    (Everywhere(include_special=True), True),
    (Prompt(), False),
    (Generation(), True),
    (Places((-1, 7)), False),
    (Places((8,)), None),
    (Places((40,), prompt_only=True), False),
    (Window(2), True),
    (Window(-3), True),
    (Window(9), None),
    (Window(2, 8), False),
    (Window(2, -1), False),
    (Tokens((7,)), None),
    (Except(Prompt()), True),
    (Except(Generation()), False),
    (Except(Places((4, -2))), True),
    (Except(Tokens((7,))), None),
]


@pytest.mark.parametrize(("choice", "expected"), CHOICES)
def test_what_is_known_of_a_choice_is_what_comparing_says(
    choice: Positions, expected: bool | None
) -> None:
    mask, ids = Mask([choice], SPECIAL), torch.full((3, 1), 7)
    assert mask.known(told(ids, 2)) is expected  # at place 8
    assert mask.known(worked_out(ids, 2)) is None
    for generated in range(8):
        computed = mask(worked_out(ids, generated))
        known = mask.known(told(ids, generated))
        assert known is None or bool(computed.all()) is bool(computed.any()) is known


def test_a_special_token_among_the_rows_is_seen() -> None:
    ids = torch.tensor([[7], [1], [7]])
    assert Mask([Everywhere()], SPECIAL).known(told(ids, 2)) is None
    assert Mask([Everywhere(include_special=True)], SPECIAL).known(told(ids, 2)) is True
    assert Mask([Generation(), Prompt()], SPECIAL).known(told(ids, 2)) is None
    assert Mask([Prompt(), Places((-1,))], SPECIAL).known(told(ids, 2)) is False


def test_a_strength_that_is_looked_up_is_the_one_worked_out() -> None:
    choice_of = torch.tensor([[0, 1], [2, 0], [1, 1]])
    choices: list[Schedule] = [Decay(3.0), WarmUp(4), FirstN(2)]
    one, other = Strength(choices, choice_of), Strength(choices, choice_of)
    ids, rows = torch.full((3, 1), 7), torch.arange(3)
    for generated in (0, 1, 5, 2, 200):
        looked_up = one(told(ids, generated), rows)
        computed = other(worked_out(ids, generated), rows)
        torch.testing.assert_close(looked_up, computed, rtol=1e-6, atol=0)


SLOTS: list[Intervention] = [
    Set(latent(0), 0.5),
    Set(latent(1), -0.5),
    Cap(latent(2), 0.2),
    Cap(latent(3), -0.3),
    Floor(latent(4), 0.4),
    Floor(latent(5), -0.2),
    Scale(latent(6), 3.0),
    Scale(latent(7), 0.0),
    Scale(direction(8), -1.0),
    Cap(direction(9), 0.1),
    Add(direction(10), 0.7),
]


def test_one_linear_map_and_one_clamp_say_what_the_readings_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slots = [slot for edit in SLOTS for slot in slots_of(edit)]  # type: ignore[arg-type]
    folded = Delta([slots], 16, "cpu")
    monkeypatch.setattr(delta, "_is_cut_at_zero_at_most", lambda _target: False)
    by_readings = Delta([slots], 16, "cpu")
    stream = 3 * torch.randn(200, 5, 16, generator=torch.Generator().manual_seed(3))
    one, other = folded(stream, EVERY_LIST), by_readings(stream, EVERY_LIST)
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    bounded = [n for n, edit in enumerate(SLOTS) if isinstance(edit, Cap | Floor)]
    assert torch.equal((one == 0)[..., bounded], (other == 0)[..., bounded])
    assert 0 < int((one == 0).sum()) < one.numel()


def test_edits_with_and_without_a_gate_share_a_list() -> None:
    gates = [Above(direction(20), 0.0), Above(direction(21), 0.0)]
    edits: list[Intervention] = [
        Add(direction(1), 1.0),
        Add(direction(2), 1.0, when=gates[0]),
        Add(direction(3), 1.0, when=gates[1]),
    ]
    stream = torch.randn(4, 6, 16, generator=torch.Generator().manual_seed(4))
    expected = stream + direction(1).vector * slots_of(edits[0])[0].change.offset  # type: ignore[arg-type]
    for gate, edit in zip(gates, edits[1:], strict=True):
        (slot,) = slots_of(edit)  # type: ignore[arg-type]
        is_open = (stream @ gate.target.vector > 0)[..., None]  # type: ignore[union-attr]
        expected = expected + is_open * slot.change.offset * slot.writes
    torch.testing.assert_close(apply(edits, stream), expected)
