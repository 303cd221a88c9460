"""Interventions as the statements that say them: the way back from `build`.

Every edit becomes one statement; what it reads and writes gets a name, so that the words can
leave as text and the vectors beside them. Built again, they are the same edits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import assert_never

import torch
from torch import Tensor

from lm.model import LanguageModel
from steering.direction import Direction
from steering.errors import DirectionError, LanguageError
from steering.gate import Above, AllOf, AnyOf, Gate, Not
from steering.intervention import (
    Ablate,
    Add,
    Cap,
    Floor,
    Intervention,
    KeepNorm,
    ProjectOut,
    Replace,
    Rotate,
    Scale,
    Set,
    place_of,
)
from steering.intervention import Edit as Moving
from steering.language.build import Builder
from steering.language.syntax import (
    Amount,
    Condition,
    Every,
    Exceeds,
    Group,
    Hold,
    Keep,
    Multiply,
    No,
    Off,
    Operation,
    Program,
    Push,
    Some,
    Statement,
    Swap,
    Term,
    Turn,
    Without,
)
from steering.target import Latent, Target


@dataclass(frozen=True, slots=True)
class Line:
    """What one edit says, and where it acts."""

    says: Statement | Keep
    at: str
    """Hook point."""


@dataclass(frozen=True, slots=True)
class Spoken:
    """Edits in words, by their names and in their order, and what the words name."""

    lines: Mapping[str, Line]
    targets: Mapping[str, Target]

    @property
    def program(self) -> Program:
        """The statements alone."""
        return tuple(line.says for line in self.lines.values())

    def for_model(self, lm: LanguageModel) -> Spoken:
        """The same words of the same targets, all said to belong to this model."""
        return replace(self, targets={n: one.for_model(lm) for n, one in self.targets.items()})

    def built(self) -> dict[str, Intervention]:
        """The edits.

        Raises:
            LanguageError: a statement names what there is no target of, needs what only a
                workspace has, or acts elsewhere than it says.
            SteeringError: an edit cannot be.
        """
        builder = Builder(self)
        made = {name: builder.part(line.says, line.at) for name, line in self.lines.items()}
        for name, line in self.lines.items():
            if place_of(made[name]) != line.at:
                raise LanguageError(
                    f"{name} acts at {place_of(made[name])} and is said to act at {line.at}; "
                    "expected one place; correct it"
                )
        return made

    def direction(self, name: str) -> Direction:
        """What has this name, to be written along."""
        found = self.reading(name)
        if not isinstance(found, Direction):
            raise DirectionError(
                f"{name!r} is a latent; expected a direction to push, turn or project out; name one"
            )
        return found

    def reading(self, name: str) -> Target:
        """What has this name."""
        if name not in self.targets:
            known = ", ".join(sorted(self.targets)) or "none"
            raise LanguageError(
                f"{name!r} names nothing here; expected one of {known}; correct the name"
            )
        return self.targets[name]


def spoken(edits: Mapping[str, Intervention]) -> Spoken:
    """The words and targets of some edits.

    What an edit acts on goes by the edit's name, anything else by its concept or its source; a
    number tells apart what would be called alike. Adding a latent is said as adding its decoder
    row, which it is.
    """
    named = _Named()
    lines = {name: Line(_said(edit, name, named), place_of(edit)) for name, edit in edits.items()}
    return Spoken(lines, named.targets)


class _Named:
    """Targets by the names that they are given as they are met; equal ones share a name."""

    def __init__(self) -> None:
        self.targets: dict[str, Target] = {}

    def group(self, target: Target, name: str | None = None) -> Group:
        known = next((n for n, held in self.targets.items() if _is_same(held, target)), None)
        return (Term(self._new(target, name or _called(target)) if known is None else known),)

    def _new(self, target: Target, base: str) -> str:
        name, number = base, 1
        while name in self.targets:
            number += 1
            name = f"{base} {number}"
        self.targets[name] = target
        return name


def _called(target: Target) -> str:
    run_id, feature_id = (target.provenance.get(key) for key in ("run_id", "feature_id"))
    by_number = None if feature_id is None or run_id is None else f"{run_id}/{feature_id}"
    return target.concept or by_number or target.source or "target"


def _said(edit: Intervention, name: str, named: _Named) -> Statement | Keep:
    when = None if edit.when is None else _condition(edit.when, named)
    if isinstance(edit, KeepNorm):
        return Keep(edit.at_most, edit.positions, when)
    is_push_of_latent = isinstance(edit, Add) and isinstance(edit.target, Latent)
    target = _written(edit.target) if is_push_of_latent else edit.target
    own = named.group(target, name)
    return Statement(own, _operation(edit, named), edit.positions, edit.schedule, when)


def _operation(edit: Moving, named: _Named) -> Operation:
    does: Operation
    match edit:
        case Add(_, coefficient, unit):
            does = Push(Amount(coefficient, unit))
        case Set(_, value, unit):
            does = Hold("set", Amount(value, unit))
        case Cap(_, value, unit):
            does = Hold("max", Amount(value, unit))
        case Floor(_, value, unit):
            does = Hold("min", Amount(value, unit))
        case Scale(_, factor):
            does = Multiply(factor)
        case Ablate(_, reference):
            does = Off(None if reference is None else Amount(reference, "raw"))
        case ProjectOut():
            does = Without()
        case Replace(_, by, factor):
            does = Swap(named.group(by), factor)
        case Rotate(_, towards, degrees):
            does = Turn(named.group(towards), degrees)
        case _:
            assert_never(edit)
    return does


def _condition(gate: Gate, named: _Named) -> Condition:
    match gate:
        case Above(target, value, unit, over):
            return Exceeds(named.group(target), Amount(value, unit), over)
        case Not(inner):
            return No(_condition(inner, named))
        case AllOf(gates):
            return Every(tuple(_condition(part, named) for part in gates))
        case AnyOf(gates):
            return Some(tuple(_condition(part, named) for part in gates))
        case _:
            assert_never(gate)


def _written(latent: Target) -> Direction:
    """A latent's decoder row with all that is known of it."""
    assert isinstance(latent, Latent)
    return Direction(
        vector=latent.writer,
        hook_point=latent.hook_point,
        mean_norm=latent.mean_norm,
        max_act=latent.max_act,
        source=latent.source,
        concept=latent.concept,
        provenance=latent.provenance,
        model_sha=latent.model_sha,
    )


def _is_same(one: object, other: object) -> bool:
    """Whether two targets agree in every field."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and torch.equal(one.cpu(), other.cpu())
    if isinstance(one, Direction | Latent):
        return all(_is_same(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
    return bool(one == other)
