"""The evaluation in a few numbers: per budget and method, causal against label, aims and reach.

Means are over concepts and prompts alike (a unit is one concept's prompt), intervals over the
same units. Numbers that are not defined are null, never 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np

from pipelines.trial.arms import METHODS, PROMPT, UNSTEERED
from pipelines.trial.cells import CONTROL, PER_PROMPT, Cell, Resampling, pooled, reliability_rows
from steering.intervals import (
    Interval,
    interval,
    paired_interval,
    paired_permutation,
    ratio_interval,
)

REACHED: Final = 0.8
"""C from which a concept counts as reached."""
HEADLINE: Final = "dce=0.1"
"""The budget at which aims are stated."""


def summary(cells: Sequence[Cell], how: Resampling) -> dict[str, Any]:
    """What `metrics/steering.json` holds."""
    budgets = list(dict.fromkeys(one.key.budget for one in cells if one.key.budget is not None))
    concepts = sorted({one.key.concept for one in cells})
    methods = {
        budget: {
            method: _numbers(mine, how)
            for method in METHODS
            if (mine := _cells(cells, method, budget))
        }
        for budget in budgets
    }
    return {
        "concepts": concepts,
        "budgets": methods,
        "unsteered": _numbers(_cells(cells, UNSTEERED, None), how),
        "prompt": _numbers(_cells(cells, PROMPT, None), how),
        "causal_against_label": {b: _against(cells, "causal", "label", b, how) for b in budgets},
        "causal_against_diff_mean": {
            b: _against(cells, "causal", "diff_mean", b, how) for b in budgets
        },
        "causal3_against_diff_mean": {
            b: _against(cells, "causal3", "diff_mean", b, how) for b in budgets
        },
        "reliability": _reliability(cells, how),
        "aims": _aims(cells, how) if HEADLINE in budgets else {},
    }


def frontier_summary(cells: Sequence[Cell], how: Resampling) -> list[dict[str, Any]]:
    """Rows of the frontier plot: mean HM over concepts at each budget."""
    rows = []
    for budget in dict.fromkeys(one.key.budget for one in cells if one.key.budget is not None):
        for method in METHODS:
            mine = _cells(cells, method, budget)
            if mine:
                found = _numbers(mine, how)
                rows.append(
                    {
                        "method": method,
                        "budget": float(str(budget).partition("=")[2]),
                        "value": found["hm"],
                        "lo": found["hm_lo"],
                        "hi": found["hm_hi"],
                        **{name: found[name] for name in ("concept", "preservation", "fluency")},
                        "delta_ce": found["delta_ce"],
                    }
                )
    return rows


def dose_rows(cells: Sequence[Cell], how: Resampling) -> list[dict[str, Any]]:
    """Rows of the dose-response plot: mean C over concepts at each coefficient."""
    curve = [one for one in cells if one.key.budget is None and one.key.coefficient is not None]
    rows = []
    for method in METHODS:
        for dose in sorted({one.key.coefficient or 0.0 for one in curve}):
            mine = [c for c in curve if c.key.method == method and c.key.coefficient == dose]
            if mine:
                found = _numbers(mine, how)
                rows.append(
                    {
                        "method": method,
                        "coefficient": round(dose, 6),
                        "value": found["concept"],
                        "lo": found["concept_lo"],
                        "hi": found["concept_hi"],
                        **{name: found[name] for name in ("preservation", "fluency", "hm")},
                    }
                )
    return rows


def _cells(cells: Iterable[Cell], method: str, budget: str | None) -> list[Cell]:
    return [
        one
        for one in cells
        if one.key.method == method
        and one.key.budget == budget
        and (budget is not None or one.key.coefficient is None)
    ]


def _numbers(cells: Sequence[Cell], how: Resampling) -> dict[str, Any]:
    """Means over concepts, C and HM with intervals, the mean tax, the share of concepts reached."""
    if not cells:
        return {}
    found: dict[str, Any] = {"n_concepts": len(cells)}
    for metric in PER_PROMPT:
        one = interval(pooled(cells, metric), draws=how.draws, seed=how.seed)
        found[metric] = _known(one.value)
        if metric in ("hm", "concept"):
            found |= {f"{metric}_lo": _known(one.lo), f"{metric}_hi": _known(one.hi)}
    reached = [float(np.nanmean(one.per_prompt["concept"])) >= REACHED for one in cells]
    found["share_c80"] = _known(float(np.mean(reached)))
    for metric in (
        "delta_ce",
        "kl_mean",
        "kl_p95",
        "agreement",
        "off_target_mean",
        "off_target_max",
    ):
        values = [one.single[metric] for one in cells if metric in one.single]
        found[metric] = _known(float(np.mean(values))) if values else None
    return found


def _against(
    cells: Sequence[Cell], ours: str, theirs: str, budget: str, how: Resampling
) -> dict[str, Any]:
    """One method less another at a budget, on the concepts that both reached it for."""
    pairs = _paired(cells, (ours, theirs, CONTROL), budget)
    if not pairs:
        return {}
    found: dict[str, Any] = {"n_concepts": len(pairs)}
    columns = list(zip(*pairs, strict=True))
    for metric in ("hm", "concept"):
        mine, other = (pooled(column, metric) for column in columns[:2])
        difference = paired_interval(mine, other, draws=how.draws, seed=how.seed)
        found[metric] = _triple(difference)
        found[f"{metric}_p"] = paired_permutation(
            mine, other, draws=how.permutations, seed=how.seed
        )
    lifts = [pooled(column, "concept") for column in columns]
    found["lift_ratio"] = _triple(
        ratio_interval(lifts[0] - lifts[2], lifts[1] - lifts[2], draws=how.draws, seed=how.seed)
    )
    better = [
        float(np.nanmean(a.per_prompt["hm"]) - np.nanmean(b.per_prompt["hm"])) for a, b, _ in pairs
    ]
    found["concepts_better"] = sum(one > 0 for one in better)
    found["concepts_equal"] = sum(one == 0 for one in better)
    return found


def _paired(cells: Sequence[Cell], methods: tuple[str, ...], budget: str) -> list[tuple[Cell, ...]]:
    by_concept = [{one.key.concept: one for one in _cells(cells, m, budget)} for m in methods]
    shared = sorted(set.intersection(*(set(found) for found in by_concept)))
    return [tuple(found[concept] for found in by_concept) for concept in shared]


def _reliability(cells: Sequence[Cell], how: Resampling) -> dict[str, Any]:
    """Mean over concepts of the rank correlation and of the anti-steerable share, by method."""
    found: dict[str, dict[str, list[float]]] = {}
    budgeted = [one for one in cells if one.key.budget is not None]
    for row in reliability_rows(budgeted, cells, how):
        method = str(row["direction_id"]).rpartition("/")[2]
        found.setdefault(method, {}).setdefault(row["metric"], []).append(row["value"])
    return {
        method: {metric: _known(float(np.mean(values))) for metric, values in measures.items()}
        for method, measures in found.items()
    }


def _aims(cells: Sequence[Cell], how: Resampling) -> dict[str, Any]:
    """The aims of docs/methods/evaluation.md with what `causal` reached at the headline budget."""
    mine, null = _cells(cells, "causal", HEADLINE), _cells(cells, CONTROL, HEADLINE)
    if not mine or not null:
        return {}
    ours, chance = _numbers(mine, how), _numbers(null, how)
    over = {"ours": ours["lift"], "random_feature": chance["lift"]}
    # Against a control that lifts nothing a ratio is not defined; both lifts say it then.
    ratio = _ratio_of_lifts(mine, null, how)
    medians = [float(np.nanmean(one.per_prompt["hm"])) for one in mine]
    moved = [one.single["off_target_mean"] for one in mine]
    against = _against(cells, "causal", "label", HEADLINE, how)
    reliable = _reliability(cells, how).get("causal", {})
    return {
        "share_of_concepts_with_c_80": {"aim": 0.8, "value": ours["share_c80"]},
        "median_hm": {"aim": 0.7, "value": _known(float(np.median(medians)))},
        "lift_over_random_feature": {"aim": 5.0, **ratio, **over},
        "causal_over_label_lift": {"aim": 1.5, **against.get("lift_ratio", {"value": None})},
        "median_off_target": {"aim": 0.05, "value": _known(float(np.median(moved)))},
        "anti_steerable": {"aim": 0.05, "value": reliable.get("anti_steerable")},
    }


def _ratio_of_lifts(
    ours: Sequence[Cell], theirs: Sequence[Cell], how: Resampling
) -> dict[str, float | None]:
    """How many times the lift of one method another's is, over the concepts of both."""
    other = {one.key.concept: one for one in theirs}
    mine = [one for one in ours if one.key.concept in other]
    lifts = pooled(mine, "lift"), pooled([other[one.key.concept] for one in mine], "lift")
    return _triple(ratio_interval(*lifts, draws=how.draws, seed=how.seed))


def _triple(one: Interval) -> dict[str, float | None]:
    return {"value": _known(one.value), "lo": _known(one.lo), "hi": _known(one.hi)}


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
