"""How well features read concepts on documents that chose nothing.

Thresholds come from other documents, so that F1 here does not flatter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int

from features.auroc import Reading
from features.binned import largest_by_document
from features.documents import ConceptTruth, Evidence
from features.measured import Measured, measure_concepts
from features.rules import Level

Signals = tuple[
    Int[np.ndarray, " signal"], Int[np.ndarray, " signal"], Float[np.ndarray, " signal"]
]
"""Feature, document or token, and value of everything that fires."""


def held_out(chosen_on: Sequence[Reading], evidence: Evidence) -> tuple[Measured, ...]:
    """Readings of the same concepts on other documents, at thresholds that are settled.

    Args:
        chosen_on: readings of the documents that thresholds are chosen on.
        evidence: the same features in other documents.
    """
    threshold = {reading.truth.concept_id: reading.threshold for reading in chosen_on}
    levels = {reading.truth.level for reading in chosen_on}
    signals = {level: signals_of(evidence, level) for level in levels}
    found = []
    for reading in measure_concepts(evidence):
        truth = reading.truth
        if truth.concept_id in threshold:
            least = threshold[truth.concept_id]
            f1 = f1_above(evidence, truth, signals[truth.level], least)
            found.append(replace(reading, threshold=least, best_f1=f1))
    return tuple(found)


def signals_of(evidence: Evidence, level: Level) -> Signals:
    """What fires, by token, or by document with the largest value in it."""
    if level == "document":
        return largest_by_document(evidence)
    feature = np.repeat(np.arange(evidence.d_sae), evidence.n_act)
    return feature, evidence.row, evidence.value


def f1_above(
    evidence: Evidence,
    truth: ConceptTruth,
    signals: Signals,
    threshold: Float[np.ndarray, " feature"],
) -> Float[np.ndarray, " feature"]:
    """F1 of each feature as a sign that says yes above its threshold.

    Over all documents or tokens, as in `features.auroc`: a feature that fires where the
    concept means nothing is no good sign of it. NaN without a threshold or a positive.
    """
    feature, unit, value = signals
    counts = truth.holds & truth.is_defined
    if truth.level == "token":
        counts &= ~evidence.documents.rows.is_special
    n_pos = int(counts.sum())
    if n_pos == 0:
        return np.full(evidence.d_sae, np.nan)
    says = value > threshold[feature]
    said = np.bincount(feature[says], minlength=evidence.d_sae)
    right = np.bincount(feature[says & counts[unit]], minlength=evidence.d_sae)
    return np.where(np.isnan(threshold), np.nan, 2 * right / (said + n_pos))
