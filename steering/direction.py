"""A direction of the residual stream: a unit vector, where it belongs, and how long is long.

A direction knows nothing of tokens or texts, and of its model only the hash of the weights, so
that it is not taken for one of another model: `sources` find it, `intervention` uses it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, assert_never, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from lm.hookpoint import HookPoint
from lm.model import LanguageModel
from steering.errors import CoefficientError, DirectionError

Unit: TypeAlias = Literal["norm", "max_act", "raw"]
UNITS: tuple[Unit, ...] = get_args(Unit)
Fact: TypeAlias = str | int | float | bool | None

_SMALLEST = 1e-12
_HEADER = "directions"


@dataclass(frozen=True, eq=False)
class Direction:
    """A unit vector at a hook point, with its scales and where it came from.

    Raises:
        DirectionError: the vector is not finite or not of length 1, or a scale is not positive.
    """

    vector: Float[Tensor, " d_model"]
    """float32, length 1."""
    hook_point: str
    norm: float = 1.0
    """Length before it was normalised, in the stream's units."""
    mean_norm: float | None = None
    """Mean norm of the stream at the hook point, position 0 left out: the unit `norm`."""
    max_act: float | None = None
    """Largest activation seen, in the stream's units: the unit `max_act`."""
    positive_mean: float | None = None
    """Mean of the stream's component along the vector over the positive class."""
    negative_mean: float | None = None
    """The same over the negative class: the reference for switching a concept off."""
    sigma: float | None = None
    """Standard deviation of that component within the classes."""
    source: str = "given"
    concept: str | None = None
    provenance: Mapping[str, Fact] = field(default_factory=dict)
    model_sha: str | None = None
    """sha256 of the weights of the model that it belongs to; None where that is not known."""

    def __post_init__(self) -> None:
        HookPoint.parse(self.hook_point)
        vector = self.vector.detach().float()
        _require_finite(vector)
        length = float(vector.norm())
        if vector.ndim != 1 or abs(length - 1.0) > 1e-3:
            raise DirectionError(
                f"a direction of shape {tuple(vector.shape)} and length {length:.4g}; expected one "
                "vector of length 1; build it with Direction.from_vector, which normalises"
            )
        object.__setattr__(self, "vector", vector)
        for name in ("norm", "mean_norm", "max_act"):
            _require_positive(name, getattr(self, name))

    @classmethod
    def from_vector(
        cls,
        vector: Float[Tensor, " d_model"],
        hook_point: str,
        *,
        mean_norm: float | None = None,
        max_act: float | None = None,
        source: str = "given",
        concept: str | None = None,
        provenance: Mapping[str, Fact] | None = None,
        model_sha: str | None = None,
    ) -> Direction:
        """The direction of a vector of any length; its length is kept as `norm`.

        Raises:
            DirectionError: the vector is zero or not finite.
        """
        exact = vector.detach().double()
        _require_finite(exact)
        length = float(exact.norm())
        if length < _SMALLEST:
            raise DirectionError(
                f"a vector of length {length:.3g}; expected one that points somewhere; "
                "check that the two classes, or the two texts, differ"
            )
        return cls(
            vector=(exact / length).float(),
            hook_point=hook_point,
            norm=length,
            mean_norm=mean_norm,
            max_act=max_act,
            source=source,
            concept=concept,
            provenance=dict(provenance or {}),
            model_sha=model_sha,
        )

    def for_model(self, lm: LanguageModel) -> Direction:
        """The same direction, said to belong to this model: the way to try it on another one.

        Its scales stay those of the model that it was made on; `dataclasses.replace` gives
        others. Width and hook point are checked where it is used.
        """
        return replace(self, model_sha=lm.weights_sha())

    @property
    def d_model(self) -> int:
        """Width of the stream that it belongs to."""
        return int(self.vector.shape[0])

    def length(self, coefficient: float, unit: Unit) -> float:
        """What a coefficient comes to in the stream's own units; negative points the other way.

        Raises:
            CoefficientError: the scale that the unit needs is not known here.
        """
        return length_in(coefficient, unit, mean_norm=self.mean_norm, max_act=self.max_act)

    def scaled(self, coefficient: float, unit: Unit) -> Float[Tensor, " d_model"]:
        """The vector that adding this coefficient adds."""
        return self.length(coefficient, unit) * self.vector

    def along(self, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch"]:
        """The stream's component along the direction, in float32."""
        return resid.float() @ self.vector.to(resid.device)

    def __add__(self, other: Direction) -> Direction:
        return self._combined(other, 1.0, "+")

    def __sub__(self, other: Direction) -> Direction:
        return self._combined(other, -1.0, "-")

    def __mul__(self, factor: float) -> Direction:
        if not math.isfinite(factor) or factor == 0:
            raise DirectionError(
                f"a direction times {factor}; expected a finite factor other than 0; "
                "leave the direction out to switch it off"
            )
        flipped = self if factor > 0 else -self
        return replace(flipped, norm=self.norm * abs(factor))

    __rmul__ = __mul__

    def __neg__(self) -> Direction:
        def negated(value: float | None) -> float | None:
            return None if value is None else -value

        return replace(
            self,
            vector=-self.vector,
            max_act=None,
            positive_mean=negated(self.positive_mean),
            negative_mean=negated(self.negative_mean),
        )

    def project_out(self, other: Direction) -> Direction:
        """What is left of this direction, at its own length, once `other` is taken out of it."""
        self._require_same_place(other)
        own = self.vector.double() * self.norm
        unit = other.vector.double()
        rest = own - (own @ unit) * unit
        if float(rest.norm()) < 1e-6 * self.norm:
            raise DirectionError(
                "nothing is left after projecting out; expected two directions that "
                "are not parallel; leave this direction out"
            )
        return self._derived(rest, other, "project_out")

    def _combined(self, other: Direction, sign: float, operation: str) -> Direction:
        self._require_same_place(other)
        own, others = self.vector.double() * self.norm, other.vector.double() * other.norm
        return self._derived(own + sign * others, other, operation)

    def _derived(
        self, vector: Float[Tensor, " d_model"], other: Direction, operation: str
    ) -> Direction:
        return Direction.from_vector(
            vector,
            self.hook_point,
            mean_norm=self.mean_norm if self.mean_norm is not None else other.mean_norm,
            source=f"({self.source} {operation} {other.source})",
            concept=self.concept if self.concept == other.concept else None,
            model_sha=self.model_sha if self.model_sha is not None else other.model_sha,
        )

    def _require_same_place(self, other: Direction) -> None:
        if self.hook_point != other.hook_point or self.d_model != other.d_model:
            raise DirectionError(
                f"{self.hook_point} with {self.d_model} dimensions and {other.hook_point} with "
                f"{other.d_model}; expected two directions of one place; take both from there"
            )
        require_same_model(self.model_sha, other.model_sha)


def length_in(
    coefficient: float, unit: Unit, *, mean_norm: float | None, max_act: float | None
) -> float:
    """A coefficient in the stream's units.

    Raises:
        CoefficientError: it is not finite, or the unit is unknown or lacks its scale.
    """
    require_unit(unit)
    if not math.isfinite(coefficient):
        raise CoefficientError(
            f"a coefficient of {coefficient}; expected a finite number; choose one such as 0.5"
        )
    match unit:
        case "raw":
            return float(coefficient)
        case "norm":
            scale, missing = mean_norm, "the mean norm of the stream"
        case "max_act":
            scale, missing = max_act, "the largest activation"
        case _:
            assert_never(unit)
    if scale is None:
        others = " or ".join(repr(other) for other in UNITS if other != unit)
        raise CoefficientError(
            f"unit {unit!r} but {missing} is not known for this direction; expected one that "
            f"records it; give it that, or use unit {others}"
        )
    return float(coefficient) * scale


def require_unit(unit: str) -> None:
    """Raises CoefficientError unless `unit` is one of norm, max_act, raw."""
    if unit not in UNITS:
        raise CoefficientError(
            f"unit {unit!r}; expected one of {', '.join(UNITS)}; "
            "'norm' counts in multiples of the stream's mean norm"
        )


def require_same_model(one: str | None, other: str | None) -> None:
    """Raises DirectionError if the hashes of two models are known and differ."""
    if one is not None and other is not None and one != other:
        raise DirectionError(
            f"directions of models with weights {one[:12]} and {other[:12]}; expected both of one "
            "model, since no basis is shared; make both there, or say for_model(lm) of the other"
        )


def save_directions(path: Path, directions: Mapping[str, Direction]) -> None:
    """Write directions to one safetensors file: a tensor each, everything else in its header."""
    from safetensors.torch import save

    tensors = {name: directions[name].vector.cpu().contiguous() for name in sorted(directions)}
    facts = {name: _facts(directions[name]) for name in sorted(directions)}
    # One key only: safetensors writes several metadata keys in an order that differs between runs.
    header = {_HEADER: json.dumps(facts, sort_keys=True, ensure_ascii=False)}
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.partial")
    try:
        scratch.write_bytes(save(tensors, metadata=header))
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def load_directions(path: Path) -> dict[str, Direction]:
    """Directions by their names, as `save_directions` wrote them.

    Raises:
        DirectionError: there is no such file, or it was not written by `save_directions`.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise DirectionError(
            f"no file at {path}; expected directions; run `tiller run --to directions`"
        )
    try:
        with safe_open(path, framework="pt") as file:
            facts: dict[str, dict[str, Any]] = json.loads((file.metadata() or {})[_HEADER])
            return {
                name: Direction(vector=file.get_tensor(name), **known)
                for name, known in sorted(facts.items())
            }
    except (SafetensorError, KeyError, json.JSONDecodeError, TypeError) as error:
        raise DirectionError(
            f"{path} does not read as directions ({error}); expected a file of save_directions; "
            "run `tiller run --to directions` again"
        ) from error


def _facts(direction: Direction) -> dict[str, Any]:
    named = [f.name for f in fields(direction) if f.name != "vector"]
    return {name: getattr(direction, name) for name in named} | {
        "provenance": dict(direction.provenance)
    }


def _require_finite(vector: Tensor) -> None:
    bad = int((~torch.isfinite(vector)).sum())
    if bad:
        raise DirectionError(
            f"{bad} of {vector.numel()} numbers are NaN or infinite; expected finite numbers; "
            "look at the activations that it was made of"
        )


def _require_positive(name: str, value: float | None) -> None:
    if value is not None and not (math.isfinite(value) and value > 0):
        raise DirectionError(
            f"{name} is {value}; expected a positive number; leave it out where it is not known"
        )
