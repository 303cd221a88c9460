"""SQL from outside. One child answers all the hostile statements: it must survive them."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from store.errors import MissingArtefact, QueryRefused, QueryTimeout
from store.manifest import content_hash
from store.sandbox import Sandbox, query

NOT_ONE_SELECT = [
    "",
    "-- nothing",
    "/* nothing */ ;",
    "SELECT 1; SELECT 2",
    "SELECT 1; COPY token TO '{data}/x.csv'",
    "SELECT 1 /* ; */ ; DROP VIEW token",
    "COPY token TO '{data}/x.csv'",
    "COPY (SELECT 1) TO '{data}/x.parquet' (FORMAT parquet)",
    "COPY (SELECT 1) TO '/dev/stdout'",
    "COPY (SELECT 1) TO STDOUT",
    "COPY token FROM '{data}/x.csv'",
    "COPY FROM DATABASE memory TO other",
    "EXPORT DATABASE '{data}/export'",
    "IMPORT DATABASE '{data}/export'",
    "ATTACH '{data}/x.duckdb'",
    "ATTACH ':memory:' AS other",
    "DETACH memory",
    "USE memory",
    "INSTALL httpfs",
    "LOAD httpfs",
    "LOAD '/tmp/evil.duckdb_extension'",
    "UPDATE EXTENSIONS",
    "PRAGMA database_list",
    "PRAGMA enable_profiling",
    "PRAGMA profiling_output = '{data}/profile.json'",
    "SET threads = 64",
    "SET memory_limit = '1TB'",
    "SET enable_external_access = true",
    "SET lock_configuration = false",
    "SET temp_directory = '{data}'",
    "SET VARIABLE a = 1",
    "RESET memory_limit",
    "CALL enable_logging(storage = 'file', storage_path = '{data}')",
    "CALL pragma_version()",
    "EXPLAIN SELECT 1",
    "EXPLAIN ANALYZE SELECT 1",
    "EXPLAIN (ANALYZE) COPY token TO '{data}/x.csv'",
    "PIVOT token ON pos USING count(*)",
    "FROM (PIVOT token ON pos USING count(*))",
    "CREATE TABLE x AS SELECT 1",
    "CREATE OR REPLACE VIEW token AS SELECT 1",
    "CREATE TEMP MACRO f() AS 1",
    "CREATE SECRET (TYPE s3)",
    "CREATE SEQUENCE s",
    "CREATE TYPE t AS ENUM ('a')",
    "DROP VIEW token",
    "ALTER VIEW token RENAME TO gone",
    "COMMENT ON VIEW token IS 'mine'",
    "INSERT INTO token VALUES (1)",
    "UPDATE token SET pos = 0",
    "DELETE FROM token",
    "TRUNCATE token",
    "MERGE INTO token USING doc ON true WHEN MATCHED THEN DELETE",
    "BEGIN TRANSACTION",
    "COMMIT",
    "ROLLBACK",
    "CHECKPOINT",
    "VACUUM",
    "ANALYZE",
    "PREPARE p AS SELECT 1",
    "EXECUTE p",
    "DEALLOCATE p",
    "WITH x AS (COPY (SELECT 1) TO '{data}/x.csv') FROM x",
    "WITH x AS (COPY token TO '{data}/store/run.parquet') SELECT * FROM x",
    "WITH x AS (INSERT INTO token VALUES (1) RETURNING *) FROM x",
    "WITH x AS (DELETE FROM token RETURNING *) FROM x",
    "WITH x AS (UPDATE token SET pos = 0 RETURNING *) FROM x",
    "SELECT * FROM (WITH x AS (COPY (SELECT 1) TO '{data}/x.csv') FROM x)",
    "FROM query('SELECT 1')",
    'FROM main."QUERY"(\'WITH x AS (COPY (SELECT 1) TO "{data}/x.csv") FROM x\')',
    "FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))",
]

OUT_OF_REACH = [
    "FROM read_text('/etc/passwd')",
    "FROM read_blob('/etc/passwd')",
    "FROM read_csv('/etc/passwd')",
    "FROM '/etc/passwd'",
    "FROM read_parquet('{data}/../secret.parquet')",
    "FROM read_text('{data}/../params.yaml')",
    "FROM read_text('{data}/corpus/../../params.yaml')",
    "FROM read_text('params.yaml')",
    "FROM glob('/etc/*')",
    "FROM glob('{data}/../*')",
    "FROM sniff_csv('/etc/passwd')",
    "FROM read_json_auto('http://127.0.0.1:9/x')",
    "FROM read_parquet('s3://bucket/x.parquet')",
    "FROM read_csv('/dev/stdin')",
    "FROM enable_logging(storage = 'file', storage_path = '{data}')",
    "FROM enable_profiling(save_location = '{data}/profile.json')",
    "SELECT getenv('HOME')",
    "FROM sandbox",
    "FROM sys",
    "SELECT",
    "SELEC 1",
    "SELECT 'open",
    "SELECT no_such_column FROM token",
    "FROM no_such_table",
    "SELECT error('boom')",
]


@pytest.fixture(scope="module")
def sandbox(workspace: Path) -> Iterator[Sandbox]:
    (workspace / "params.yaml").write_text("seed: 0\n")
    with Sandbox(workspace) as running:
        yield running


def one(sandbox: Sandbox, sql: str) -> object:
    return sandbox.query(sql).to_pylist()[0].popitem()[1]


def test_there_are_enough_hostile_statements() -> None:
    assert len(set(NOT_ONE_SELECT)) + len(set(OUT_OF_REACH)) >= 90


@pytest.mark.parametrize("sql", NOT_ONE_SELECT)
def test_what_is_not_one_reading_select_is_refused(
    sql: str, sandbox: Sandbox, workspace: Path
) -> None:
    before = content_hash(workspace)
    with pytest.raises(QueryRefused, match="expected"):
        sandbox.query(sql.replace("{data}", str(workspace / "data")))
    assert content_hash(workspace) == before
    assert one(sandbox, "SELECT count(*) FROM token") == 240


@pytest.mark.parametrize("sql", OUT_OF_REACH)
def test_a_select_reaches_nothing_but_the_data(sql: str, sandbox: Sandbox, workspace: Path) -> None:
    before = content_hash(workspace)
    with pytest.raises(QueryRefused, match="the query failed"):
        sandbox.query(sql.replace("{data}", str(workspace / "data")))
    assert content_hash(workspace) == before
    assert one(sandbox, "SELECT count(*) FROM token") == 240


def test_a_serialised_statement_does_not_get_by(sandbox: Sandbox, workspace: Path) -> None:
    target = workspace / "data" / "x.csv"
    copy = f"WITH x AS (COPY (SELECT 1) TO '{target}') FROM x"
    quoted = copy.replace("'", "''")
    tree = one(sandbox, f"SELECT json_serialize_sql('{quoted}')")
    assert json.loads(str(tree))["error"] is False
    text = str(tree).replace("'", "''")
    with pytest.raises(QueryRefused, match="runs text as SQL"):
        sandbox.query(f"FROM json_execute_serialized_sql('{text}')")
    assert not target.exists()


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1",
        "SELECT 1;",
        "SELECT 1 -- a comment",
        "/* ; DROP */ SELECT 1",
        "VALUES (1)",
        "WITH x AS (SELECT 1) FROM x",
        "WITH x AS MATERIALIZED (SELECT 1) FROM x",
        "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 1) FROM r",
        "SELECT 1 UNION SELECT 1",
        "SELECT ';' = ';' AND true",
        "SELECT count(DISTINCT run_id) - 1 FROM act",
        "FROM (SELECT 1) QUALIFY row_number() OVER () = 1",
    ],
)
def test_a_reading_select_is_answered(sql: str, sandbox: Sandbox) -> None:
    assert one(sandbox, sql) in {1}


@pytest.mark.parametrize(
    "sql",
    [
        "FROM top_contexts(3, 5)",
        "FROM active_at(40, 42)",
        "FROM coact(3, 4)",
        "FROM nearest(3, 4)",
        "FROM promotes('w3')",
        "FROM search_label('sea')",
        "FROM steer_vec('sea', 1)",
        "SELECT * FROM feature",
        "DESCRIBE act",
        "SUMMARIZE token",
        "FROM duckdb_views()",
    ],
)
def test_macros_and_views_work_inside(sql: str, sandbox: Sandbox) -> None:
    assert sandbox.query(sql).num_rows > 0


def test_names_types_and_order_survive(sandbox: Sandbox) -> None:
    table = sandbox.query("SELECT 'é' AS \"a b\", [1.5, NULL] AS l, {'k': 1} AS s, NULL AS n")
    assert table.column_names == ["a b", "l", "s", "n"]
    assert table.to_pylist()[0]["l"] == [1.5, None]
    rows = sandbox.query("SELECT tok FROM token ORDER BY tok DESC", max_rows=3)
    assert rows["tok"].to_pylist() == [239, 238, 237]


@pytest.mark.parametrize(("limit", "is_cut"), [(239, b"true"), (240, b"false"), (0, b"true")])
def test_rows_are_limited_and_the_cut_is_told(limit: int, is_cut: bytes, sandbox: Sandbox) -> None:
    table = sandbox.query("SELECT tok FROM token", max_rows=limit)
    assert table.num_rows == min(limit, 240)
    assert table.schema.metadata == {b"is_cut": is_cut}


def test_an_endless_query_is_interrupted_and_the_child_lives_on(sandbox: Sandbox) -> None:
    begun = time.monotonic()
    with pytest.raises(QueryTimeout, match=r"past its 0\.3 s"):
        sandbox.query("SELECT count(*) FROM range(1000000000) a, range(1000) b", timeout_s=0.3)
    assert time.monotonic() - begun < 10
    assert one(sandbox, "SELECT 1") == 1


def test_a_query_that_hears_no_interrupt_ends_its_child_and_the_next_one_is_answered(
    workspace: Path,
) -> None:
    with Sandbox(workspace) as own:
        begun = time.monotonic()
        with pytest.raises(QueryTimeout, match="was ended"):
            own.query("SELECT list_sum(range(60000000))", timeout_s=0.3)
        assert time.monotonic() - begun < 20
        assert one(own, "SELECT 1") == 1


def test_too_much_memory_or_too_large_an_answer_is_refused(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(QueryRefused, match="Out of Memory"):
        sandbox.query("SELECT string_agg(repeat('x', 1000000), '') FROM range(2000)")
    monkeypatch.setattr("store.sandbox.MAX_BYTES", 10_000)
    with pytest.raises(QueryRefused, match="more than 10,000 bytes"):
        sandbox.query("SELECT repeat('x', 1000) FROM range(1000)")


def test_a_child_that_dies_is_replaced(workspace: Path) -> None:
    with Sandbox(workspace) as own:
        assert one(own, "SELECT 1") == 1
        assert own._child is not None
        own._child.kill()
        own._child.wait()
        assert one(own, "SELECT 2") == 2


def test_one_query_needs_one_call(workspace: Path) -> None:
    assert query(workspace, "SELECT count(*) AS n FROM token").to_pylist() == [{"n": 240}]


@pytest.mark.parametrize("memory", ["", "lots", "1", "1GB'; SET threads=64; --", "-1GB"])
def test_an_amount_of_memory_is_checked(memory: str, workspace: Path) -> None:
    with pytest.raises(QueryRefused, match="is not an amount of memory"):
        query(workspace, "SELECT 1", memory=memory)


@pytest.mark.parametrize(("rows", "seconds"), [(-1, 1.0), (1, 0.0), (1, -1.0)])
def test_limits_are_checked(rows: int, seconds: float, sandbox: Sandbox) -> None:
    with pytest.raises(QueryRefused, match="correct them"):
        sandbox.query("SELECT 1", max_rows=rows, timeout_s=seconds)


def test_a_workspace_without_a_catalog_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(MissingArtefact, match="dvc repro index"):
        query(tmp_path, "SELECT 1")
