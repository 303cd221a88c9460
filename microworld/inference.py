"""From the slots of a derivation to the posterior of every attribute.

Given a derivation and a plan the hidden attributes are independent, but for the two scenes of a
story, which are summed jointly; over derivations and plans the posterior is a mixture.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from microworld.concepts import ATTRIBUTES
from microworld.parse import Derivation, Log, Sentence
from microworld.world import hiddens, plans, second_prior

__all__ = ["NONE", "Mass", "masses_of", "mixture", "total_of"]

NONE = "none"
"""The value of an attribute that a text does not have (a story's `reply`, say)."""


@dataclass(frozen=True, slots=True)
class Mass:
    """One (derivation, group of plans) with its weight and its posteriors."""

    log_weight: float
    plan: int
    hidden: Mapping[str, Log]
    both: Log | None
    """P(scene, second scene), for stories."""
    halves: frozenset[int]


@cache
def _log_prior(plan: int, name: str) -> Log:
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(np.array(plans()[plan].priors[name])))


@cache
def _log_scenes(plan: int) -> Log:
    """log P(scene, second scene)."""
    second = np.array([second_prior(n) for n in range(len(hiddens()["scene"].values))])
    with np.errstate(divide="ignore"):
        return np.asarray(_log_prior(plan, "scene")[:, None] + np.log(second))


@cache
def _shows(name: str, attribute: str) -> Log:
    """0/1 matrix: hidden value (row) reveals public value (column, in ATTRIBUTES' order)."""
    rows = [
        [float(seen.get(attribute) == value) for value in ATTRIBUTES[attribute]]
        for seen in hiddens()[name].reveals
    ]
    return np.array(rows)


def _evidence(
    sentences: Iterable[Sentence], start: int, smooth: bool
) -> tuple[float, dict[str, Log]]:
    """(log-weight of what no attribute governs, summed log-likelihoods by hidden attribute)."""
    scalar, sums = 0.0, dict[str, Log]()
    for sentence in sentences:
        if sentence.start >= start:
            scalar += sentence.log_weight
        for found in sentence.slots:
            if found.start < start:
                continue
            scalar += found.filling.scalar
            for name, exact, smoothed in found.filling.factors:
                value = smoothed if smooth else exact
                sums[name] = sums[name] + value if name in sums else value
    return scalar, sums


def _normalised(logs: Log) -> tuple[float, Log]:
    """(log of the sum, shares); shares are 0 where the sum is 0."""
    top = float(logs.max())
    if top == -math.inf:
        return top, np.zeros_like(logs)
    shares = np.exp(logs - top)
    total = float(shares.sum())
    return top + math.log(total), shares / total


def masses_of(found: Sequence[Derivation], start: int, smooth: bool) -> list[Mass]:
    """One mass for each derivation and plan, from the slots that begin at `start` or later."""
    masses = []
    for derivation in found:
        scalar, sums = _evidence(derivation.sentences, start, smooth)
        halves = frozenset(s.half for s in derivation.sentences if s.end > start) or frozenset((0,))
        solved: dict[int, tuple[float, dict[str, Log], Log | None]] = {}
        for plan in derivation.plans:
            key = id(plans()[plan].priors)
            if key not in solved:
                solved[key] = _solve(plan, sums)
            total, hidden, both = solved[key]
            if derivation.plan_logs is not None:
                total = _beyond_prior(plan, sums) + float(derivation.plan_logs[plan])
            weight = scalar + total + math.log(plans()[plan].weight)
            masses.append(Mass(weight, plan, hidden, both, halves))
    return masses


def _solve(plan: int, sums: Mapping[str, Log]) -> tuple[float, dict[str, Log], Log | None]:
    """(log of the evidence, posterior of each hidden attribute, of both scenes together)."""
    total, hidden, both = 0.0, dict[str, Log](), None
    for name in plans()[plan].priors:
        logs = _log_prior(plan, name)
        if name == "scene" and "scene2" in sums:
            joint = _log_scenes(plan) + sums["scene2"][None, :]
            part, both = _normalised(joint + sums["scene"][:, None] if "scene" in sums else joint)
            hidden["scene"], hidden["scene2"] = both.sum(1), both.sum(0)
        else:
            part, hidden[name] = _normalised(logs + sums[name] if name in sums else logs)
        total += part
    if both is None and "scene" in hidden:
        second = np.exp(_log_scenes(plan) - _log_prior(plan, "scene")[:, None])
        both = hidden["scene"][:, None] * second
        hidden["scene2"] = both.sum(0)
    return total, hidden, both


def _beyond_prior(plan: int, sums: Mapping[str, Log]) -> float:
    """How much better a plan's own priors explain the slots than the priors over all plans."""
    total = 0.0
    for name, prior in plans()[plan].priors.items():
        if name in sums and prior != hiddens()[name].prior:
            overall = np.log(np.array(hiddens()[name].prior)) + sums[name]
            total += _normalised(_log_prior(plan, name) + sums[name])[0] - _normalised(overall)[0]
    return total


def _public(mass: Mass) -> dict[str, Log]:
    """Attribute -> probabilities of its values under one mass; absent attributes are left out."""
    plan = plans()[mass.plan]
    shown: dict[str, Log] = {}
    for attribute, value in {"kind": plan.kind, **plan.fixed}.items():
        shown[attribute] = np.array([float(value == known) for known in ATTRIBUTES[attribute]])
    for name, chances in mass.hidden.items():
        if name in ("scene", "scene2"):
            continue
        for attribute in hiddens()[name].reveals[0]:
            shown[attribute] = chances @ _shows(name, attribute)
    if mass.both is not None:
        for attribute in ("topic", "subtopic"):
            halves = [mass.hidden["scene2" if half else "scene"] for half in sorted(mass.halves)]
            shown[attribute] = np.mean(halves, axis=0) @ _shows("scene", attribute)
    return shown


def _somewhere(mass: Mass, attribute: str, once: Log) -> Log:
    if mass.both is None or len(mass.halves) < 2:
        return once
    shows = _shows("scene", attribute)
    twice = np.einsum("st,sv,tv->v", mass.both, shows, shows)
    return np.asarray(2 * once - twice)


def mixture(
    masses: Sequence[Mass],
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """(attribute -> value -> probability; the same for "governs at least one judged half")."""
    total, weights = _normalised(np.array([mass.log_weight for mass in masses]))
    assert total > -math.inf
    sums = {attribute: np.zeros(len(values)) for attribute, values in ATTRIBUTES.items()}
    anywhere = {attribute: sums[attribute].copy() for attribute in ("topic", "subtopic")}
    merged: dict[tuple[int, int, frozenset[int]], tuple[float, Mass]] = {}
    for mass, weight in zip(masses, weights, strict=True):
        fixed = plans()[mass.plan].fixed
        key = (id(mass.hidden), id(fixed) if fixed else 0, mass.halves)
        merged[key] = (merged[key][0] + weight if key in merged else float(weight), mass)
    for weight, mass in merged.values():
        for attribute, chances in _public(mass).items():
            sums[attribute] += weight * chances
            if attribute in anywhere:
                anywhere[attribute] += weight * _somewhere(mass, attribute, chances)
    return (
        {
            attribute: {
                **dict(zip(ATTRIBUTES[attribute], map(float, shares), strict=True)),
                NONE: max(0.0, 1.0 - float(shares.sum())),
            }
            for attribute, shares in sums.items()
        },
        {
            attribute: dict(zip(ATTRIBUTES[attribute], map(float, shares), strict=True))
            for attribute, shares in anywhere.items()
        },
    )


def total_of(masses: Sequence[Mass]) -> float:
    """log of the masses' sum; -inf for none."""
    if not masses:
        return -math.inf
    return _normalised(np.array([mass.log_weight for mass in masses]))[0]
