"""What each intervention does to the stream: h + delta(s(h)) * w, in numbers.

An edit is one or two slots. A slot reads the stream along its target, turns the reading s into
how far to go by one formula for all kinds, and writes that far along a vector. Units end here:
a `Change` holds lengths of the stream.
"""

from __future__ import annotations

import math
from typing import NamedTuple, TypeAlias, assert_never

from jaxtyping import Float
from torch import Tensor

from steering.direction import Direction, Unit, length_in
from steering.intervention import (
    Ablate,
    Add,
    Cap,
    Edit,
    Floor,
    Intervention,
    KeepNorm,
    ProjectOut,
    Replace,
    Rotate,
    Scale,
    Set,
)
from steering.target import Target, writer_of

_Single: TypeAlias = Add | Set | Cap | Floor | Scale | Ablate | ProjectOut


class Change(NamedTuple):
    """delta(s) = min(max(offset + slope s, low), high), the one formula behind every edit."""

    offset: float
    slope: float
    low: float = -math.inf
    high: float = math.inf

    @property
    def is_identity(self) -> bool:
        """True when the stream is left as it is, whatever it holds."""
        return self.offset == 0 and self.slope == 0


class Slot(NamedTuple):
    """One reading, how far it moves the stream, and along what vector."""

    reads: Target
    change: Change
    writes: Float[Tensor, " d_model"]


def slots_of(intervention: Edit) -> tuple[Slot, ...]:
    """The terms of an edit; none where it leaves the stream as it is.

    Raises:
        CoefficientError: the unit needs a scale that the target does not record.
    """
    slots: tuple[Slot, ...]
    match intervention:
        case Replace(target, by, factor):
            slots = (
                Slot(target, Change(0.0, -1.0), writer_of(target)),
                Slot(target, Change(0.0, factor), writer_of(by)),
            )
        case Rotate(target, towards, degrees):
            slots = _turned(target, towards, degrees)
        case _:
            slots = (
                Slot(intervention.target, _change_of(intervention), writer_of(intervention.target)),
            )
    return tuple(slot for slot in slots if not slot.change.is_identity)


def _change_of(intervention: _Single) -> Change:
    """The four numbers of an edit along one target, in the stream's units."""
    match intervention:
        case Add(target, coefficient, unit):
            change = Change(_length(target, coefficient, unit), 0.0)
        case Set(target, value, unit):
            change = Change(_length(target, value, unit), -1.0)
        case Cap(target, value, unit):
            change = Change(_length(target, value, unit), -1.0, high=0.0)
        case Floor(target, value, unit):
            change = Change(_length(target, value, unit), -1.0, low=0.0)
        case Scale(_, factor):
            change = Change(0.0, factor - 1.0)
        case Ablate(target, reference):
            change = Change(_off(target) if reference is None else reference, -1.0)
        case ProjectOut():
            change = Change(0.0, -1.0)
        case _:
            assert_never(intervention)
    return change


def _turned(a: Direction, b: Direction, degrees: float | None) -> tuple[Slot, ...]:
    """A turn of the plane of a and b: with e1 = a and e2 what b adds to it, (R - 1) in terms of
    <h, e1> and <h, e2>."""
    first, other = a.vector.double(), b.vector.double()
    cosine = float(first @ other)
    second = other - cosine * first
    second /= second.norm()
    angle = math.acos(min(1.0, max(-1.0, cosine))) if degrees is None else math.radians(degrees)
    cos, sin = math.cos(angle) - 1.0, math.sin(angle)
    across = Direction.from_vector(second, a.hook_point, mean_norm=a.mean_norm)
    return (
        Slot(a, Change(0.0, 1.0), (cos * first + sin * second).float()),
        Slot(across, Change(0.0, 1.0), (cos * second - sin * first).float()),
    )


def changes_nothing(intervention: Intervention) -> bool:
    """Whether the stream is left as it is, whatever it holds."""
    if isinstance(intervention, KeepNorm):
        return True
    return all(not bool(slot.writes.any()) for slot in slots_of(intervention))


def _length(target: Target, value: float, unit: Unit) -> float:
    return length_in(value, unit, mean_norm=target.mean_norm, max_act=target.max_act)


def _off(target: Target) -> float:
    mean = target.negative_mean if isinstance(target, Direction) else None
    return 0.0 if mean is None else mean
