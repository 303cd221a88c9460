"""What a search finds: a feature, the signs that point to it, and what its name is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

FoundBy = Literal[
    "name",
    "text",
    "token",
    "concept",
    "active",
    "direction",
    "dec_cos",
    "coact_jaccard",
    "value_corr",
]
"""Why a feature was found."""

NEIGHBOUR_KINDS: tuple[FoundBy, ...] = ("dec_cos", "coact_jaccard", "value_corr")
"""Kinds of the table `neighbour`."""

MEANING: Mapping[FoundBy, str] = {
    "name": "share of the name that was asked for",
    "text": "BM25 of its label",
    "token": "logit that one unit adds to the token",
    "concept": "AUROC of its activation as a sign of the concept, on the score split",
    "active": "mean activation a token x ln(1 / density)^2, less what a hit above has said",
    "direction": "cosine of its decoder row with the direction",
    "dec_cos": "cosine of decoder rows",
    "coact_jaccard": "share of tokens of either on which both fire",
    "value_corr": "correlation of activations over all tokens",
}
"""What each kind of score is."""

_SMOOTH = 60


@dataclass(frozen=True, slots=True)
class Sign:
    """One reason why a feature was found."""

    found_by: FoundBy
    score: float
    """What it is stands in `MEANING`."""
    what: str
    """What of the feature was found: its name, a token, a concept."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A feature that a search found."""

    run_id: str
    feature_id: int
    slug: str
    """Its name, or its number where it has none."""
    text: str
    """What its label says; empty where it has none."""
    is_weak: bool
    """Its name does not beat its null."""
    score: float | None
    """Its name's score on the test split: detection, or output score; None where unscored."""
    lo: float | None
    hi: float | None
    null_value: float | None
    """The same score where nothing is to be found."""
    signs: tuple[Sign, ...]
    """Why it was found, the surest sign first."""


def hits_of(rows: Sequence[Mapping[str, Any]], found_by: FoundBy) -> tuple[Hit, ...]:
    """Hits of rows that have a hit's columns and the sign's `sign` and `what`."""
    return tuple(
        Hit(
            run_id=row["run_id"],
            feature_id=row["feature_id"],
            slug=row["slug"] or str(row["feature_id"]),
            text=row["text"] or "",
            is_weak=bool(row["is_weak"]),
            score=row["score"],
            lo=row["lo"],
            hi=row["hi"],
            null_value=row["null_value"],
            signs=(Sign(found_by, float(row["sign"]), row["what"] or ""),),
        )
        for row in rows
    )


def fused(lists: Sequence[Sequence[Hit]], k: int) -> tuple[Hit, ...]:
    """At most `k` features of several ranked lists, each once, with all its signs.

    By the sum of 1 / (60 + rank) over the lists that hold it, so that scores of different
    kinds need no common unit; ties go to the earlier list.

    Source: Cormack, Clarke and Büttcher 2009, "Reciprocal Rank Fusion".
    """
    merged: dict[tuple[str, int], Hit] = {}
    weight: dict[tuple[str, int], float] = {}
    for ranked in lists:
        for rank, hit in enumerate(ranked, start=1):
            key = (hit.run_id, hit.feature_id)
            known = merged.get(key)
            merged[key] = hit if known is None else replace(known, signs=known.signs + hit.signs)
            weight[key] = weight.get(key, 0.0) + 1 / (_SMOOTH + rank)
    best = sorted(merged, key=lambda key: -weight[key])
    return tuple(merged[key] for key in best[:k])
