"""What can be done to the stream, as a closed union of small frozen values.

Every edit is a sum of h + delta(s(h)) * w, with s a reading of the stream and w the vector
written. For a `Direction` u, s = <h, u> and w = u. For a `Latent` f of a sparse autoencoder, s is
its activation and w its decoder row, so the part of the stream that the autoencoder cannot
explain stays.

Edits of one `steer` at one hook point all read the stream as it arrives, and their changes are
summed; then `KeepNorm` looks at the sum. A later hook point reads the edited stream; a `steer`
inside another comes second. Nothing here knows of tokens, batches or models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

from lm.hookpoint import HookPoint
from steering.direction import Direction, Unit, require_same_model, require_unit
from steering.errors import CoefficientError, DirectionError, InterventionError
from steering.gate import Gate, leaves
from steering.positions import ALWAYS, EVERYWHERE, Positions, Schedule
from steering.target import Target


@dataclass(frozen=True, eq=False)
class Add:
    """h + alpha w, whatever the stream holds."""

    target: Target
    coefficient: float
    unit: Unit = "norm"
    positions: Positions = EVERYWHERE
    schedule: Schedule = ALWAYS
    when: Gate | None = None

    def __post_init__(self) -> None:
        _check(self, "coefficient")


@dataclass(frozen=True, eq=False)
class Set:
    """h + (t - s) w: the reading becomes t."""

    target: Target
    value: float
    unit: Unit = "max_act"
    positions: Positions = EVERYWHERE
    schedule: Schedule = ALWAYS
    when: Gate | None = None

    def __post_init__(self) -> None:
        _check(self, "value")


@dataclass(frozen=True, eq=False)
class Cap:
    """h + min(t - s, 0) w: the reading is at most t."""

    target: Target
    value: float
    unit: Unit = "max_act"
    positions: Positions = EVERYWHERE
    schedule: Schedule = ALWAYS
    when: Gate | None = None

    def __post_init__(self) -> None:
        _check(self, "value")


@dataclass(frozen=True, eq=False)
class Floor:
    """h + max(t - s, 0) w: the reading is at least t."""

    target: Target
    value: float
    unit: Unit = "max_act"
    positions: Positions = EVERYWHERE
    schedule: Schedule = ALWAYS
    when: Gate | None = None

    def __post_init__(self) -> None:
        _check(self, "value")


@dataclass(frozen=True, eq=False)
class Scale:
    """h + (rho - 1) s w: the reading is multiplied by rho."""

    target: Target
    factor: float
    positions: Positions = EVERYWHERE
    schedule: Schedule = ALWAYS
    when: Gate | None = None

    def __post_init__(self) -> None:
        _check(self, "factor")


@dataclass(frozen=True, eq=False)
class Ablate:
    """h + (c - s) w with c the reference that means "off", in the stream's units.

    Left out, the reference is the negative class's mean for a direction and 0 for a latent: a
    latent's zero is a true off, while a dense direction's zero may lie far from both classes.
    """

    target: Target
    reference: float | None = None
    positions: Positions = EVERYWHERE
    schedule: Schedule = ALWAYS
    when: Gate | None = None

    def __post_init__(self) -> None:
        if self.reference is not None:
            _check(self, "reference")
        elif isinstance(self.target, Direction) and self.target.negative_mean is None:
            raise InterventionError(
                f"{self.target.source} records no negative_mean to ablate to; expected a direction "
                "made from two classes; give a reference, or use ProjectOut for zero"
            )


@dataclass(frozen=True, eq=False)
class ProjectOut:
    """h - <h, u> u: nothing is left along the direction."""

    target: Direction
    positions: Positions = EVERYWHERE
    schedule: Schedule = ALWAYS
    when: Gate | None = None


@dataclass(frozen=True, eq=False)
class Replace:
    """h - s w_a + rho s w_b: what is read of a is written along b instead."""

    target: Target
    by: Target
    factor: float = 1.0
    """rho: lengths along b for each length along a."""
    positions: Positions = EVERYWHERE
    schedule: Schedule = ALWAYS
    when: Gate | None = None

    def __post_init__(self) -> None:
        _check(self, "factor")
        _require_same_place(self.target, self.by, "Replace")


@dataclass(frozen=True, eq=False)
class Rotate:
    """Turns the stream's part in the plane of a and b from a towards b; lengths stay.

    Left out, the angle is the one between them, so that a becomes b.
    """

    target: Direction
    towards: Direction
    degrees: float | None = None
    positions: Positions = EVERYWHERE
    schedule: Schedule = ALWAYS
    when: Gate | None = None

    def __post_init__(self) -> None:
        _require_same_place(self.target, self.towards, "Rotate")
        if self.degrees is not None:
            _check(self, "degrees")
        cosine = float(self.target.vector.double() @ self.towards.vector.double())
        if 1 - abs(cosine) < _PARALLEL:
            raise DirectionError(
                f"Rotate between directions of cosine {cosine:.6f}; expected two that span a "
                "plane; for opposite directions use Scale with factor -1"
            )


@dataclass(frozen=True, eq=False)
class KeepNorm:
    """Rescales what the other edits here made of a token, so that its length stays.

    With `at_most` the edited stream is only shortened, to that multiple of its old length.
    Tokens that no other edit changes are left alone.
    """

    hook_point: str
    at_most: float | None = None
    positions: Positions = EVERYWHERE
    when: Gate | None = None

    def __post_init__(self) -> None:
        HookPoint.parse(self.hook_point)
        if self.at_most is not None:
            _check(self, "at_most")
            if self.at_most <= 0:
                raise CoefficientError(
                    f"KeepNorm at most {self.at_most:g} times as long; expected a positive number; "
                    "choose one such as 1.2, or leave it out to keep the length"
                )


Intervention: TypeAlias = (
    Add | Set | Cap | Floor | Scale | Ablate | ProjectOut | Replace | Rotate | KeepNorm
)

Edit: TypeAlias = Add | Set | Cap | Floor | Scale | Ablate | ProjectOut | Replace | Rotate
"""An intervention that moves the stream by itself."""

_PARALLEL = 1e-6


def place_of(intervention: Intervention) -> str:
    """The hook point at which the edit acts."""
    if isinstance(intervention, KeepNorm):
        return intervention.hook_point
    return intervention.target.hook_point


def targets_of(intervention: Intervention) -> tuple[Target, ...]:
    """Everything that the edit and its gate read or write."""
    match intervention:
        case KeepNorm():
            own: tuple[Target, ...] = ()
        case Replace(target, other) | Rotate(target, other):
            own = (target, other)
        case _:
            own = (intervention.target,)
    gate = intervention.when
    return own if gate is None else (*own, *(leaf.target for leaf in leaves(gate)))


def places_of(intervention: Intervention) -> set[str]:
    """Every hook point that the edit or its gate looks at."""
    return {place_of(intervention), *(target.hook_point for target in targets_of(intervention))}


def _require_same_place(one: Target, other: Target, kind: str) -> None:
    if one.hook_point != other.hook_point or one.d_model != other.d_model:
        raise InterventionError(
            f"{kind} from {one.hook_point} ({one.d_model} dimensions) to {other.hook_point} "
            f"({other.d_model}); expected two targets of one place; take both from there"
        )
    require_same_model(one.model_sha, other.model_sha)


def _check(intervention: Intervention, name: str) -> None:
    """Keep the number as a float; refuse what no unit could make sense of."""
    number = float(getattr(intervention, name))
    kind = type(intervention).__name__
    if not math.isfinite(number):
        raise CoefficientError(
            f"{kind} with {name} = {number}; expected a finite number; choose one such as 0.5"
        )
    unit = getattr(intervention, "unit", None)
    if unit is not None:
        require_unit(unit)
    object.__setattr__(intervention, name, number)
