"""Figures of a rule as sums by document, from which values and their intervals follow.

A resample of the documents adds the same sums up with other weights, so that every figure of
a rule is resampled at once (features/intervals.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from features.intervals import middle, widened
from features.scores import Score, Support


@dataclass(frozen=True, slots=True, eq=False)
class Figure:
    """A figure before its interval: sums by document, from which every resample follows."""

    metric: str
    support: Support
    by_doc: Float[np.ndarray, "column doc"]
    null: float


def with_intervals(
    found: Sequence[Figure | Score], weights: Float[np.ndarray, "draw doc"]
) -> list[Score]:
    """Every figure from its sums by document, all resampled alike; scores stay as they are.

    Args:
        weights: how often each document is drawn.
    """
    figures = [one for one in found if isinstance(one, Figure)]
    if not figures:
        return [one for one in found if isinstance(one, Score)]
    drawn = weights @ np.concatenate([one.by_doc for one in figures]).T
    edges = np.cumsum([len(one.by_doc) for one in figures])[:-1]
    draws = [
        _value(one.metric, part.T)
        for one, part in zip(figures, np.split(drawn, edges, axis=1), strict=True)
    ]
    bounds = iter(middle(np.stack(draws, axis=1)).T.tolist())
    scores = []
    for one in found:
        if isinstance(one, Score):
            scores.append(one)
            continue
        lo, hi = next(bounds)
        value = float(_value(one.metric, one.by_doc.sum(axis=1)))
        interval = widened(value, (lo, hi), _parts(one, value))
        scores.append(one.support.score(one.metric, value, interval, one.null))
    return scores


Sums = tuple[int | float, ...]
"""Firing, silent and hard places, each before those of them that the rule names."""


def sums_of(size: Int[np.ndarray, " side"], said: Int[np.ndarray, " side"]) -> Sums:
    """Of how many firing, silent and hard places there are, and how many of each are named."""
    (yes, silent, hard), (right, wrong, hard_wrong) = size.tolist(), said.tolist()
    return yes, right, silent, wrong, hard, hard_wrong


def balanced_accuracies(cases: Sequence[Sums]) -> list[float]:
    """That of each case, all computed at once."""
    sums = np.array(cases, dtype=np.float64).reshape(len(cases), 6)
    accuracies: list[float] = _balanced_accuracy(sums.T).tolist()
    return accuracies


def _value(metric: str, sums: Float[np.ndarray, "column *draw"]) -> Float[np.ndarray, "*draw"]:
    if metric in ("detection", "fuzzing"):
        return _balanced_accuracy(sums)
    with np.errstate(invalid="ignore", divide="ignore"):
        if metric == "f1":
            return np.asarray(2 * sums[0] / (sums[1] + sums[2]))
        return np.asarray(sums[0] / sums[1])


def _parts(figure: Figure, value: float) -> tuple[tuple[float, int], ...]:
    """The shares whose mean a figure is, with the documents that each rests on."""
    by_doc, sums = figure.by_doc, figure.by_doc.sum(axis=1)
    if figure.metric in ("detection", "fuzzing"):
        recall = float(sums[1] / sums[0])
        n_docs = (int(np.count_nonzero(by_doc[0])), int(np.count_nonzero(by_doc[2])))
        return (recall, n_docs[0]), (2 * value - recall, n_docs[1])
    return ((value, int(np.count_nonzero(by_doc[1]))),)


def _balanced_accuracy(sums: Float[np.ndarray, "column *draw"]) -> Float[np.ndarray, "*draw"]:
    """Half for firing places that the rule names, half for silent ones that it leaves out."""
    yes, right, silent, wrong, hard, hard_wrong = sums
    with np.errstate(invalid="ignore", divide="ignore"):
        at_random = 1 - wrong / silent
        where_hard = np.where(hard > 0, 1 - hard_wrong / hard, at_random)
        return np.asarray(right / yes / 2 + (at_random + where_hard) / 4)


def larger_mean(*groups: Sequence[float]) -> float:
    """The largest of the groups' means.

    Figures that are undefined, such as those of a feature that never rests, are left out.
    """
    defined = [[figure for figure in group if np.isfinite(figure)] for group in groups]
    return max(float(np.mean(figures)) for figures in defined if figures)
