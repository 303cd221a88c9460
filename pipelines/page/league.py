"""The league table of the steering methods, and what it says in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.page.plots import CONTROLS

HEADLINE = "dce=0.1"
"""The budget that sentences, texts and the table's last columns are about."""
COMPARED = (
    ("causal_against_label", "the feature chosen by what it causes", "the best-reading one"),
    ("causal_against_diff_mean", "the feature chosen by what it causes", "the mean difference"),
    ("causal3_against_diff_mean", "three such features together", "the mean difference"),
)
COUNTS = ("concepts_better", "concepts_equal", "n_concepts")
AIMS = {
    "share_of_concepts_with_c_80": ("share of concepts with C ≥ .8", True),
    "median_hm": ("median HM over concepts", True),
    "lift_over_random_feature": ("lift over a random feature of equal density, ratio", True),
    "causal_over_label_lift": ("lift of choice by cause over choice by label, ratio", True),
    "median_off_target": ("median |ΔP| of other concepts", False),
    "anti_steerable": ("share of prompts that steering turns the wrong way", False),
}
"""Aim -> what it says, and whether more is better."""
SCORES = ("concept", "preservation", "fluency")

Row = Mapping[str, Any]


def league(steering: Row) -> dict[str, Any]:
    """Columns, rows and note of the table, the best method at the headline's budget first."""
    budgets: Mapping[str, Row] = steering["budgets"]
    methods = dict.fromkeys(name for found in budgets.values() for name in found)
    headline = HEADLINE if HEADLINE in budgets else next(iter(budgets), "")
    at = budgets.get(headline, {})
    rows = [
        {
            "cells": [
                name,
                *(with_interval(found.get(name, {}), "hm") for found in budgets.values()),
                *_details(at.get(name, {})),
            ],
            "control": name in CONTROLS,
        }
        for name in sorted(methods, key=lambda name: -(at.get(name, {}).get("hm") or 0.0))
    ]
    for name in ("prompt", "unsteered"):
        found = steering.get(name) or {}
        if found:
            blank = ["–"] * (len(budgets) - 1)
            cells = [name, with_interval(found, "hm"), *blank, *_details(found)]
            rows.append({"cells": cells, "control": name == "unsteered"})
    return {
        "columns": [
            "method",
            *(f"HM at {_amount(budget)}" for budget in budgets),
            *(f"{score} at {_amount(headline)}" for score in ("C", "P", "F", "ΔCE")),
        ],
        "rows": rows,
        "note": (
            "Means over concepts, with 95 % bootstrap intervals over prompts. HM is the harmonic "
            "mean of C, P and F, each 0 to 1; ΔCE is nats a token, on documents that no budget was "
            "solved on. A dash is a budget that no coefficient met, or a score that is not "
            "defined. A prompt prefix and the unsteered model have no budget: their figures stand "
            "in the first column."
        ),
    }


def findings(steering: Row) -> list[str]:
    """Choice by cause against choice by label, and against the mean difference, as sentences."""
    said = []
    for key, ours, theirs in COMPARED:
        found = (steering.get(key) or {}).get(HEADLINE) or {}
        hm = found.get("hm") or {}
        if hm.get("value") is None:
            continue
        verdict = "better" if hm["lo"] > 0 else "worse" if hm["hi"] < 0 else "not told apart"
        better, equal, n = (found[name] for name in COUNTS)
        said.append(
            f"At ΔCE {_amount(HEADLINE)}, {ours} against {theirs}: HM {hm['value']:+.3f} "
            f"[{hm['lo']:+.3f}, {hm['hi']:+.3f}], {verdict}. Of {n} concepts it is ahead on "
            f"{better}, level on {equal}, behind on {n - better - equal}."
        )
    return said


def aims(steering: Row) -> list[dict[str, str]]:
    """Each aim of the evaluation, what was reached, and whether that meets it."""
    rows = []
    for name, (title, at_least) in AIMS.items():
        found = (steering.get("aims") or {}).get(name) or {}
        value, aim = found.get("value"), found.get("aim")
        if aim is None:
            continue
        verdict = "not defined"
        if value is not None:
            verdict = "met" if (value >= aim) == at_least or value == aim else "missed"
        rows.append(
            {
                "title": title,
                "aim": f"{'≥' if at_least else '≤'} {aim:g}",
                "value": number(value, ".3f"),
                "interval": ""
                if found.get("lo") is None or found.get("hi") is None
                else f"[{found['lo']:.2f}, {found['hi']:.2f}]",
                "verdict": verdict,
            }
        )
    return rows


def with_interval(found: Row, name: str) -> str:
    """A value with its interval, as far as both are known."""
    value, lo, hi = found.get(name), found.get(f"{name}_lo"), found.get(f"{name}_hi")
    if value is None:
        return "–"
    return f"{value:.2f}" if lo is None or hi is None else f"{value:.2f} [{lo:.2f}, {hi:.2f}]"


def number(value: float | None, form: str) -> str:
    """A number, or a dash for one that is not defined: never a zero."""
    return "–" if value is None else format(value, form)


def _details(found: Row) -> Sequence[str]:
    return [
        *(number(found.get(score), ".2f") for score in SCORES),
        number(found.get("delta_ce"), ".3f"),
    ]


def _amount(budget: str) -> str:
    return budget.partition("=")[2]
