"""Running statistics of the residual stream: the mean, the mean norm and gamma.

Counts batches as they are written, in float64; knows nothing of how rows are stored.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from store.errors import SchemaMismatch
from store.manifest import write_json
from store.shards import Dtype, ResidualBatch
from store.tables import SCHEMA_VERSION


class RunningStats:
    """Mean, mean norm and gamma of the rows seen so far, special tokens left out.

    Sums run in float64 and are merged batch by batch, so that a large mean does not
    swallow the spread around it.
    """

    def __init__(self) -> None:
        self.n_rows = 0
        self._n = 0
        self._norms = 0.0
        self._mean: npt.NDArray[np.float64] | None = None
        self._squares = 0.0

    def add(self, batch: ResidualBatch, left_out: npt.NDArray[np.int32] | None = None) -> None:
        """Counts the rows of a batch.

        Args:
            left_out: documents that count among `n_rows` and for nothing else.
        """
        self.n_rows += len(batch)
        counted = ~batch.is_special
        if left_out is not None:
            counted &= ~np.isin(batch.doc_id, left_out)
        rows = batch.resid[counted].astype(np.float64)
        if not len(rows):
            return
        mean = rows.mean(axis=0)
        squares = float(np.square(rows - mean).sum())
        self._norms += float(np.linalg.norm(rows, axis=1).sum())
        if self._mean is None:
            self._mean, self._squares, self._n = mean, squares, len(rows)
            return
        total = self._n + len(rows)
        gap = mean - self._mean
        self._squares += squares + float(gap @ gap) * self._n * len(rows) / total
        self._mean = self._mean + gap * (len(rows) / total)
        self._n = total

    def result(self, hook_point: str, dtype: Dtype) -> dict[str, Any]:
        """What stats.json holds.

        `mean_norm` is the mean length of a row, in the stream's units; `gamma` is the
        length of the mean row over the root mean squared distance from it, dimensionless
        and null where every row is the same.

        Raises:
            SchemaMismatch: no row that is not special has been counted.
        """
        if self._mean is None:
            raise SchemaMismatch(
                f"{self.n_rows} rows and none that is not special; expected ordinary tokens to "
                "take a mean of; give longer documents"
            )
        spread = math.sqrt(self._squares / self._n)
        return {
            "d_model": len(self._mean),
            "dtype": dtype,
            "gamma": float(np.linalg.norm(self._mean)) / spread if spread > 0 else None,
            "hook_point": hook_point,
            "mean": [float(value) for value in self._mean],
            "mean_norm": self._norms / self._n,
            "n_rows": self.n_rows,
            "schema_version": SCHEMA_VERSION,
        }


def write_stats(residuals_dir: Path, stats: RunningStats, hook_point: str, dtype: Dtype) -> None:
    """Writes `stats.json` beside the shards it describes."""
    write_json(residuals_dir / "stats.json", stats.result(hook_point, dtype))
