"""How well features read concepts, as rows of `feature_concept`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int

from features.auroc import Reading
from features.documents import Evidence
from features.held_out import held_out
from features.measured import Measured, q_values

FIGURES = ("auroc", "lo", "hi", "best_f1", "threshold")


def concept_table(
    score: Sequence[Measured],
    test: Evidence,
    is_alive: Bool[np.ndarray, " feature"],
    *,
    run_id: str,
) -> pa.Table:
    """Rows of `feature_concept`: every pair on the score split, and on test.

    Thresholds are chosen on the score split and F1 on test is at those. q values are over
    the features times all concepts of a split. A split with one class only has NULL figures
    and a reason; one with a class in a single document has an area, but no interval and no q.

    Args:
        score: every feature against every concept on the score split.
        test: what fires in the test documents, which chose nothing.
        is_alive: features to write; those that fire on the score split.
    """
    features = np.flatnonzero(is_alive)
    tables = []
    for split, readings in (("score", score), ("test", held_out(score, test))):
        q = concept_q_values(readings, is_alive)
        tables += [
            _reading_table(reading, features, q[i], split, run_id)
            for i, reading in enumerate(readings)
        ]
    return pa.concat_tables(tables) if tables else pa.table({})


def concept_q_values(
    readings: Sequence[Measured], is_alive: Bool[np.ndarray, " feature"]
) -> Float[np.ndarray, "concept feature"]:
    """Benjamini-Hochberg over all these concepts times the living features; else NaN."""
    p = np.full((len(readings), len(is_alive)), np.nan)
    for row, reading in zip(p, readings, strict=True):
        row[is_alive] = reading.p_value[is_alive]
    return q_values(p.reshape(-1)).reshape(p.shape)


def why_undefined(reading: Measured, split: str) -> str | None:
    """Why figures of a reading are NULL; None where all are defined."""
    if (missing := missing_class(reading, split)) is not None:
        return missing
    reasons = []
    if np.isnan(reading.threshold).all():
        reasons.append("no threshold, since score has one class only")
    for word, n_docs in (("positives", reading.n_pos_docs), ("negatives", reading.n_neg_docs)):
        if n_docs == 1:
            reasons.append(f"no interval and no q, since all {word} on {split} are in one document")
    return "; ".join(reasons) or None


def missing_class(reading: Reading, split: str) -> str | None:
    """Which classes have no unit on a split, so that there is no area; None where both have."""
    missing = " and no ".join(
        word for word, n in (("positive", reading.n_pos), ("negative", reading.n_neg)) if n == 0
    )
    return f"no {missing} on {split}" if missing else None


def _reading_table(
    reading: Measured,
    features: Int[np.ndarray, " chosen"],
    q: Float[np.ndarray, " feature"],
    split: str,
    run_id: str,
) -> pa.Table:
    n = len(features)
    figures = {
        name: pa.array(getattr(reading, name)[features].astype(np.float32), from_pandas=True)
        for name in FIGURES
    }
    return pa.table(
        {
            "run_id": pa.array([run_id] * n, pa.string()),
            "feature_id": pa.array(features.astype(np.int32)),
            "concept_id": pa.array(np.full(n, reading.truth.concept_id, dtype=np.int32)),
            **figures,
            "q_value": pa.array(q[features].astype(np.float32), from_pandas=True),
            "n_pos": pa.array(np.full(n, reading.n_pos, dtype=np.int32)),
            "n_neg": pa.array(np.full(n, reading.n_neg, dtype=np.int32)),
            "split": pa.array([split] * n, pa.string()),
            "reason": pa.array([why_undefined(reading, split)] * n, pa.string()),
        }
    )
