"""Residual shards: dense activations on disk, read in order or in any seeded order.

Shards are memory-mapped, so reading costs what is touched. How a shard is written lies in
`store.shards`, the statistics beside it in `store.residual_stats`; both are offered here.
This module knows nothing of models: rows come out as numpy arrays.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from store.errors import MissingArtefact, SchemaMismatch, TruncatedShard
from store.manifest import read_json
from store.residual_stats import RunningStats, write_stats
from store.shards import BATCH_ROWS, Dtype, IntArray, ResidualBatch, write_part
from store.tables import SCHEMA_VERSION

__all__ = [
    "BATCH_ROWS",
    "Dtype",
    "ResidualBatch",
    "Residuals",
    "RunningStats",
    "write_part",
    "write_stats",
]

_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"


class Residuals:
    """The shards of one hook point, memory-mapped, as one long table of rows."""

    def __init__(self, residuals_dir: Path, parts: list[Path]) -> None:
        self.dir = residuals_dir
        self.parts = parts
        self._shards = [_Shard.open(part) for part in parts]
        first = self._shards[0]
        for shard in self._shards:
            if not shard.schema.equals(first.schema, check_metadata=True):
                raise SchemaMismatch(
                    f"{shard.path} holds {shard.describe()}; expected {first.describe()}, as in "
                    f"{first.path}; keep one dump in a folder"
                )
        self.hook_point = first.metadata("hook_point")
        self.dtype = first.metadata("dtype")
        self.d_model = int(first.metadata("d_model"))
        self._batches = [batch for shard in self._shards for batch in shard.batches]
        sizes = [batch.num_rows for batch in self._batches]
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self.n_rows = int(self._starts[-1])

    @classmethod
    def open(cls, residuals_dir: Path) -> Self:
        """The shards in a folder, in the order of their names.

        Raises:
            MissingArtefact: there is no shard.
            TruncatedShard: a shard is cut short; the message names it.
            SchemaMismatch: shards of different dumps, or of another version.
        """
        parts = sorted(residuals_dir.glob("part-*.arrow"))
        if not parts:
            raise MissingArtefact(
                f"no part-*.arrow under {residuals_dir}; expected residual shards; "
                "run `dvc repro dump` first"
            )
        return cls(residuals_dir, parts)

    @cached_property
    def stats(self) -> dict[str, Any]:
        """What `stats.json` says: mean, mean norm, gamma."""
        stats = read_json(self.dir / "stats.json")
        if stats.get("n_rows") != self.n_rows:
            raise SchemaMismatch(
                f"{self.dir} holds {self.n_rows} rows and its stats.json speaks of "
                f"{stats.get('n_rows')}; expected one dump; run `dvc repro dump` again"
            )
        return dict(stats)

    def batches(self, rows: int = BATCH_ROWS) -> Iterator[ResidualBatch]:
        """Every row in order, `rows` at a time, the last batch shorter; resid in float32."""
        for start in range(0, self.n_rows, rows):
            slices = self._slices(start, min(start + rows, self.n_rows))
            yield ResidualBatch(
                _column(slices, "doc_id"),
                _column(slices, "pos"),
                _column(slices, "token_id"),
                _column(slices, "is_special"),
                self._float32(np.concatenate([_bits(piece, self.d_model) for piece in slices])),
            )

    def rows(
        self, doc_ids: IntArray | None = None, *, skip_special: bool = True
    ) -> npt.NDArray[np.int64]:
        """The numbers of the rows of these documents (all of them by default), ascending."""
        keep = np.ones(self.n_rows, dtype=np.bool_)
        if doc_ids is not None:
            keep &= np.isin(_column(self._batches, "doc_id"), doc_ids)
        if skip_special:
            keep &= ~_column(self._batches, "is_special")
        return np.flatnonzero(keep).astype(np.int64)

    def take(self, rows: IntArray) -> npt.NDArray[np.float32]:
        """The residuals of these rows, in the order asked for, in float32."""
        bits = np.empty((len(rows), self.d_model), dtype=np.uint16)
        for batch, places, offsets in self._located(rows):
            bits[places] = _bits(batch, self.d_model)[offsets]
        return self._float32(bits)

    def shuffled(
        self, rows: IntArray, batch_rows: int, seed: int, from_step: int = 0
    ) -> Iterator[npt.NDArray[np.float32]]:
        """Endless batches of these rows in a shuffled order, from any step on.

        Batch `step` is a pure function of (rows, seed, step), so training resumes exactly.
        Each epoch is a new permutation and holds every row once; a batch may end one epoch
        and begin the next, so that all batches have `batch_rows` rows.

        Raises:
            MissingArtefact: there are no rows to draw from.
        """
        if not len(rows):
            raise MissingArtefact(
                f"no rows of {self.dir} to shuffle; expected at least one that is not special; "
                "check the split or give more documents"
            )
        step, epoch, order = from_step, -1, rows[:0]
        while True:
            picked, place = [], step * batch_rows
            while place < (step + 1) * batch_rows:
                if epoch != place // len(rows):
                    epoch = place // len(rows)
                    order = np.random.default_rng([seed, epoch]).permutation(rows)
                start = place - epoch * len(rows)
                stop = min(len(rows), start + (step + 1) * batch_rows - place)
                picked.append(order[start:stop])
                place += stop - start
            yield self.take(np.concatenate(picked))
            step += 1

    def _located(self, rows: IntArray) -> Iterator[tuple[pa.RecordBatch, IntArray, IntArray]]:
        """Each record batch that holds some of the rows: places in the answer, offsets in it."""
        if len(rows) and (rows.min() < 0 or rows.max() >= self.n_rows):
            raise IndexError(f"row {rows.min()} to {rows.max()} of {self.n_rows}")
        by_row = np.argsort(rows, kind="stable")
        ordered = rows[by_row]
        edges = np.searchsorted(ordered, self._starts)
        for number in np.flatnonzero(np.diff(edges)):
            inside = slice(edges[number], edges[number + 1])
            yield self._batches[number], by_row[inside], ordered[inside] - self._starts[number]

    def _slices(self, start: int, stop: int) -> list[pa.RecordBatch]:
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        last = int(np.searchsorted(self._starts, stop, side="left"))
        slices = []
        for number in range(first, last):
            skipped = max(0, start - int(self._starts[number]))
            wanted = min(stop, int(self._starts[number + 1])) - int(self._starts[number]) - skipped
            slices.append(self._batches[number].slice(skipped, wanted))
        return slices

    def _float32(self, bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
        if self.dtype == "float16":
            return bits.view(np.float16).astype(np.float32)
        return (bits.astype(np.uint32) << 16).view(np.float32)


@dataclass(frozen=True, slots=True)
class _Shard:
    path: Path
    schema: pa.Schema
    batches: list[pa.RecordBatch]

    @classmethod
    def open(cls, path: Path) -> Self:
        try:
            source = pa.memory_map(str(path), "r")
            size = source.size()
            source.seek(max(0, size - len(_END_OF_STREAM)))
            ends = source.read() == _END_OF_STREAM
            source.seek(0)
            reader = pa.ipc.open_stream(source)
            batches = list(reader)
        except (pa.ArrowInvalid, OSError) as error:
            raise TruncatedShard(_cut_short(path, " ".join(str(error).split()))) from error
        if not ends:
            raise TruncatedShard(_cut_short(path, "it does not end as a stream does"))
        shard = cls(path, reader.schema, batches)
        if shard.metadata("schema_version") != str(SCHEMA_VERSION):
            raise SchemaMismatch(
                f"{path} has schema version {shard.metadata('schema_version') or 'none'}; expected "
                f"{SCHEMA_VERSION}; run `dvc repro dump` again"
            )
        return shard

    def metadata(self, key: str) -> str:
        return str((self.schema.metadata or {}).get(key.encode(), b"").decode())

    def describe(self) -> str:
        width, dtype = self.metadata("d_model"), self.metadata("dtype")
        return f"{width} x {dtype} at {self.metadata('hook_point')}"


def _cut_short(path: Path, why: str) -> str:
    return (
        f"{path} is cut short ({why}); expected a whole Arrow stream; "
        "fetch it again or run `dvc repro dump`"
    )


def _bits(batch: pa.RecordBatch, d_model: int) -> npt.NDArray[np.uint16]:
    """The stored rows as raw 16-bit words, without a copy."""
    values = batch.column("resid").flatten().to_numpy(zero_copy_only=True)
    return np.asarray(values).view(np.uint16).reshape(-1, d_model)


def _column(batches: list[pa.RecordBatch], name: str) -> npt.NDArray[Any]:
    return np.concatenate([batch.column(name).to_numpy(zero_copy_only=False) for batch in batches])
