"""The catalog: SQL views and macros over a workspace's files, and a connection that has them.

No database file is written, since its bytes differ on every run: `data/store/` holds
catalog.sql, schema.json, the small tables of all SAEs together, and an empty file for
each table that a later stage writes, so that one catalog is right before and after it.
"""

import re
from collections.abc import Mapping, Sequence
from glob import glob
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from store.activation_files import open_file
from store.atomic import whole_dir
from store.catalog_sql import RunWidth, catalog_sql, columns_of, literal_path
from store.errors import MissingArtefact, SchemaMismatch
from store.manifest import read_json, write_json
from store.schema import empty, read_metadata_of_runs, read_table, write_table
from store.tables import FILE_STEMS, SAE_TABLES, SCHEMA_VERSION, TABLES

STORE_DIR = Path("data/store")
FEATURES_DIR = Path("data/features")
_COPIED = tuple(name for name in SAE_TABLES if name != "decoder")
_NOT_SEEDED = frozenset({"act", "act_token", "decoder", *_COPIED})


def write_catalog(workspace: Path, runs: Sequence[str] | None = None) -> None:
    """Builds `data/store/` from `data/features/` and `data/corpus/`, whole or not at all.

    Args:
        workspace: the folder that holds `data/`.
        runs: slugs of the SAEs to show; macros mean the first when they are given no
            `run_id`. All that are there, in alphabetical order, by default.

    Raises:
        MissingArtefact: no features, or an SAE's folder without its tables.
        TruncatedShard: a file of them is cut short.
        SchemaMismatch: two runs with one slug, or features of different corpora, of
            another version, or whose tables do not agree with each other.
    """
    slugs = list(runs) if runs is not None else _slugs(workspace)
    if not slugs:
        raise MissingArtefact(
            f"no features under {workspace / FEATURES_DIR}; expected a folder an SAE; "
            "run `dvc repro harvest` first"
        )
    if twice := sorted({slug for slug in slugs if slugs.count(slug) > 1}):
        raise SchemaMismatch(
            f"two runs with the slug {', '.join(twice)}; expected a slug to name one SAE, since it "
            "is the run_id; rename one under `sae:` in params.yaml and harvest it again"
        )
    with whole_dir(workspace / STORE_DIR) as folder:
        meta = read_metadata_of_runs(workspace / FEATURES_DIR, slugs)
        widths = _copy_small_tables(workspace, slugs, folder, meta)
        for name in TABLES:
            if name not in _NOT_SEEDED:
                seed = folder / f"{FILE_STEMS.get(name, name)}.parquet"
                write_table(seed, name, empty(name), meta)
        (folder / "catalog.sql").write_text(catalog_sql(widths), encoding="utf-8")
        write_json(folder / "schema.json", _schema_json(widths))


def open(workspace: Path) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection with the views and macros of the workspace, from anywhere.

    It lives in memory, so a view or macro that it changes is changed for itself alone. It is
    for SQL of one's own, which may read and write any file; SQL from outside goes through
    `store.query`.

    In a notebook, from wherever it was started::

        import store

        con = store.open(Path("path/to/workspace"))
        con.sql("SELECT slug, score, lo, null_value FROM feature ORDER BY lo DESC LIMIT 5")
        table = con.sql("FROM top_contexts(3, 20)").to_arrow_table()

    The first line shows itself as a table; the second gives Arrow, and `.fetchall()` plain
    tuples; no pandas is needed. `SELECT * FROM duckdb_columns()` has every unit as a comment.
    Files that a later stage writes are seen by the next query.

    Args:
        workspace: the folder that holds `data/store`.

    Raises:
        MissingArtefact: there is no catalog in the workspace, or a file that it reads.
        SchemaMismatch: the catalog is of another version.
    """
    sql = read_catalog(workspace)
    connection = duckdb.connect(
        ":memory:",
        config={
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "temp_directory": str(workspace.resolve() / ".work" / "spill"),
        },
    )
    try:
        connection.execute(sql)
    except duckdb.Error as error:
        connection.close()
        raise MissingArtefact(
            f"the catalog of {workspace} does not fit its files ({' '.join(str(error).split())}); "
            "expected every file that it reads; run `dvc repro index` again"
        ) from error
    return connection


def read_catalog(workspace: Path) -> str:
    """The workspace's catalog.sql with absolute paths in it.

    Raises:
        MissingArtefact: there is none.
        SchemaMismatch: it was written by another version.
    """
    folder = workspace.resolve() / STORE_DIR
    catalog = folder / "catalog.sql"
    if not catalog.is_file():
        raise MissingArtefact(
            f"no catalog under {folder}; expected the stage index to have run; "
            "run `dvc repro index` first"
        )
    version = read_json(folder / "schema.json").get("schema_version")
    if version != SCHEMA_VERSION:
        raise SchemaMismatch(
            f"the store under {folder} has schema version {version}; expected {SCHEMA_VERSION}; "
            "run `dvc repro index` again"
        )
    prefix = literal_path(workspace.resolve().as_posix())
    return catalog.read_text(encoding="utf-8").replace("'data/", f"'{prefix}/data/")


def files_of(catalog: str) -> list[str]:
    """Every path that the views of a catalog read: their patterns, and the files there now.

    Args:
        catalog: its text with absolute paths, as `read_catalog` gives it.
    """
    listed = re.findall(r"'(/(?:[^'\n]|'')*\.parquet)'", catalog)
    patterns = sorted({path.replace("''", "'") for path in listed})
    return [*patterns, *sorted({file for pattern in patterns for file in glob(pattern)})]


def _slugs(workspace: Path) -> list[str]:
    folders = (workspace / FEATURES_DIR).glob("[a-z0-9]*")
    return sorted(path.name for path in folders if path.is_dir())


def _copy_small_tables(
    workspace: Path, slugs: Sequence[str], folder: Path, meta: Mapping[str, str]
) -> tuple[RunWidth, ...]:
    """Writes the small tables of all SAEs together, and gives what the views must know."""
    for name in _COPIED:
        tables = [_table_of(workspace / FEATURES_DIR / slug, slug, name) for slug in slugs]
        if name == "run":
            _check_runs(workspace, tables)
            runs = [row for table in tables for row in table.to_pylist()]
        write_table(folder / f"{name}.parquet", name, pa.concat_tables(tables), meta)
    return tuple(RunWidth(str(row["run_id"]), int(row["d_sae"])) for row in runs)


def _table_of(features_dir: Path, slug: str, name: str) -> pa.Table:
    """One SAE's table; only `sae_metric` may be missing."""
    path = features_dir / f"{name}.parquet"
    if name == "sae_metric" and not path.exists():
        return empty(name)
    rows = read_table(path, name)
    named = set(rows["run_id"].unique().to_pylist())
    if named - {slug}:
        raise SchemaMismatch(
            f"{path} speaks of the runs {sorted(map(str, named))}; expected {slug!r}, the name of "
            f"its folder; run `dvc repro harvest@{slug}` again"
        )
    return rows


def _check_runs(workspace: Path, tables: Sequence[pa.Table]) -> None:
    """Refuses features of another corpus, or activations that are not all there."""
    rows = []
    for table in tables:
        if table.num_rows != 1:
            raise SchemaMismatch(
                f"run.parquet has {table.num_rows} rows; expected one an SAE; "
                "run `dvc repro harvest` again"
            )
        rows.append(table.to_pylist()[0])
    tokens = workspace / "data/corpus/token.parquet"
    if not tokens.is_file():
        raise MissingArtefact(f"no file {tokens}; expected tokens; run `dvc repro corpus` first")
    n_tokens = pq.read_metadata(tokens).num_rows
    for row in rows:
        if row["n_tokens"] != n_tokens or row["corpus_sha"] != rows[0]["corpus_sha"]:
            raise SchemaMismatch(
                f"the features of {row['run_id']!r} are of {row['n_tokens']} tokens of corpus "
                f"{row['corpus_sha']}; expected {n_tokens} tokens of one corpus; "
                f"run `dvc repro harvest@{row['run_id']}` again"
            )
        _check_files(workspace / FEATURES_DIR / row["run_id"], row)


def _check_files(features_dir: Path, row: dict[str, Any]) -> None:
    if not (features_dir / "decoder.parquet").is_file():
        raise MissingArtefact(
            f"no file {features_dir / 'decoder.parquet'}; expected the decoder's rows; "
            f"run `dvc repro harvest@{row['run_id']}` again"
        )
    for order in ("act_feature/bucket=*", "act_token"):
        files = sorted(features_dir.glob(f"{order}/*.parquet"))
        if not files:
            raise MissingArtefact(
                f"no activations under {features_dir / order}; expected both sort orders; "
                f"run `dvc repro harvest@{row['run_id']}` again"
            )
        found = sum(open_file(file).metadata.num_rows for file in files)
        if found != row["n_act"]:
            raise SchemaMismatch(
                f"{features_dir / order} holds {found} activations; expected {row['n_act']}, as "
                f"its run.parquet says; run `dvc repro harvest@{row['run_id']}` again"
            )


def _schema_json(runs: Sequence[RunWidth]) -> dict[str, Any]:
    tables = {
        table.name: {"columns": columns_of(table), "order_by": list(table.order_by)}
        for table in TABLES.values()
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "default_run": runs[0].run_id,
        "runs": [run.run_id for run in runs],
        "tables": tables,
    }
