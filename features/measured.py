"""How sure an AUROC is: intervals of 95 % and tests in which documents are the unit of chance.

Variances are by documents (features/clustered.py), for tokens as for documents themselves.
Where most documents move an area little and a few far, an interval of Student's t misses on one
side; Hall's transformation takes that skew out. Four things keep few documents honest:

- Student's t has as many degrees of freedom as the smaller class has documents, less one; a
  document with many of its units lowers them (Kish's effective number).
- A feature that is silent in all of thirty positives varies nowhere among them, and yet it might
  have fired. So a variance is at least that of a feature which tells nothing, for which all
  documents speak, times 4 A (1 - A): all of it at one half, none of it at a perfect area.
- It is at least that of a quarter of a document read the other way round, so that perfect areas
  and silent features keep a width; a perfect area's is about Newcombe's for as many documents.
- A class in one document only has neither interval nor test: nothing tells how far the next
  document would differ.

Where one of these bounds is the larger, the interval is the logit's, which ends at 0 and 1.

A p value is of a normal deviate, with the variance of a feature which tells nothing: with one
unit a document, Mann and Whitney's test. It knows that tokens of a document are alike, not that
neighbours are more so; for tokens it is therefore at least that of Student's t by documents.

Source: Obuchowski 1997; Mann and Whitney 1947; Hall 1992 (skewness); Kish 1965; Benjamini and
Hochberg 1995; perfect areas compared with Newcombe 2006.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import expit, logit, ndtr, stdtr, stdtrit

from features.auroc import Counted, Reading, count_concepts, read
from features.clustered import Likeness, Moves, Pairs, class_sizes, likeness, moves, pair_up
from features.documents import Evidence
from features.rules import Level

LEAST_MOVED = 0.25
"""Of a document: an area of n documents is held to be off by this, over n + 1, at least."""
_STRAIGHT = 1e-3
"""Skew below which Hall's transformation is taken at this one, where it is all but straight."""


@dataclass(frozen=True, slots=True, eq=False)
class Measured(Reading):
    """A reading with how sure its area is; NaN where a class is in fewer than two documents."""

    lo: Float[np.ndarray, " feature"]
    hi: Float[np.ndarray, " feature"]
    p_value: Float[np.ndarray, " feature"]
    """Two-sided, of an area of one half."""
    n_pos_docs: int
    """Documents with a positive."""
    n_neg_docs: int


def measure_concepts(evidence: Evidence) -> tuple[Measured, ...]:
    """Every feature against every concept of these documents, with intervals and tests."""
    doc = evidence.documents.rows.doc
    pairs: dict[Level, Pairs] = {}
    alike: dict[bytes, Likeness] = {}
    measured = []
    for counted in count_concepts(evidence):
        level = counted.truth.level
        if level not in pairs:
            doc_of = doc if level == "token" else np.arange(len(evidence.documents.doc_ids))
            pairs[level] = pair_up(counted.binned, doc_of)
        measured.append(_measure(counted, pairs[level], alike))
    return tuple(measured)


def _measure(counted: Counted, pairs: Pairs, alike: dict[bytes, Likeness]) -> Measured:
    """Every feature against one concept.

    Args:
        alike: what is known of other concepts' units; those of this one are added.
    """
    reading = read(counted)
    sizes = class_sizes(counted, pairs)
    n_docs = np.count_nonzero(sizes, axis=1).tolist()
    lo = hi = p_value = np.full(len(reading.auroc), np.nan)
    if min(n_docs) >= 2:
        effective = float((sizes.sum(axis=1) ** 2 / (sizes**2).sum(axis=1)).min())
        found = moves(counted, pairs, reading.auroc)
        key = counted.truth.level.encode() + np.packbits(counted.valid).tobytes()
        if key not in alike:
            alike[key] = likeness(counted, pairs)
        null = alike[key].null_variance(sizes)
        lo, hi, p_value = interval_and_test(reading.auroc, found, null, effective, min(n_docs))
        if sizes.sum(axis=0).max() == 1:
            p_value = _null_test(reading.auroc, null)
    return Measured(
        reading.truth,
        reading.auroc,
        reading.best_f1,
        reading.threshold,
        reading.n_pos,
        reading.n_neg,
        lo,
        hi,
        p_value,
        n_pos_docs=n_docs[0],
        n_neg_docs=n_docs[1],
    )


def interval_and_test(
    auroc: Float[np.ndarray, " feature"],
    found: Moves,
    null_variance: Float[np.ndarray, " feature"],
    effective: float,
    n_docs: int,
) -> tuple[
    Float[np.ndarray, " feature"], Float[np.ndarray, " feature"], Float[np.ndarray, " feature"]
]:
    """Lower and upper bound of 95 %, and the p value of an area of one half.

    Args:
        null_variance: of the area of a feature that tells nothing.
        effective: Kish's count of the documents of the smaller class.
        n_docs: documents of the smaller class, at least two.
    """
    one_moved = LEAST_MOVED / (effective + 1)
    least = np.maximum(one_moved**2, 4 * auroc * (1 - auroc) * null_variance)
    variance = found.square * n_docs / (n_docs - 1)
    is_moved = variance > least
    error = np.sqrt(np.maximum(variance, least))
    # Two documents of very unequal length leave next to no freedom: the bounds are 0 and 1.
    freedom = max(effective - 1, 0.01)
    far = float(stdtrit(freedom, 0.975))
    inside = np.clip(auroc, one_moved, 1 - one_moved)
    half = far * error / (inside * (1 - inside))
    lo, hi = expit(logit(inside) - half), expit(logit(inside) + half)

    skew = found.cube[is_moved] / found.square[is_moved] ** 1.5
    skew = np.where(np.abs(skew) < _STRAIGHT, _STRAIGHT, skew)
    lo[is_moved] = auroc[is_moved] - error[is_moved] * _bent(far, skew)
    hi[is_moved] = auroc[is_moved] - error[is_moved] * _bent(-far, skew)
    own_error = np.sqrt(np.maximum(variance, 1e-18))
    by_own = 2 * stdtr(freedom, -np.abs(auroc - 0.5) / own_error)
    p_value = np.maximum(by_own, _null_test(auroc, null_variance))
    return np.clip(lo, 0, auroc), np.clip(hi, auroc, 1), p_value


def _null_test(
    auroc: Float[np.ndarray, " feature"], variance: Float[np.ndarray, " feature"]
) -> Float[np.ndarray, " feature"]:
    """Two-sided p value of an area, given its variance if it told nothing; 1 where all ties."""
    distance, error = np.abs(auroc - 0.5), np.sqrt(variance)
    score = np.divide(distance, error, out=np.zeros_like(distance), where=error > 1e-9)
    p_value: np.ndarray = 2 * ndtr(-score)
    return p_value


def _bent(score: float, skew: Float[np.ndarray, " moved"]) -> Float[np.ndarray, " moved"]:
    """The studentised mean that has this score once its skew is taken out (Hall 1992)."""
    bent: np.ndarray = 3 / skew * (np.cbrt(1 + skew * (score - skew / 6)) - 1)
    return bent


def q_values(p: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """Benjamini-Hochberg: the smallest false discovery rate at which each test is kept.

    NaN stays NaN and counts as no test.

    Source: Benjamini and Hochberg 1995.
    """
    q = np.full(len(p), np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    ratio = p[order] * len(order) / np.arange(1, len(order) + 1)
    q[order] = np.minimum(np.minimum.accumulate(ratio[::-1])[::-1], 1)
    return q
