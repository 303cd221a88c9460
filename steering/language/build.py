"""A program to interventions: names become targets, budgets coefficients, texts token ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Protocol, assert_never, runtime_checkable

import torch

from steering.direction import Direction, length_in, require_same_model
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
from steering.language.syntax import (
    Amount,
    Bound,
    Budget,
    Condition,
    Every,
    Exceeds,
    Group,
    Hold,
    Keep,
    Multiply,
    No,
    Off,
    Program,
    Push,
    Said,
    Some,
    Statement,
    Swap,
    Turn,
    Where,
    Without,
)
from steering.positions import Positions, Tokens
from steering.target import Target

Solve = Callable[[Add, Budget], float]
"""The coefficient, in the stream's units, at which this kind of push costs a budget."""


@runtime_checkable
class Names(Protocol):
    """Who knows what a name stands for."""

    def direction(self, name: str) -> Direction:
        """The direction that is written by what has this name."""

    def reading(self, name: str) -> Target:
        """What has this name, as something that can be read: a latent, or a direction."""


@dataclass(frozen=True, slots=True)
class Builder:
    """What a program needs to become interventions."""

    names: Names
    ids_of: Callable[[str], Sequence[int]] | None = None
    """The tokens of a text, without special ones; needed by `@tokens('...')`."""
    solve: Solve | None = None
    """Needed by budgets."""
    _gates: dict[Condition, Gate] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def build(self, program: Program) -> list[Intervention]:
        """The program's interventions, in its order.

        Raises:
            SteeringError: a name, a unit or a place is not known, or needs what was not given.
        """
        return list(self.named(program).values())

    def named(self, program: Program) -> dict[str, Intervention]:
        """The same, each by what it acts on; a number tells those of one name apart."""
        made: dict[str, Intervention] = {}
        for part in program:
            if isinstance(part, Statement):
                _put(made, _name_of(part.target), self._built(part))
        points = dict.fromkeys(place_of(edit) for edit in made.values())
        kept = [part for part in program if isinstance(part, Keep)]
        if kept and not made:
            raise LanguageError(
                "keep norm alone; expected a statement whose change it bounds; add one"
            )
        for keep in kept:
            for point in points:
                _put(made, f"keep norm at {point}", self._norm(keep, point))
        return made

    def part(self, part: Statement | Keep, hook_point: str) -> Intervention:
        """What one part says; a kept norm is kept at this hook point.

        Raises:
            SteeringError: as `build`.
        """
        return self._norm(part, hook_point) if isinstance(part, Keep) else self._built(part)

    def _built(self, part: Statement) -> Intervention:  # noqa: PLR0911  (one return a variant)
        where, schedule = self._where(part.where), part.schedule
        when = None if part.when is None else self._gate(part.when)
        match part.does:
            case Push(by):
                one = Add(self._direction(part.target), 1.0, "raw", where, schedule, when)
                if isinstance(by, Amount):
                    return replace(one, coefficient=by.number, unit=by.unit)
                return replace(one, coefficient=self._solver()(one, by))
            case Hold(bound, at):
                kind: type[Set | Floor | Cap] = _HOLDS[bound]
                return kind(self._target(part.target), at.number, at.unit, where, schedule, when)
            case Multiply(factor):
                return Scale(self._target(part.target), factor, where, schedule, when)
            case Off(to):
                target = self._target(part.target)
                to_raw = None if to is None else _raw(target, to)
                return Ablate(target, to_raw, where, schedule, when)
            case Without():
                return ProjectOut(self._direction(part.target), where, schedule, when)
            case Turn(towards, degrees):
                pair = self._direction(part.target), self._direction(towards)
                return Rotate(*pair, degrees, where, schedule, when)
            case Swap(by, factor):
                pair_of = self._target(part.target), self._target(by)
                return Replace(*pair_of, factor, where, schedule, when)
            case _:
                assert_never(part.does)

    def _norm(self, keep: Keep, hook_point: str) -> KeepNorm:
        when = None if keep.when is None else self._gate(keep.when)
        return KeepNorm(hook_point, keep.at_most, self._where(keep.where), when)

    def _gate(self, condition: Condition) -> Gate:
        """One gate for one condition: what says the same is asked once, and `~` of it excludes."""
        if condition not in self._gates:
            self._gates[condition] = self._new_gate(condition)
        return self._gates[condition]

    def _new_gate(self, condition: Condition) -> Gate:
        match condition:
            case Exceeds(target, amount, over):
                return Above(self._target(target), amount.number, amount.unit, over)
            case No(inner):
                return Not(self._gate(inner))
            case Every(parts):
                return AllOf(tuple(self._gate(part) for part in parts))
            case Some(parts):
                return AnyOf(tuple(self._gate(part) for part in parts))
            case _:
                assert_never(condition)

    def _target(self, group: Group) -> Target:
        if len(group) == 1 and group[0].weight == 1:
            return self.names.reading(group[0].name)
        return self._direction(group)

    def _direction(self, group: Group) -> Direction:
        """One direction, or the sum of several unit vectors by their weights."""
        found = [self.names.direction(term.name) for term in group]
        if len(group) == 1 and group[0].weight == 1:
            return found[0]
        places = {(one.hook_point, one.d_model) for one in found}
        if len(places) > 1:
            raise DirectionError(
                f"a group of {', '.join(term.name for term in group)} at {sorted(places)}; "
                "expected targets of one hook point; steer each by itself"
            )
        first = found[0]
        for one, other in pairwise([one for one in found if one.model_sha is not None]):
            require_same_model(one.model_sha, other.model_sha)
        weights = torch.tensor([term.weight for term in group], dtype=torch.float64)
        total = weights @ torch.stack([one.vector.double() for one in found])
        return Direction.from_vector(
            total,
            first.hook_point,
            mean_norm=first.mean_norm,
            source=_name_of(group),
            model_sha=next((one.model_sha for one in found if one.model_sha is not None), None),
        )

    def _where(self, where: Where) -> Positions:
        if not isinstance(where, Said):
            return where
        if self.ids_of is None:
            raise LanguageError(
                f"@tokens({where.text!r}) without a tokenizer; expected one to cut the text; give "
                "ids_of, or the token ids themselves"
            )
        return Tokens(tuple(dict.fromkeys(self.ids_of(where.text))))

    def _solver(self) -> Solve:
        if self.solve is None:
            raise LanguageError(
                "a budget without held-out text to solve it on; expected `solve`; give one, or a "
                "coefficient in norm, max_act or raw"
            )
        return self.solve


_HOLDS: dict[Bound, type[Set | Floor | Cap]] = {"set": Set, "min": Floor, "max": Cap}


def _raw(target: Target, amount: Amount) -> float:
    return length_in(amount.number, amount.unit, mean_norm=target.mean_norm, max_act=target.max_act)


def _name_of(group: Group) -> str:
    if len(group) == 1 and group[0].weight == 1:
        return group[0].name
    return "(" + " + ".join(f"{term.weight:g}*{term.name}" for term in group) + ")"


def _put(made: dict[str, Intervention], name: str, edit: Intervention) -> None:
    """Under its name, or under that and a number where the name is taken."""
    number = 1 + sum(known == name or known.startswith(f"{name} #") for known in made)
    made[name if number == 1 else f"{name} #{number}"] = edit
