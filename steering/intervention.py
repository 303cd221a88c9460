"""What can be done to the stream, as a closed union of small frozen values.

Every edit is h + delta(s(h)) * w, with s a reading of the stream and w the vector written. For a
`Direction` u, s = <h, u> and w = u. For a `Latent` f of a sparse autoencoder, s is its activation
and w its decoder row, so the part of the stream that the autoencoder cannot explain stays.

Edits of one `steer` at one hook point all read the stream as it arrives, and their changes are
summed; a later hook point reads the edited stream; a `steer` inside another comes second.
Nothing here knows of tokens, batches or models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias, assert_never

import torch
from jaxtyping import Float
from torch import Tensor

from lm.hookpoint import HookPoint
from steering.direction import Direction, Unit, length_in, require_unit
from steering.errors import CoefficientError, DirectionError, InterventionError
from steering.positions import ALWAYS, EVERYWHERE, Positions, Schedule


@dataclass(frozen=True, eq=False)
class Latent:
    """One latent of a sparse autoencoder: reads z = <h, reader> + bias where z > threshold, else 0.

    For the TopK family, whose activations depend on the other latents, the threshold is the
    calibrated one and stands in for the competition; for JumpReLU it is the latent's own.
    """

    reader: Float[Tensor, " d_model"]
    bias: float
    threshold: float
    writer: Float[Tensor, " d_model"]
    """Decoder row, length 1, so that activations are lengths in the stream."""
    hook_point: str
    max_act: float | None = None
    mean_norm: float | None = None
    source: str = "latent"

    def __post_init__(self) -> None:
        HookPoint.parse(self.hook_point)
        Direction(self.writer, self.hook_point, mean_norm=self.mean_norm, max_act=self.max_act)
        finite = bool(torch.isfinite(self.reader).all()) and math.isfinite(self.bias)
        if not finite or self.reader.shape != self.writer.shape or math.isnan(self.threshold):
            raise DirectionError(
                f"a latent that reads {tuple(self.reader.shape)} and writes "
                f"{tuple(self.writer.shape)} or holds NaN; expected finite columns of one width; "
                "check the autoencoder's file"
            )

    @property
    def d_model(self) -> int:
        """Width of the stream that it belongs to."""
        return int(self.writer.shape[0])


Target: TypeAlias = Direction | Latent


@dataclass(frozen=True, eq=False)
class Add:
    """h + alpha w, whatever the stream holds."""

    target: Target
    coefficient: float
    unit: Unit = "norm"
    positions: Positions = EVERYWHERE
    schedule: Schedule = ALWAYS

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

    def __post_init__(self) -> None:
        _check(self, "value")


@dataclass(frozen=True, eq=False)
class Scale:
    """h + (rho - 1) s w: the reading is multiplied by rho."""

    target: Target
    factor: float
    positions: Positions = EVERYWHERE
    schedule: Schedule = ALWAYS

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


Intervention: TypeAlias = Add | Set | Cap | Floor | Scale | Ablate | ProjectOut


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


def change_of(intervention: Intervention) -> Change:
    """The four numbers of an edit, in the stream's units.

    Raises:
        CoefficientError: the unit needs a scale that the target does not record.
    """
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


def writer_of(target: Target) -> Float[Tensor, " d_model"]:
    """The vector that an edit of this target writes."""
    return target.vector if isinstance(target, Direction) else target.writer


def reader_of(target: Target) -> tuple[Float[Tensor, " d_model"], float, float]:
    """The vector, bias and threshold with which a target reads the stream."""
    if isinstance(target, Direction):
        return target.vector, 0.0, -math.inf
    return target.reader, target.bias, target.threshold


def _length(target: Target, value: float, unit: Unit) -> float:
    return length_in(value, unit, mean_norm=target.mean_norm, max_act=target.max_act)


def _off(target: Target) -> float:
    mean = target.negative_mean if isinstance(target, Direction) else None
    return 0.0 if mean is None else mean


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
