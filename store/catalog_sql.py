"""The text of catalog.sql: one view a table, the view `feature`, the macros, and all units.

Pure text from names and numbers; nothing here opens a file or a connection. Paths are
relative to the workspace, so that the text is the same wherever the workspace lies.
"""

from dataclasses import dataclass
from importlib import resources

from store.activation_files import bucket_width
from store.tables import FILE_STEMS, TABLES, Column, Table

# A first letter keeps scratch folders, whose names start with a dot, out of a glob.
_ANY = "[a-z0-9]*"


@dataclass(frozen=True, slots=True)
class RunWidth:
    """What the catalog must know of an SAE: its slug and its number of latents."""

    run_id: str
    d_sae: int


def catalog_sql(runs: tuple[RunWidth, ...]) -> str:
    """The whole of catalog.sql.

    Args:
        runs: the SAEs whose features are to be seen; the first is the one that macros mean
            when they are given no `run_id`.
    """
    views = [
        _activation_view("act", "act_feature/*", runs),
        _activation_view("act_token", "act_token", runs),
    ]
    for table in TABLES.values():
        if table.name == "decoder":
            # Too wide to be copied with the small tables, so read where it was written.
            views.append(_table_view(table, _paths(runs, "decoder.parquet")))
        elif table.name == "token":
            views.append(_token_view(table))
        elif table.name == "label":
            views.append(_with_output_label(table, _OF_AN_OUTPUT_LABEL, "true"))
        elif table.name == "label_score":
            views.append(_with_output_label(table, _OF_ITS_SCORE, "t.metric = 'output_score'"))
        elif table.name not in {"act", "act_token"}:
            stem = FILE_STEMS.get(table.name, table.name)
            views.append(_table_view(table, f"'data/{_ANY}/{stem}.parquet'"))
    macros = resources.files("store").joinpath("macros.sql").read_text(encoding="utf-8")
    filled = macros.replace("__DEFAULT_RUN__", f"'{runs[0].run_id}'")
    return "\n".join([_HEAD, *views, _bucket_macro(runs), filled, _comments()])


def _paths(runs: tuple[RunWidth, ...], inside: str) -> str:
    listed = ",\n    ".join(f"'data/features/{run.run_id}/{inside}'" for run in runs)
    return f"[\n    {listed}]"


def literal_path(path: str) -> str:
    """A path as it must stand between quotes in a file pattern: nothing in it is special."""
    escaped = "".join(f"[{character}]" if character in "[*?" else character for character in path)
    return escaped.replace("'", "''")


_HEAD = """\
-- Views and macros over the workspace's Parquet files; written by the stage `index`.
-- From the workspace: duckdb -init data/store/catalog.sql
-- From anywhere: store.open("path/to/workspace") in Python.
"""


def _table_view(table: Table, files: str) -> str:
    # Every column is qualified: a macro's parameter of the same name would stand for it.
    columns = ",\n       ".join(
        f"{_as_json(column, f't.{column.name}')} AS {column.name}" for column in table.columns
    )
    return (
        f"CREATE OR REPLACE VIEW {table.name} AS\nSELECT {columns}\n"
        f"FROM read_parquet({files}, union_by_name = true, hive_partitioning = false) AS t;\n"
    )


def _token_view(table: Table) -> str:
    """`token` with the loss that the stage `dump` may have measured, in place of the empty one."""
    columns = ", ".join("l.loss" if c.name == "loss" else f"t.{c.name}" for c in table.columns)
    return (
        f"CREATE OR REPLACE VIEW token AS\nSELECT {columns}\n"
        f"FROM read_parquet('data/{_ANY}/token.parquet', hive_partitioning = false) AS t\n"
        f"LEFT JOIN read_parquet('data/{_ANY}/{FILE_STEMS['token_loss']}.parquet',\n"
        "    union_by_name = true, hive_partitioning = false) AS l ON l.tok = t.tok;\n"
    )


_OF_AN_OUTPUT_LABEL = {
    name: f"coalesce(o.{name}, t.{name})"
    for name in ("name", "slug", "text", "rule", "method", "status")
}
_OF_ITS_SCORE = {
    name: f"CASE WHEN o.label_id IS NULL THEN t.{name} ELSE {scored} END"
    for name, scored in {
        "metric": "'output_gain'",
        "value": "o.value",
        "lo": "o.lo",
        "hi": "o.hi",
        "null_value": "greatest(o.null_value, o.other_value)",
        "n_pos": "o.n",
        "negatives": "'random directions, and other features'' tokens'",
        "split": "'calibrate'",
        "reason": "NULL",
    }.items()
}


def _with_output_label(table: Table, found: dict[str, str], where: str) -> str:
    """A view of labels with what the stage `directions` may have found of the output side.

    Args:
        found: SQL by column, of the table's row `t` and the found one `o`.
        where: which rows of the table are of a label on the output side.
    """
    columns = ",\n       ".join(
        f"{_as_json(column, found.get(column.name, f't.{column.name}'))} AS {column.name}"
        for column in table.columns
    )
    return (
        f"CREATE OR REPLACE VIEW {table.name} AS\nSELECT {columns}\n"
        f"FROM read_parquet('data/{_ANY}/{table.name}.parquet', union_by_name = true,\n"
        "    hive_partitioning = false) AS t\n"
        f"LEFT JOIN read_parquet('data/{_ANY}/output_label.parquet', union_by_name = true,\n"
        "    hive_partitioning = false) AS o\n"
        f"ON o.run_id = t.run_id AND o.label_id = t.label_id AND o.rank = 0 AND {where};\n"
    )


def _as_json(column: Column, value: str) -> str:
    return f"CAST({value} AS JSON)" if column.is_json else value


def _activation_view(name: str, folder: str, runs: tuple[RunWidth, ...]) -> str:
    """`act` and `act_token`: the SAE and the bucket are read off each file's path.

    Both are functions of the file's name alone, so a filter on them is settled before a
    file is opened.
    """
    columns = ", ".join(f"t.{column.name}" for column in TABLES[name].columns)
    place = -4 if "/" in folder else -3
    bucket = "CAST(regexp_extract(t.filename, 'bucket=(\\d+)', 1) AS INTEGER) AS bucket, "
    return (
        f"CREATE OR REPLACE VIEW {name}_file AS\n"
        f"SELECT parse_path(t.filename)[{place}] AS run_id, "
        f"{bucket if name == 'act' else ''}{columns}\n"
        f"FROM read_parquet({_paths(runs, f'{folder}/{_ANY}.parquet')},\n"
        "    filename = true, hive_partitioning = false) AS t;\n"
        f"CREATE OR REPLACE VIEW {name} AS SELECT t.run_id, {columns} FROM {name}_file AS t;\n"
        f"COMMENT ON VIEW {name}_file IS '{name} as its files lie';\n"
    )


def _bucket_macro(runs: tuple[RunWidth, ...]) -> str:
    """The bucket of a feature, as a CASE of constants so that it folds before the scan."""
    cases = "\n".join(
        f"    WHEN '{run.run_id}' THEN fid // {bucket_width(run.d_sae)}" for run in runs
    )
    return (
        f"CREATE OR REPLACE MACRO act_bucket(run, fid) AS CASE run\n{cases}\n    ELSE -1 END;\n"
        "COMMENT ON MACRO act_bucket IS 'the bucket of act_file that holds a feature';\n"
    )


def _comments() -> str:
    """Each view's order and each column's unit, where `duckdb_columns()` shows them to anyone."""
    lines = []
    for table in TABLES.values():
        units = {column.name: column.unit for column in table.columns}
        if table.name in {"act", "act_token"}:
            units = {"run_id": TABLES["run"].columns[0].unit, **units}
        order = "sorted by " + ", ".join(table.order_by)
        lines.append(f"COMMENT ON VIEW {table.name} IS '{order}';")
        lines.extend(_comment(table.name, name, unit) for name, unit in units.items())
    for table_name in ("label", "feature_stats"):
        for column in TABLES[table_name].columns:
            if table_name == "feature_stats" or column.name in _OF_THE_LABEL:
                lines.append(_comment("feature", column.name, column.unit))
    return "\n".join(lines) + "\n"


def _comment(view: str, column: str, unit: str) -> str:
    escaped = unit.replace("'", "''")
    return f"COMMENT ON COLUMN {view}.{column} IS '{escaped}';"


_OF_THE_LABEL = ("label_id", "name", "slug", "text", "method", "side")
"""Columns that the view `feature` takes from `label` as they are."""


def columns_of(table: Table) -> list[dict[str, str]]:
    """The columns of a table as schema.json lists them: name, SQL type, unit."""
    return [
        {"name": column.name, "type": sql_type(column), "unit": column.unit}
        for column in table.columns
    ]


def sql_type(column: Column) -> str:
    """The DuckDB type that a view offers the column as."""
    return "JSON" if column.is_json else _SQL_TYPES[str(column.type)]


_SQL_TYPES = {
    "bool": "BOOLEAN",
    "double": "DOUBLE",
    "float": "REAL",
    "int16": "SMALLINT",
    "int32": "INTEGER",
    "int64": "BIGINT",
    "int8": "TINYINT",
    "list<item: float>": "REAL[]",
    "list<item: int32>": "INTEGER[]",
    "string": "VARCHAR",
}
