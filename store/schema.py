"""Small tables as files: checked against their schema, sorted, and the same bytes each time.

The tables themselves are written down in `store.tables`. This module knows nothing of
what the rows say, only whether they have the right shape.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from store.atomic import whole_file
from store.errors import MissingArtefact, SchemaMismatch, TruncatedShard
from store.tables import SCHEMA_VERSION, TABLES, Column, Table

__all__ = [
    "SCHEMA_VERSION",
    "TABLES",
    "Column",
    "Table",
    "conform",
    "empty",
    "read_metadata",
    "read_metadata_of_runs",
    "read_table",
    "table_named",
    "write_table",
]

_ROW_GROUP_ROWS = 131_072


def table_named(name: str) -> Table:
    """The table of that name.

    Raises:
        SchemaMismatch: there is none.
    """
    if name not in TABLES:
        raise SchemaMismatch(
            f"no table {name!r}; expected one of {', '.join(sorted(TABLES))}; correct the name"
        )
    return TABLES[name]


def empty(name: str) -> pa.Table:
    """The table of that name with no rows."""
    return table_named(name).arrow_schema().empty_table()


def conform(name: str, rows: pa.Table) -> pa.Table:
    """The same rows with the columns, types and order that the table promises.

    Casts are safe: a number that would change by more than float rounding is refused. A
    column that is missing is NULL throughout; NaN, which SQL would sort above every
    number, becomes NULL.

    Raises:
        SchemaMismatch: a column that the table does not have, a key column that is
            missing, or values that its type cannot hold.
    """
    table = table_named(name)
    known = {column.name for column in table.columns}
    if unknown := [column for column in rows.column_names if column not in known]:
        raise SchemaMismatch(
            f"table {name} was given columns {unknown}; expected some of "
            f"{[column.name for column in table.columns]}; rename or drop them"
        )
    arrays = [_column(rows, name, column) for column in table.columns]
    result = pa.table(arrays, schema=table.arrow_schema())
    keys = [(column, "ascending") for column in table.order_by]
    return result.sort_by(keys) if result.num_rows else result


def write_table(path: Path, name: str, rows: pa.Table, metadata: Mapping[str, str]) -> None:
    """Writes the rows as sorted Parquet (zstd 3), whole or not at all.

    Rows that tie in the table's order keep the order they came in, so equal rows give
    equal bytes.

    Raises:
        SchemaMismatch: the rows are not of that table.
    """
    conformed = conform(name, rows)
    schema = table_named(name).arrow_schema(metadata)
    with whole_file(path) as scratch:
        pq.write_table(
            conformed.cast(schema),
            scratch,
            row_group_size=_ROW_GROUP_ROWS,
            compression="zstd",
            compression_level=3,
        )


def read_table(path: Path, name: str) -> pa.Table:
    """The rows of a file that `write_table` wrote.

    Raises:
        MissingArtefact: there is no such file.
        TruncatedShard: it is not whole Parquet.
        SchemaMismatch: it was written for another version or table.
    """
    if not path.is_file():
        raise MissingArtefact(
            f"no file {path}; expected the table {name}; run the stage that writes it"
        )
    try:
        rows = pq.read_table(path, partitioning=None)
    except (pa.ArrowInvalid, OSError) as error:
        raise TruncatedShard(
            f"{path} is not whole Parquet ({' '.join(str(error).split())}); expected the table "
            f"{name}; write it again"
        ) from error
    version = (rows.schema.metadata or {}).get(b"schema_version", b"none").decode()
    if version not in {"none", str(SCHEMA_VERSION)}:
        raise SchemaMismatch(
            f"{path} has schema version {version}; expected {SCHEMA_VERSION}; "
            "run the stage that writes it again"
        )
    return conform(name, rows)


def read_metadata(path: Path) -> dict[str, str]:
    """What a table's file says of itself, for the files that are made of it.

    Its name and schema version are left out, since they are its own.

    Raises:
        MissingArtefact: there is no such file.
        TruncatedShard: it is not whole Parquet.
    """
    if not path.is_file():
        raise MissingArtefact(
            f"no file {path}; expected the table {path.stem}; run the stage that writes it"
        )
    try:
        stored = pq.read_schema(path).metadata or {}
    except (pa.ArrowInvalid, OSError) as error:
        raise TruncatedShard(
            f"{path} is not whole Parquet ({' '.join(str(error).split())}); expected the table "
            f"{path.stem}; write it again"
        ) from error
    known = {key.decode(): value.decode() for key, value in stored.items()}
    return {key: text for key, text in known.items() if key not in {"table", "schema_version"}}


def read_metadata_of_runs(features_dir: Path, run_ids: Sequence[str]) -> dict[str, str]:
    """What the files of these SAEs say of themselves, for a file that is made of all of them.

    `run_id` says which SAEs. Where they agree on a key, it has that one value; where not, a
    value an SAE, joined by commas in the order of `run_id` and empty where one says nothing.

    Args:
        features_dir: the folder that holds one SAE's features a folder, named by its run_id.

    Raises:
        MissingArtefact: an SAE has no `run.parquet`.
        TruncatedShard: one of them is not whole Parquet.
    """
    each = [read_metadata(features_dir / run_id / "run.parquet") for run_id in run_ids]
    joined = {"run_id": ",".join(run_ids)}
    for key in sorted(set().union(*each)):
        said = [meta.get(key, "") for meta in each]
        joined[key] = said[0] if len(set(said)) == 1 else ",".join(said)
    return joined


def _column(rows: pa.Table, name: str, column: Column) -> pa.ChunkedArray:
    if column.name not in rows.column_names:
        if rows.num_rows and column.name in table_named(name).order_by[:1]:
            raise SchemaMismatch(
                f"table {name} was given no column {column.name}; expected it in every row, "
                "since rows are sorted by it; add it"
            )
        return pa.chunked_array([pa.nulls(rows.num_rows, column.type)])
    values = rows[column.name]
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    try:
        if pa.types.is_floating(values.type) and pa.types.is_floating(column.type):
            # A float64 is rounded to REAL knowingly; Arrow's safe cast allows it.
            values = pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
        return values.cast(column.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise SchemaMismatch(
            f"column {column.name} of table {name} does not fit ({' '.join(str(error).split())}); "
            f"expected {column.type}: {column.unit}; convert it first"
        ) from error
