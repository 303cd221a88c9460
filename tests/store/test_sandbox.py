"""SQL from outside: what is answered, within which limits, and how an error reads.

What must never be answered is in `test_sandbox_hostile`.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from store.errors import MissingArtefact, QueryRefused, QueryTimeout
from store.sandbox import Sandbox, query
from store.schema import write_table


@pytest.fixture(scope="module")
def sandbox(workspace: Path) -> Iterator[Sandbox]:
    with Sandbox(workspace) as running:
        yield running


def one(sandbox: Sandbox, sql: str) -> object:
    return sandbox.query(sql).to_pylist()[0].popitem()[1]


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
        "SELECT 1 /* /* */ ; SELECT 2 -- */",
        "SELECT 1 -- ; SELECT 2",
        "WITH range AS (SELECT 1) FROM range",
        "SELECT * FROM unnest([1])",
        "SELECT list_transform([0], lambda x: x + 1)[1]",
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
        "FROM duckdb_columns()",
        "FROM information_schema.columns",
        "SHOW TABLES",
        "FROM json_each('[1]')",
        "SELECT unnest(range(3))",
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


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("SELEC 1", 'syntax error at or near "SELEC" (line 1, column 1)'),
        ("SELECT 1,\n  FROM FROM token", "(line 2, column 8)"),
        ("SELECT\n 'open", "unterminated string literal (line 2, column 2)"),
        (
            "SELECT count(*)\nFROM tokne",
            "no table 'tokne' (line 2, column 6); did you mean 'token'?",
        ),
        ("FROM featur", "did you mean 'feature'?"),
        ("FROM labels", "did you mean 'label'?"),
        ("FROM top_context(3, 4)", "did you mean 'top_contexts'?"),
        ("SELECT slugg FROM feature", 'Candidate bindings: "slug"'),
        ("SELECT tok,\n slugg FROM token", "(line 2, column 2)"),
        ("SELECT cont(*) FROM token", 'Did you mean "count'),
    ],
)
def test_an_error_is_one_line_with_its_place_and_the_nearest_name(
    sql: str, told: str, sandbox: Sandbox
) -> None:
    with pytest.raises(QueryRefused) as caught:
        sandbox.query(sql)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).count("; expected") == 1


@pytest.mark.parametrize(
    ("sql", "found", "expected"),
    [
        ("FROM read_csv('x')", "the table function 'read_csv'", "views of the catalog"),
        ("FROM glob('*')", "the table function 'glob'", "top_contexts"),
        ("FROM token, read_text('x')", "the table function 'read_text'", "or a function that"),
        ("FROM 'x.csv'", "the file 'x.csv' in place of a table", "nothing else may be read"),
        ("FROM duckdb_settings", "which tells of the process", "nothing else may be read"),
        ("SELECT getenv('HOME')", "the function getenv", "rows of the catalog alone"),
        ("FROM query('SELECT 1')", "which runs text as SQL", "rows of the catalog alone"),
        ("SELECT 1; SELECT 2", "2 statements", "exactly one SELECT"),
        ("SET threads = 9", "a statement of type SET", "exactly one SELECT"),
    ],
)
def test_a_refusal_names_what_was_refused_and_what_may_stand_there(
    sql: str, found: str, expected: str, sandbox: Sandbox
) -> None:
    with pytest.raises(QueryRefused) as caught:
        sandbox.query(sql)
    what, wanted, then = str(caught.value).split("; ", 2)
    assert what.startswith("found ")
    assert found in what
    assert wanted.startswith("expected ")
    assert expected in wanted
    assert ("exactly one SELECT" in wanted) == (expected == "exactly one SELECT")
    assert then.startswith("ask one SELECT over the views and macros")


def test_a_name_that_nothing_is_like_gets_no_proposal(sandbox: Sandbox) -> None:
    with pytest.raises(QueryRefused, match=r"no table 'xqz' \(line 1, column 6\); expected"):
        sandbox.query("FROM xqz")


def test_an_error_that_repeats_a_long_statement_is_cut(sandbox: Sandbox) -> None:
    with pytest.raises(QueryRefused) as caught:
        sandbox.query(f"SELECT CAST('{'x' * 50_000}' AS INTEGER)")
    assert len(str(caught.value)) < 1000
    with pytest.raises(QueryRefused, match="expected at most 100,000"):
        sandbox.query(f"SELECT '{'x' * 100_000}'")


def test_a_table_that_a_later_stage_writes_is_seen_without_asking_again_for_a_sandbox(
    build_workspace: Callable[..., Path], tmp_path: Path
) -> None:
    folder = build_workspace(tmp_path)
    asked = "SELECT feature_id FROM steerability"
    with Sandbox(folder) as own:
        assert own.query(asked).num_rows == 0
        first = own._child
        assert own.query(asked).num_rows == 0
        assert own._child is first
        row = pa.table({"run_id": ["main"], "feature_id": [3], "output_score": [0.5]})
        write_table(folder / "data/directions/causal.parquet", "steerability", row, {})
        assert own.query(asked).to_pylist() == [{"feature_id": 3}]


@pytest.mark.parametrize("name", ["it's here", "a [b] *c?", "with,comma"])
def test_a_workspace_may_have_any_name(name: str, workspace: Path, tmp_path: Path) -> None:
    shutil.copytree(workspace, tmp_path / name)
    with Sandbox(tmp_path / name) as own:
        assert one(own, "SELECT count(*) FROM token") == 240
        assert own.query("FROM top_contexts(3, 1)").num_rows == 1
        assert own.query("SELECT DISTINCT run_id FROM act").num_rows == 2
