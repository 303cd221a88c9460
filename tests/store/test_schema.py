import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.errors import MissingArtefact, SchemaMismatch, TruncatedShard
from store.manifest import content_hash
from store.schema import (
    TABLES,
    conform,
    empty,
    read_metadata,
    read_metadata_of_runs,
    read_table,
    write_table,
)
from store.tables import CORPUS_TABLES, LATER_TABLES, SAE_TABLES, SCHEMA_VERSION


@pytest.mark.parametrize("name", sorted(TABLES))
def test_every_column_states_its_unit_and_is_named_once(name: str) -> None:
    table = TABLES[name]
    names = [column.name for column in table.columns]
    assert len(set(names)) == len(names)
    assert all(column.unit for column in table.columns)
    assert set(table.order_by) <= set(names)
    schema = table.arrow_schema({"k": "v"})
    assert schema.metadata[b"k"] == b"v"
    assert all(schema.field(column.name).metadata[b"unit"] for column in table.columns)


def test_each_table_has_one_writer() -> None:
    written = [*CORPUS_TABLES, *SAE_TABLES, *LATER_TABLES, "act", "act_token"]
    assert sorted(written) == sorted(TABLES)


@pytest.mark.parametrize("name", [*SAE_TABLES, "label", "label_score", "feature_concept"])
def test_a_table_of_one_sae_begins_with_its_run(name: str) -> None:
    assert TABLES[name].columns[0].name == "run_id"


@pytest.mark.parametrize("name", sorted(TABLES))
def test_an_empty_table_survives_the_disk(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.parquet"
    write_table(path, name, empty(name), {})
    assert read_table(path, name) == empty(name)


rows_of_stats = st.lists(
    st.tuples(st.integers(0, 2**31 - 1), st.floats(width=32, allow_nan=False)),
    max_size=20,
    unique_by=lambda row: row[0],
)


@settings(max_examples=30)
@given(rows=rows_of_stats)
def test_rows_come_back_sorted_and_unchanged(
    rows: list[tuple[int, float]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("table") / "feature_stats.parquet"
    table = pa.table(
        {
            "feature_id": pa.array([row[0] for row in rows], pa.int64()),
            "run_id": pa.array(["main"] * len(rows), pa.string()),
            "max_value": pa.array([row[1] for row in rows], pa.float64()),
        }
    )
    write_table(path, "feature_stats", table, {})
    back = read_table(path, "feature_stats")
    assert list(
        zip(back["feature_id"].to_pylist(), back["max_value"].to_pylist(), strict=True)
    ) == (sorted(rows))
    assert back.schema.equals(TABLES["feature_stats"].arrow_schema())


def test_equal_rows_in_another_order_give_equal_bytes(tmp_path: Path) -> None:
    ids = [5, 3, 9]
    for name, order in {"one": ids, "other": ids[::-1]}.items():
        rows = pa.table({"run_id": ["main"] * 3, "feature_id": order, "n_act": order})
        write_table(tmp_path / name, "feature_stats", rows, {"b": "2", "a": "1"})
    assert content_hash(tmp_path / "one") == content_hash(tmp_path / "other")


def test_nan_becomes_null() -> None:
    rows = conform("sae_metric", pa.table({"run_id": ["main"], "value": [math.nan]}))
    assert rows["value"].to_pylist() == [None]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"run_id": ["main"], "colour": [1]}, r"columns \['colour'\]"),
        ({"feature_id": [1]}, "no column run_id"),
        ({"run_id": ["main"], "feature_id": [2**40]}, "column feature_id"),
        ({"run_id": ["main"], "feature_id": ["seven"]}, "column feature_id"),
        ({"run_id": ["main"], "n_act": [1.5]}, "column n_act"),
    ],
)
def test_rows_of_another_shape_are_refused_and_nothing_is_written(
    columns: dict[str, list[object]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(SchemaMismatch, match=message):
        write_table(tmp_path / "x.parquet", "feature_stats", pa.table(columns), {})
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_table_lists_the_known_ones() -> None:
    with pytest.raises(SchemaMismatch, match=r"no table 'featur'.*feature_stats"):
        empty("featur")


def test_a_missing_broken_or_older_file_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "run.parquet"
    with pytest.raises(MissingArtefact, match="no file"):
        read_table(path, "run")
    path.write_bytes(b"PAR1 cut short")
    with pytest.raises(TruncatedShard, match="not whole Parquet"):
        read_table(path, "run")
    with pytest.raises(TruncatedShard, match="not whole Parquet"):
        read_metadata(path)
    old = empty("run").replace_schema_metadata({"schema_version": "0"})
    pq.write_table(old, path)
    with pytest.raises(SchemaMismatch, match=f"schema version 0; expected {SCHEMA_VERSION}"):
        read_table(path, "run")


def test_what_a_file_says_of_itself_comes_back_without_its_name(tmp_path: Path) -> None:
    path = tmp_path / "run.parquet"
    with pytest.raises(MissingArtefact, match="no file"):
        read_metadata(path)
    write_table(path, "run", empty("run"), {"sae_sha": "abc", "hook_point": "p"})
    assert read_metadata(path) == {"hook_point": "p", "sae_sha": "abc"}


def test_what_several_runs_say_is_one_value_where_they_agree_and_else_one_a_run(
    tmp_path: Path,
) -> None:
    for run_id, sha in (("a", "1"), ("b", "2"), ("c", "1")):
        said = {"sae_sha": sha, "model": "m"} | ({"note": "n"} if run_id == "b" else {})
        write_table(tmp_path / run_id / "run.parquet", "run", empty("run"), said)
    assert read_metadata_of_runs(tmp_path, ["c", "b", "a"]) == {
        "run_id": "c,b,a",
        "sae_sha": "1,2,1",
        "model": "m",
        "note": ",n,",
    }
    assert read_metadata_of_runs(tmp_path, ["b"])["sae_sha"] == "2"
    with pytest.raises(MissingArtefact, match=r"no file .*run\.parquet"):
        read_metadata_of_runs(tmp_path, ["a", "d"])
