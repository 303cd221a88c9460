"""How far an AUROC would move with other documents: a variance that takes them whole.

Tokens of one document are not independent, so a document's tokens move the area together.
The placement of a positive is the share of negatives below it, that of a negative the share of
positives above it, ties counting half; a document moves the area by the sum of what its tokens'
placements deviate. The variance is the sum of those moves squared. With one unit a document it
is DeLong's.

All silent tokens of a feature share one placement. So a document in which a feature never
fires is known from its counts of positives and negatives, and one pass over the activations is
enough for all the others.

Source: Obuchowski 1997 (placements summed by cluster); DeLong, DeLong and Clarke-Pearson 1988;
Mann and Whitney 1947 (the variance of an area that tells nothing).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int

from features.auroc import Counted
from features.binned import Binned

AT_ONCE = 1 << 18
"""Activations summed at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Every feature with every document in which it fires, in the order of its activations."""

    doc_of: Int[np.ndarray, " unit"]
    """The document of each unit."""
    n_docs: int
    start: Int[np.ndarray, " bound"]
    """Pair p owns the activations start[p] to start[p + 1]."""
    feature: Int[np.ndarray, " pair"]
    doc: Int[np.ndarray, " pair"]


@dataclass(frozen=True, slots=True, eq=False)
class Moves:
    """By how much single documents move each feature's area."""

    square: Float[np.ndarray, " feature"]
    """Sum of the moves squared."""
    cube: Float[np.ndarray, " feature"]
    """Sum of the moves cubed: whether a few documents move it far, and which way."""


def pair_up(binned: Binned, doc_of: Int[np.ndarray, " unit"]) -> Pairs:
    """The pairs of binned values; units of a document stand together within a feature."""
    feature = binned.code // (binned.edges.shape[1] + 1)
    doc = doc_of[binned.unit]
    is_first = np.ones(len(doc), dtype=bool)
    is_first[1:] = (feature[1:] != feature[:-1]) | (doc[1:] != doc[:-1])
    start = np.flatnonzero(is_first)
    return Pairs(
        doc_of,
        int(doc_of.max(initial=-1)) + 1,
        np.append(start, len(doc)),
        feature[start].astype(np.int32),
        doc[start].astype(np.int32),
    )


def class_sizes(counted: Counted, pairs: Pairs) -> Float[np.ndarray, "side doc"]:
    """Positives and negatives in each document."""
    holds = counted.truth.holds
    return np.stack(
        [
            np.bincount(pairs.doc_of[side & counted.valid], minlength=pairs.n_docs)
            for side in (holds, ~holds)
        ]
    ).astype(np.float64)


def moves(counted: Counted, pairs: Pairs, auroc: Float[np.ndarray, " feature"]) -> Moves:
    """What documents do to the area, by one pass over the activations.

    Needs both classes.

    Args:
        auroc: the area of each feature, from the same bins.
    """
    sizes = class_sizes(counted, pairs)
    deviation = (_placements(counted) - auroc[:, None]) / sizes.sum(axis=1)[:, None, None]
    side = np.where(counted.truth.holds, 0, 1)
    return _summed(counted, pairs, np.where(counted.valid, side, 2), deviation, sizes)


@dataclass(frozen=True, slots=True, eq=False)
class Likeness:
    """How units' ranks vary, and how much those of one document vary together.

    Ranks are from -1/2 to 1/2, ties in their middle. Knows nothing of where a concept holds.
    """

    variance: Float[np.ndarray, " feature"]
    together: Float[np.ndarray, " feature"]
    """Covariance of two units of one document, at least 0."""

    def null_variance(self, sizes: Float[np.ndarray, "side doc"]) -> Float[np.ndarray, " feature"]:
        """That of the area if it told nothing; with one unit a document, Mann and Whitney's.

        Args:
            sizes: positives and negatives in each document.
        """
        n_pos, n_neg = sizes.sum(axis=1)
        n = n_pos + n_neg
        own = n_pos * n_neg / n
        together = float(((sizes[0] - n_pos / n * sizes.sum(axis=0)) ** 2).sum()) - own
        spread = np.maximum(self.variance * own + self.together * together, 0)
        found: np.ndarray = spread / own**2 * n / (n - 1)
        return found


def likeness(counted: Counted, pairs: Pairs) -> Likeness:
    """How units are ranked where the concept means something, by one pass."""
    total = counted.positive + counted.negative
    n = counted.n_pos + counted.n_neg
    rank = (np.cumsum(total, axis=1) - total / 2) / n - 0.5
    variance = (total * rank**2).sum(axis=1) / n
    sizes = class_sizes(counted, pairs).sum(axis=0)
    side = np.where(counted.valid, 0, 2)
    with_none = [np.stack([array, np.zeros_like(array)]) for array in (rank, sizes)]
    square = _summed(counted, pairs, side, with_none[0], with_none[1]).square
    n_together = float((sizes**2).sum()) - n
    if n_together == 0:
        return Likeness(variance, np.zeros_like(variance))
    return Likeness(variance, np.maximum((square - n * variance) / n_together, 0))


def _summed(
    counted: Counted,
    pairs: Pairs,
    side: Int[np.ndarray, " unit"],
    weight: Float[np.ndarray, "side feature bin"],
    sizes: Float[np.ndarray, "side doc"],
) -> Moves:
    """Weights summed by document, for every feature.

    Args:
        side: whose weights a unit has, 0 or 1; 2 for none.
        weight: of a unit in each bin, silent ones in bin 0.
        sizes: units of each side in each document.
    """
    rest = weight[:, :, 0]
    width = weight[0].size
    table = np.concatenate([(weight - weight[:, :, :1]).reshape(-1), np.zeros(width)])
    place = side * width
    found = [_of_silent(rest, sizes, power) for power in (2, 3)]
    for first, last in pairwise(_cuts(pairs)):
        acts = slice(int(pairs.start[first]), int(pairs.start[last]))
        fired = table[place[counted.binned.unit[acts]] + counted.binned.code[acts]]
        added = np.add.reduceat(fired, pairs.start[first:last] - acts.start)
        feature, doc = pairs.feature[first:last], pairs.doc[first:last]
        silent = rest[0, feature] * sizes[0, doc] + rest[1, feature] * sizes[1, doc]
        moved = silent + added
        own = slice(int(feature[0]), int(feature[-1]) + 1)
        squares = moved**2, silent**2
        for total, more in (
            (found[0], squares[0] - squares[1]),
            (found[1], squares[0] * moved - squares[1] * silent),
        ):
            total[own] += np.bincount(feature - feature[0], more)
    # Sums of what cancels may leave less than nothing, and no cube exceeds its square's.
    square = np.maximum(found[0], 0)
    return Moves(square, np.clip(found[1], -(square**1.5), square**1.5))


def _placements(counted: Counted) -> Float[np.ndarray, "side feature bin"]:
    """The placement of a positive, and of a negative, in each bin."""
    positive, negative = counted.positive, counted.negative
    below = np.cumsum(negative, axis=1) - negative / 2
    above = counted.n_pos - np.cumsum(positive, axis=1) + positive / 2
    return np.stack([below / counted.n_neg, above / counted.n_pos])


def _of_silent(
    rest: Float[np.ndarray, "side feature"], sizes: Float[np.ndarray, "side doc"], power: int
) -> Float[np.ndarray, " feature"]:
    """Sum over documents of a power of the move of one in which the feature is silent."""
    choose = {2: (1, 2, 1), 3: (1, 3, 3, 1)}[power]
    total = np.zeros(rest.shape[1])
    for k, ways in enumerate(choose):
        weight = float((sizes[0] ** (power - k) * sizes[1] ** k).sum())
        total += ways * weight * rest[0] ** (power - k) * rest[1] ** k
    return total


def _cuts(pairs: Pairs) -> list[int]:
    """Bounds between which pairs own about `AT_ONCE` activations."""
    n_act = int(pairs.start[-1])
    cuts = np.searchsorted(pairs.start, np.arange(0, n_act, AT_ONCE))
    return sorted({*cuts.tolist(), len(pairs.doc)})
