"""The evaluation's table in memory: one cell a (concept, method, dose), one number a prompt.

Turns judged texts into cells, and cells into rows with intervals, tests and nulls. Knows neither
models nor files.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import Bool, Float

from pipelines.trial.arms import UNSTEERED
from pipelines.trial.scoring import Baseline, Scores, Texts
from steering.evaluate import off_target, reliability
from steering.intervals import Interval, holm, interval, paired_permutation, prompt_means

if TYPE_CHECKING:
    from steering.tax import Tax

CONTROL: Final = "random_feature"
"""Whose scores are the null of every other method."""
PER_PROMPT: Final = ("concept", "preservation", "fluency", "hm", "lift")
FRONTIER: Final = ("hm", "concept", "preservation", "fluency", "delta_ce")
TAXES: Final = ("delta_ce", "kl_mean", "kl_p95", "agreement")


@dataclass(frozen=True, slots=True)
class Key:
    """Which dose of which method on which concept."""

    concept: str
    method: str
    budget: str | None
    """None for a coefficient of the dose-response, and for rows without a direction."""
    coefficient: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """What a dose did to each test prompt, and what it cost."""

    key: Key
    per_prompt: Mapping[str, Float[np.ndarray, " prompt"]]
    """Metric -> mean over the prompt's samples; the prompts in ascending order of id."""
    single: Mapping[str, float] = field(default_factory=dict)
    """Metrics that have one value a dose: off-target and tax."""


@dataclass(frozen=True, slots=True)
class Resampling:
    """How intervals and tests draw."""

    draws: int
    permutations: int
    seed: int


def cell(
    key: Key,
    texts: Texts,
    scores: Scores,
    base: Baseline,
    *,
    others: Bool[np.ndarray, " column"],
    target: int,
) -> Cell:
    """The cell of some scored texts.

    Args:
        others: columns that nobody asked to change.
        target: the concept's own column.
    """
    place = np.searchsorted(base.prompt_ids, texts.prompt_ids)
    lift = scores.concept - base.unsteered[place, target]
    rows = {
        "concept": scores.concept,
        "preservation": scores.preservation,
        "fluency": scores.fluency,
        "hm": scores.hm,
        "lift": lift,
    }
    moved = off_target(scores.judged[:, others], base.unsteered[place][:, others])
    return Cell(
        key,
        {name: prompt_means(values, texts.prompt_ids)[1] for name, values in rows.items()},
        {"off_target_max": moved.largest, "off_target_mean": moved.mean},
    )


def with_tax(one: Cell, tax: Tax) -> Cell:
    """The cell with what its dose costs on held-out text."""
    cost = {name: float(getattr(tax, name)) for name in TAXES}
    return Cell(one.key, one.per_prompt, {**one.single, **cost})


def intervals_of(
    one: Cell, how: Resampling, names: Iterable[str] = PER_PROMPT
) -> dict[str, Interval]:
    """Every metric of a cell with its interval; a metric with one value has no interval."""
    found = {name: interval(one.per_prompt[name], draws=how.draws, seed=how.seed) for name in names}
    n = len(next(iter(one.per_prompt.values())))
    return found | {
        name: Interval(value, math.nan, math.nan, n) for name, value in one.single.items()
    }


def holm_of_lifts(cells: Sequence[Cell], how: Resampling) -> dict[Key, float]:
    """Holm-adjusted p of each lift against the concept's random feature at the same budget.

    A family is everything tested at one budget: all concepts by all methods.
    """
    null = {(one.key.concept, one.key.budget): one for one in cells if one.key.method == CONTROL}
    found: dict[Key, float] = {}
    for budget in dict.fromkeys(one.key.budget for one in cells):
        tested = [
            one
            for one in cells
            if one.key.budget == budget
            and one.key.method not in (CONTROL, UNSTEERED)
            and (one.key.concept, budget) in null
        ]
        p_values = [
            paired_permutation(
                one.per_prompt["lift"],
                null[one.key.concept, budget].per_prompt["lift"],
                draws=how.permutations,
                seed=how.seed,
            )
            for one in tested
        ]
        found |= {one.key: p for one, p in zip(tested, holm(p_values), strict=True)}
    return found


def score_rows(cells: Sequence[Cell], how: Resampling) -> list[dict[str, Any]]:
    """Rows of `steer_score`: every metric of every cell, with the null beside it."""
    budgeted = [one for one in cells if one.key.budget is not None]
    p_holm = holm_of_lifts(budgeted, how)
    measured = {one.key: intervals_of(one, how) for one in cells}
    null = {
        (key.concept, key.budget): found
        for key, found in measured.items()
        if key.method == CONTROL and key.budget is not None
    }
    rows = []
    for key, found in measured.items():
        tests = {"p_holm": p_holm[key]} if key in p_holm else {}
        beside = null.get((key.concept, key.budget), {}) if key.budget is not None else {}
        for metric, value in {**found, **_as_intervals(tests, found)}.items():
            rows.append(_row(key, metric, value, beside.get(metric), how.seed))
    return rows + reliability_rows(budgeted, cells, how)


def reliability_rows(
    budgeted: Sequence[Cell], cells: Sequence[Cell], how: Resampling
) -> list[dict[str, Any]]:
    """Spearman and the share of anti-steerable prompts of each method over its budgets."""
    rest = {one.key.concept: one for one in cells if one.key.method == UNSTEERED}
    rows = []
    for concept, method in dict.fromkeys((c.key.concept, c.key.method) for c in budgeted):
        mine = [c for c in budgeted if (c.key.concept, c.key.method) == (concept, method)]
        doses = np.array([0.0, *(one.key.coefficient or 0.0 for one in mine)])
        if concept not in rest or len(np.unique(doses)) < 2:
            continue
        response = np.stack([one.per_prompt["concept"] for one in (rest[concept], *mine)], axis=1)
        found = reliability(doses, response)
        for metric in ("spearman", "anti_steerable"):
            value = Interval(getattr(found, metric), math.nan, math.nan, found.n)
            rows.append(_row(Key(concept, method, None, None), metric, value, None, how.seed))
    return rows


def frontier_rows(cells: Sequence[Cell], how: Resampling) -> list[dict[str, Any]]:
    """Rows of `frontier`: what each budget buys, by method."""
    rows = []
    for one in cells:
        if one.key.budget is None:
            continue
        found = intervals_of(one, how)
        rows += [
            {
                "direction_id": f"{one.key.concept}/{one.key.method}",
                "source": one.key.method,
                "concept": one.key.concept,
                "budget": one.key.budget,
                "coefficient": one.key.coefficient,
                "unit": "norm",
                "metric": metric,
                "value": found[metric].value,
                "lo": found[metric].lo,
                "hi": found[metric].hi,
            }
            for metric in FRONTIER
            if metric in found
        ]
    return rows


def pooled(cells: Iterable[Cell], metric: str) -> Float[np.ndarray, " unit"]:
    """One metric of several concepts' cells as one column: a unit is a concept's prompt."""
    columns = [one.per_prompt[metric] for one in cells]
    return np.concatenate(columns) if columns else np.zeros(0)


def _as_intervals(tests: Mapping[str, float], found: Mapping[str, Interval]) -> dict[str, Interval]:
    n = found["lift"].n
    return {name: Interval(value, math.nan, math.nan, n) for name, value in tests.items()}


def _row(
    key: Key, metric: str, value: Interval, null: Interval | None, seed: int
) -> dict[str, Any]:
    return {
        "direction_id": f"{key.concept}/{key.method}",
        "prompt_set": "test",
        "budget": key.budget,
        "coefficient": key.coefficient,
        "unit": None if key.coefficient is None else "norm",
        "metric": metric,
        "value": value.value,
        "lo": value.lo,
        "hi": value.hi,
        "null_value": None if null is None else null.value,
        "n": value.n,
        "seed": seed,
    }
