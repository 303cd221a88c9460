"""How well features read concepts, as rows of `feature_concept`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from features.auroc import Reading, q_values
from features.labels import Chosen


def concept_table(
    chosen: Chosen, test: Sequence[Reading], alive: np.ndarray, *, run_id: str
) -> pa.Table:
    """Rows of `feature_concept`: all pairs on the score split, named ones on test too.

    q values are over the features that fire on the score split times all concepts there.
    """
    p = np.array([np.where(alive, r.p_value, np.nan) for r in chosen.readings])
    q = q_values(p.reshape(-1).astype(np.float64)).reshape(p.shape)
    tables = [
        _reading_table(reading, np.flatnonzero(alive), q[i], "score", run_id)
        for i, reading in enumerate(chosen.readings)
    ]
    for reading in test:
        if reading.truth.name in chosen.named_by:
            own = np.array([chosen.named_by[reading.truth.name]])
            untested = np.full(len(reading.auroc), np.nan)
            tables.append(_reading_table(reading, own, untested, "test", run_id))
    return pa.concat_tables(tables) if tables else pa.table({})


def _reading_table(
    reading: Reading, features: np.ndarray, q: np.ndarray, split: str, run_id: str
) -> pa.Table:
    features = features[np.isfinite(reading.auroc[features])]
    n = len(features)
    figures = {
        name: pa.array(getattr(reading, name)[features].astype(np.float32))
        for name in ("auroc", "lo", "hi", "best_f1", "threshold")
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
        }
    )
