"""Linear probes: how well one direction of the residual stream tells a concept.

They decide which concepts the stream carries at all, and so which names a sparse
autoencoder could be blamed for missing. Numpy only; one covariance serves every concept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from features.documents import ConceptTruth, Documents
from features.units import exact_auroc

RIDGE = 1e-3
"""Added to the covariance's diagonal, in multiples of its mean variance."""
LEAST_POSITIVES = 5
"""Test units of either class below which a probe is not judged."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Residuals of some documents: row i of `resid` is row `row[i]` of `documents.rows`."""

    documents: Documents
    row: Int[np.ndarray, " row"]
    resid: Float[np.ndarray, "row d_model"]


@dataclass(frozen=True, slots=True)
class ProbeScore:
    """One concept's probe on the test documents; None where a class is too small to judge."""

    concept: str
    auroc: float | None
    n_pos: int
    n_neg: int


def probe_concepts(train: Sample, test: Sample) -> tuple[ProbeScore, ...]:
    """Each concept's probe, fitted on one sample and scored on another.

    A token concept is scored by token, a document concept by the document's largest value.
    The direction is a discriminant: (Σ + ridge)⁻¹ (mean where it holds − mean where not).
    For documents it is fitted twice, the second time with only the quarter of each positive
    document's tokens that the first pass found most telling, since most tokens of a sea
    story say nothing of the sea; the pass with the better AUROC on `train` is kept.
    """
    mean = train.resid.mean(axis=0)
    centred = train.resid - mean
    covariance = centred.T.astype(np.float64) @ centred / len(centred)
    ridge = RIDGE * np.trace(covariance) / len(covariance) + np.finfo(np.float64).tiny
    inverse = np.linalg.inv(covariance + ridge * np.eye(len(covariance)))
    held_out = test.documents.truth
    return tuple(
        _probe(truth, held_out[truth.name], train, test, inverse)
        for truth in train.documents.truths
        if truth.name in held_out
    )


def _probe(
    truth: ConceptTruth,
    held_out: ConceptTruth,
    train: Sample,
    test: Sample,
    inverse: Float[np.ndarray, "d_model d_model"],
) -> ProbeScore:
    holds, defined = _on_rows(truth, train)
    test_holds, test_defined = _units(held_out, test)
    n_pos, n_neg = int(test_holds.sum()), int((~test_holds & test_defined).sum())
    enough = min(n_pos, n_neg) >= LEAST_POSITIVES
    if not enough or not holds.any() or not (defined & ~holds).any():
        return ProbeScore(truth.name, None, n_pos, n_neg)
    probes = [_direction(train.resid, holds, defined & ~holds, inverse)]
    if truth.level == "document":
        telling = holds & _telling(train, train.resid @ probes[0])
        probes.append(_direction(train.resid, telling, defined & ~holds, inverse))
    fitted = [_auroc(truth, train, probe) for probe in probes]
    best = probes[int(np.argmax(fitted))]
    return ProbeScore(truth.name, _auroc(held_out, test, best), n_pos, n_neg)


def _direction(
    resid: Float[np.ndarray, "row d_model"],
    positive: Bool[np.ndarray, " row"],
    negative: Bool[np.ndarray, " row"],
    inverse: Float[np.ndarray, "d_model d_model"],
) -> Float[np.ndarray, " d_model"]:
    difference = resid[positive].mean(axis=0) - resid[negative].mean(axis=0)
    direction: np.ndarray = (inverse @ difference).astype(np.float32)
    return direction


def _auroc(truth: ConceptTruth, sample: Sample, probe: Float[np.ndarray, " d_model"]) -> float:
    holds, defined = _units(truth, sample)
    value = sample.resid @ probe
    if truth.level == "document":
        doc = sample.documents.rows.doc[sample.row]
        start = np.flatnonzero(np.diff(doc, prepend=-1))
        value = np.maximum.reduceat(value, start)
    return exact_auroc(value[defined], holds[defined])


def _telling(sample: Sample, value: Float[np.ndarray, " row"]) -> Bool[np.ndarray, " row"]:
    """The rows in the upper quarter of their document."""
    doc = sample.documents.rows.doc[sample.row]
    order = np.lexsort((value, doc))
    size = np.bincount(doc)[doc[order]]
    place = np.arange(len(doc)) - np.searchsorted(doc[order], doc[order])
    telling = np.zeros(len(doc), dtype=bool)
    telling[order] = place >= size - np.maximum(size // 4, 1)
    return telling


def _on_rows(
    truth: ConceptTruth, sample: Sample
) -> tuple[Bool[np.ndarray, " row"], Bool[np.ndarray, " row"]]:
    """Where the concept holds and where it is defined, by row of the sample."""
    unit = sample.row if truth.level == "token" else sample.documents.rows.doc[sample.row]
    defined = truth.is_defined[unit]
    return truth.holds[unit] & defined, defined


def _units(
    truth: ConceptTruth, sample: Sample
) -> tuple[Bool[np.ndarray, " unit"], Bool[np.ndarray, " unit"]]:
    """The same by token, or by document of the sample."""
    if truth.level == "token":
        return _on_rows(truth, sample)
    doc = np.unique(sample.documents.rows.doc[sample.row])
    defined = truth.is_defined[doc]
    return truth.holds[doc] & defined, defined


def sample_rows(documents: Documents, *, most: int, seed: int) -> Int[np.ndarray, " row"]:
    """Rows of whole documents drawn at random, special tokens left out, about `most` in all."""
    real = ~documents.rows.is_special
    n_docs = documents.rows.n_docs
    order = np.random.default_rng(seed).permutation(n_docs)
    size = np.bincount(documents.rows.doc[real], minlength=n_docs)
    within = np.cumsum(size[order]) <= most
    within[:1] = True
    taken = np.zeros(n_docs, dtype=bool)
    taken[order[within]] = True
    return np.flatnonzero(taken[documents.rows.doc] & real)


def tracked(scores: Sequence[ProbeScore], least_auroc: float = 0.95) -> tuple[str, ...]:
    """The concepts that the stream carries: those a probe tells on test documents."""
    return tuple(s.concept for s in scores if s.auroc is not None and s.auroc >= least_auroc)
