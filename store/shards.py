"""One residual shard as bytes: what a row is, and how rows become a file.

A shard is an Arrow IPC stream, uncompressed, in record batches of 8,192 rows: fixed-size
lists of float16 (or of bfloat16 as its bits) beside the document, place and token of
each row. Reading is in `store.residuals`; this module only writes, and refuses what the
type cannot hold.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, assert_never

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from store.atomic import whole_file
from store.errors import NotFinite, Overflow, SchemaMismatch
from store.tables import SCHEMA_VERSION

BATCH_ROWS = 8192
"""Rows of a record batch; only a shard's last one may be shorter."""

_FLOAT16_MAX = 65504.0
_BFLOAT16_MAX = float.fromhex("0x1.fep127")

Dtype = Literal["float16", "bfloat16"]
IntArray = npt.NDArray[np.integer[Any]]
FloatArray = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class ResidualBatch:
    """Rows of the residual stream at one hook point, and which token each one is of."""

    doc_id: IntArray
    """Document number of each row."""
    pos: IntArray
    """0-based place in the document."""
    token_id: IntArray
    """Id in the vocabulary."""
    is_special: npt.NDArray[np.bool_]
    """Position 0 or a special token: left out of statistics and training."""
    resid: FloatArray
    """One row a token, d_model columns, the stream's own units."""

    def __len__(self) -> int:
        return len(self.doc_id)


def write_part(
    path: Path, batches: Iterable[ResidualBatch], hook_point: str, dtype: Dtype = "float16"
) -> int:
    """Writes one shard, whole or not at all, and gives its number of rows.

    Args:
        path: the shard's file, by convention `part-00000.arrow`.
        batches: rows in document order, in batches of any size.
        hook_point: where on the stream they were read.
        dtype: how they are stored. float16 keeps 11 bits and refuses what exceeds 65,504;
            bfloat16 keeps 8 bits and reaches as far as float32.

    Raises:
        NotFinite: a value is NaN or infinite; the message names document and place.
        Overflow: a value is too large for the type; so does this one.
        SchemaMismatch: no rows at all, or batches of different widths.
    """
    rows = 0
    with whole_file(path) as scratch, pa.OSFile(str(scratch), "wb") as sink:
        writer: pa.RecordBatchStreamWriter | None = None
        d_model = 0
        for batch in _rebatched(batches):
            if writer is None:
                d_model = batch.resid.shape[1]
                schema = shard_schema(d_model, hook_point, dtype)
                writer = pa.ipc.new_stream(sink, schema)
            writer.write_batch(_record_batch(batch, schema, dtype))
            rows += len(batch)
        if writer is None:
            raise SchemaMismatch(
                f"no rows for {path}; expected at least one document in a shard; "
                "leave an empty shard out"
            )
        writer.close()
    return rows


def shard_schema(d_model: int, hook_point: str, dtype: Dtype) -> pa.Schema:
    """The Arrow schema of a shard."""
    match dtype:
        case "float16":
            value = pa.float16()
        case "bfloat16":
            value = pa.uint16()
        case _:
            assert_never(dtype)
    fields = [
        pa.field("doc_id", pa.int32(), nullable=False),
        pa.field("pos", pa.int32(), nullable=False),
        pa.field("token_id", pa.int32(), nullable=False),
        pa.field("is_special", pa.bool_(), nullable=False),
        pa.field(
            "resid",
            pa.list_(pa.field("item", value, nullable=False), d_model),
            nullable=False,
            metadata={"unit": "the residual stream's own units", "dtype": dtype},
        ),
    ]
    metadata = {
        "d_model": str(d_model),
        "dtype": dtype,
        "hook_point": hook_point,
        "schema_version": str(SCHEMA_VERSION),
    }
    return pa.schema(fields, metadata=metadata)


def _record_batch(batch: ResidualBatch, schema: pa.Schema, dtype: Dtype) -> pa.RecordBatch:
    d_model = schema.field("resid").type.list_size
    if batch.resid.shape[1] != d_model:
        raise SchemaMismatch(
            f"rows of {batch.resid.shape[1]} columns after rows of {d_model}; expected one width "
            "in a shard; write another model's residuals elsewhere"
        )
    stored = _stored(batch, dtype)
    columns = [
        pa.array(np.ascontiguousarray(batch.doc_id, dtype=np.int32)),
        pa.array(np.ascontiguousarray(batch.pos, dtype=np.int32)),
        pa.array(np.ascontiguousarray(batch.token_id, dtype=np.int32)),
        pa.array(np.ascontiguousarray(batch.is_special)),
        pa.FixedSizeListArray.from_arrays(
            pa.array(stored.reshape(-1)), type=schema.field("resid").type
        ),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _stored(batch: ResidualBatch, dtype: Dtype) -> npt.NDArray[Any]:
    """The rows in the type they are stored in, or an error that names the first bad one."""
    limit = _FLOAT16_MAX if dtype == "float16" else _BFLOAT16_MAX
    size = np.abs(batch.resid).max(axis=1)
    bad = ~(size <= limit)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        where = f"document {batch.doc_id[row]}, position {batch.pos[row]}"
        if not np.isfinite(size[row]):
            raise NotFinite(
                f"a residual at {where} is NaN or infinite; expected finite activations; "
                "run the model in float32 or bfloat16, or leave the document out"
            )
        remedy = "store them as bfloat16 (dump.dtype)" if dtype == "float16" else "scale them down"
        raise Overflow(
            f"a residual of {size[row]:g} at {where} does not fit {dtype}; expected at most "
            f"{limit:g}; {remedy}"
        )
    if dtype == "float16":
        return batch.resid.astype(np.float16)
    bits = np.ascontiguousarray(batch.resid, dtype=np.float32).view(np.uint32)
    # Round half to even: the kept bits' last one decides ties.
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _rebatched(batches: Iterable[ResidualBatch]) -> Iterator[ResidualBatch]:
    """The same rows in batches of exactly BATCH_ROWS, but for the last."""
    waiting: list[ResidualBatch] = []
    count = 0
    for batch in batches:
        waiting.append(batch)
        count += len(batch)
        if count >= BATCH_ROWS:
            joined = _joined(waiting)
            whole = count - count % BATCH_ROWS
            for start in range(0, whole, BATCH_ROWS):
                yield _sliced(joined, start, start + BATCH_ROWS)
            waiting, count = [_sliced(joined, whole, count)], count - whole
    if count:
        yield _joined(waiting)


def _joined(batches: list[ResidualBatch]) -> ResidualBatch:
    widths = {batch.resid.shape[1] for batch in batches}
    if len(widths) > 1:
        raise SchemaMismatch(
            f"rows of {sorted(widths)} columns together; expected one width in a shard; "
            "write another model's residuals elsewhere"
        )
    return ResidualBatch(
        np.concatenate([batch.doc_id for batch in batches]),
        np.concatenate([batch.pos for batch in batches]),
        np.concatenate([batch.token_id for batch in batches]),
        np.concatenate([batch.is_special for batch in batches]),
        np.concatenate([batch.resid for batch in batches]),
    )


def _sliced(batch: ResidualBatch, start: int, stop: int) -> ResidualBatch:
    inside = slice(start, stop)
    return ResidualBatch(
        batch.doc_id[inside],
        batch.pos[inside],
        batch.token_id[inside],
        batch.is_special[inside],
        batch.resid[inside],
    )
