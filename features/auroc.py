"""How well every feature reads every concept: AUROC, best F1 and its threshold.

From counts of values in bins (features/binned.py), so that a concept costs one count, whatever
the number of features. How sure the areas are is asked for apart (features/measured.py), since
a choice among features looks at none of it and it costs more than they do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from features.binned import Binned, bin_values
from features.documents import ConceptTruth, Evidence
from features.rules import Level


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """How well each feature reads one concept; NaN where one class is empty.

    The area is over the units where the concept means something; F1 and its threshold are
    over all, so that a feature is no good sign of a concept if it fires elsewhere too.
    """

    truth: ConceptTruth
    auroc: Float[np.ndarray, " feature"]
    best_f1: Float[np.ndarray, " feature"]
    threshold: Float[np.ndarray, " feature"]
    """A feature says yes above this."""
    n_pos: int
    n_neg: int


@dataclass(frozen=True, slots=True, eq=False)
class Counted:
    """One concept's units, documents or tokens, in the bins of every feature."""

    truth: ConceptTruth
    binned: Binned
    valid: Bool[np.ndarray, " unit"]
    """Where the concept means something, special tokens left out."""
    positive: Float[np.ndarray, "feature bin"]
    negative: Float[np.ndarray, "feature bin"]
    anywhere: Float[np.ndarray, "feature bin"]
    """Units where the concept means nothing are counted here too."""

    @property
    def n_pos(self) -> int:
        """Units where the concept holds."""
        return int((self.truth.holds & self.valid).sum())

    @property
    def n_neg(self) -> int:
        """Units where it does not."""
        return int((~self.truth.holds & self.valid).sum())


def read_concepts(evidence: Evidence) -> tuple[Reading, ...]:
    """Every feature against every concept of these documents.

    A document concept is read from the document's largest value, a token concept from the
    value on the token; special tokens are left out.
    """
    return tuple(read(counted) for counted in count_concepts(evidence))


def count_concepts(evidence: Evidence) -> Iterator[Counted]:
    """One concept after another; what they share is counted once."""
    documents = evidence.documents
    real = ~documents.rows.is_special
    binned: dict[Level, Binned] = {}
    totals: dict[bytes, np.ndarray] = {}
    for truth in documents.truths:
        if truth.level not in binned:
            binned[truth.level] = bin_values(evidence, truth.level)
        own = binned[truth.level]
        everywhere = real if truth.level == "token" else np.ones_like(truth.is_defined)
        valid = truth.is_defined & everywhere
        total, anywhere = (_total(own, truth.level, units, totals) for units in (valid, everywhere))
        positive = own.count(truth.holds & valid)
        yield Counted(truth, own, valid, positive, total - positive, anywhere)


def _total(
    binned: Binned, level: Level, valid: Bool[np.ndarray, " unit"], known: dict[bytes, np.ndarray]
) -> Float[np.ndarray, "feature bin"]:
    key = level.encode() + np.packbits(valid).tobytes()
    if key not in known:
        known[key] = binned.count(valid)
    return known[key]


def read(counted: Counted) -> Reading:
    """Every feature against one concept."""
    positive, n_pos, n_neg = counted.positive, counted.n_pos, counted.n_neg
    if n_pos == 0 or n_neg == 0:
        nothing = np.full(len(positive), np.nan)
        return Reading(counted.truth, nothing, nothing, nothing, n_pos, n_neg)
    above = positive.sum(axis=1, keepdims=True) - np.cumsum(positive, axis=1)
    says_yes = np.cumsum(counted.anywhere[:, ::-1], axis=1)[:, ::-1][:, 1:]
    right = np.cumsum(positive[:, ::-1], axis=1)[:, ::-1][:, 1:]
    f1 = 2 * right / (says_yes + n_pos)
    best = f1.argmax(axis=1)
    each = np.arange(len(positive))
    return Reading(
        counted.truth,
        auroc=(counted.negative * (above + positive / 2)).sum(axis=1) / (n_pos * n_neg),
        best_f1=f1[each, best],
        threshold=counted.binned.edges[each, best],
        n_pos=n_pos,
        n_neg=n_neg,
    )
