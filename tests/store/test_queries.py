"""Every query of docs/queries.md, through the sandbox and through plain DuckDB, of two versions.

A small workspace stands in for the microworld: it has the names, concepts and directions that
the page speaks of, so that every query has an answer; the page's own rows are not compared.
"""

import csv
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import store
from store.catalog import write_catalog
from store.sandbox import Sandbox
from store.schema import write_table
from store.tables import SCHEMA_VERSION

ROOT = Path(store.__file__).parent.parent
PLAIN = "duckdb-cli==1.5.6"


@dataclass(frozen=True, slots=True)
class Worked:
    """One query of the page: its heading, its SQL, and the columns of the answer below it."""

    title: str
    sql: str
    columns: list[str]


def worked() -> list[Worked]:
    page = (ROOT / "docs/queries.md").read_text(encoding="utf-8")
    found = []
    for section in page.split("\n## ")[1:]:
        sql = re.search(r"```sql\n(.*?)\n```\n\n\| (.*?) \|\n", section, flags=re.DOTALL)
        assert sql is not None, section.splitlines()[0]
        found.append(Worked(section.splitlines()[0], sql[1], sql[2].split(" | ")))
    return found


QUERIES = worked()
PAGE = [pytest.param(query, id=query.title) for query in QUERIES]


@pytest.fixture(scope="module")
def asked(build_workspace: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace of one SAE in which every query of the page finds something."""
    folder = build_workspace(tmp_path_factory.mktemp("asked"))
    stats = folder / "data/features/main/feature_stats.parquet"
    rows = pq.read_table(stats).to_pylist()
    for row in rows:
        row |= {"density": row["n_act"] / 240, "is_dense": False}
    write_table(stats, "feature_stats", pa.Table.from_pylist(rows), {})
    pair = {"run_id": "main", "feature_id": 3, "other_id": 4, "rank": 0}
    kinds = [{"kind": "dec_cos", "score": 0.9}, {"kind": "coact_jaccard", "score": 0.2}]
    beside = pa.Table.from_pylist([pair | kind for kind in kinds])
    write_table(folder / "data/features/main/neighbour.parquet", "neighbour", beside, {})
    for place, name, rows in _later_tables():
        write_table(folder / f"data/{place}/{name}.parquet", name, pa.Table.from_pylist(rows), {})
    _fire_together_in_document_seven(folder)
    write_catalog(folder)
    return folder


def _later_tables() -> list[tuple[str, str, list[dict[str, object]]]]:
    """Names, their scores, a concept with features that read it, and a direction's doses."""
    spoken_of = {3: ("sea", "ok", 0.6), 4: ("farm", "ok", 0.8), 5: ("fog", "weak", 0.4)}
    names = [(i, *spoken_of.get(i, (f"name-{i}", "ok", 0.55))) for i in range(512)]
    labels: list[dict[str, object]] = []
    scores: list[dict[str, object]] = []
    for number, slug, status, lo in names:
        row: dict[str, object] = {"run_id": "main", "label_id": number}
        labels.append(row | {"feature_id": number, "name": slug, "slug": slug, "side": "input"})
        labels[-1] |= {"status": status, "method": "token_set", "text": slug}
        scores.append(row | {"metric": "detection", "split": "test", "value": lo + 0.1, "lo": lo})
        scores[-1] |= {"hi": lo + 0.2, "null_value": 0.5}
    concepts: list[dict[str, object]] = [
        {"concept_id": i, "name": n, "kind": "document"} for i, n in enumerate(("sea", "x"))
    ]
    holds: list[dict[str, object]] = [
        {"concept_id": 0, "doc_id": doc, "y": doc < 4} for doc in range(12)
    ]
    judged: list[dict[str, object]] = [
        {"run_id": "main", "feature_id": feature, "concept_id": concept, "split": "score"}
        | {"auroc": 0.5 + feature / 20, "lo": 0.4 + feature / 20, "hi": 0.9, "q_value": 0.01}
        for feature in (3, 4, 5)
        for concept in (0, 1)
    ]
    doses: list[dict[str, object]] = [
        {"direction_id": "sea/diff_mean", "budget": f"dce={budget}", "coefficient": budget}
        | {"metric": metric, "value": 0.5, "lo": 0.4, "hi": 0.6, "null_value": 0.1, "n": 8}
        for budget in (0.1, 0.25)
        for metric in ("concept", "delta_ce", "fluency")
    ]
    return [
        ("labels", "label", labels),
        ("labels", "label_score", scores),
        ("corpus", "concept", concepts),
        ("corpus", "concept_label", holds),
        ("labels", "feature_concept", judged),
        ("evaluation", "steer_score", doses),
    ]


def _fire_together_in_document_seven(folder: Path) -> None:
    """Feature 165 fires on every token of one document, in both sort orders."""
    from store.activations import sort_by_feature, writer

    features = folder / "data/features/main"
    parts = sorted((features / "act_token").glob("*.parquet"))
    there = pa.concat_tables([pq.read_table(part) for part in parts])
    tok, feature = there["tok"].to_numpy(), there["feature_id"].to_numpy()
    kept = feature != 165
    more = np.arange(140, 160)
    tok = np.concatenate([tok[kept], more])
    feature = np.concatenate([feature[kept], np.full(len(more), 165, dtype=np.int32)])
    value = np.concatenate([there["value"].to_numpy()[kept], np.ones(len(more), np.float32)])
    order = np.lexsort((feature, tok))
    for part in (*parts, *features.glob("act_feature/*/*.parquet")):
        part.unlink()
    with writer(features, {"sae": "main"}, 512, part_rows=10_000) as out:
        out.write(tok[order], feature[order], value[order], tokens_done=240)
        n_act = out.finish()
    sort_by_feature(features, 512, threads=1)
    run = pq.read_table(features / "run.parquet").to_pylist()[0] | {"n_act": n_act}
    write_table(features / "run.parquet", "run", pa.Table.from_pylist([run]), {})


@pytest.fixture(scope="module")
def sandbox(asked: Path) -> Iterator[Sandbox]:
    with Sandbox(asked) as running:
        yield running


@pytest.fixture(scope="module")
def con(asked: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with store.open(asked) as connection:
        yield connection


def test_the_page_has_at_least_ten_queries_each_with_its_rows() -> None:
    page = (ROOT / "docs/queries.md").read_text(encoding="utf-8")
    assert len(QUERIES) == page.count("```sql") >= 10
    assert [query.title.split(".")[0] for query in QUERIES] == [
        str(i + 1) for i in range(len(QUERIES))
    ]
    for section in page.split("\n## ")[1:]:
        assert len(re.findall(r"^\|", section, flags=re.MULTILINE)) >= 3


@pytest.mark.parametrize("query", PAGE)
def test_a_query_of_the_page_gives_its_columns_through_the_sandbox(
    query: Worked, sandbox: Sandbox
) -> None:
    rows = sandbox.query(query.sql)
    assert rows.column_names == query.columns
    assert rows.num_rows > 0
    assert not [name for name in rows.column_names if rows[name].null_count == rows.num_rows]


@pytest.mark.parametrize("query", PAGE)
def test_plain_duckdb_and_the_sandbox_give_the_same_rows(
    query: Worked, sandbox: Sandbox, con: duckdb.DuckDBPyConnection
) -> None:
    plain = con.sql(query.sql).to_arrow_table().to_pylist()
    assert repr(plain) == repr(sandbox.query(query.sql).to_pylist())


@pytest.fixture(scope="module")
def plain(
    asked: Path, peer_python: Callable[[str, Sequence[str]], Path]
) -> Callable[[str], list[dict[str, str]]]:
    """Asks the package index's duckdb-cli, from the workspace; a skip where it cannot be had."""
    find = "import duckdb_cli; print(duckdb_cli.__path__[0])"
    python = peer_python("duckdb_cli", [PLAIN])
    said = subprocess.run([python, "-c", find], capture_output=True, text=True, check=True)
    duckdb_cli = Path(said.stdout.strip(), "duckdb")

    def ask(sql: str) -> list[dict[str, str]]:
        command = [str(duckdb_cli), "-batch", "-bail", "-csv"]
        command += ["-init", "data/store/catalog.sql", "-c", sql]
        done = subprocess.run(command, cwd=asked, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "Error" not in done.stderr
        return list(csv.DictReader(done.stdout.splitlines()))

    return ask


@pytest.mark.slow
def test_the_command_line_of_another_version_reads_every_view_and_every_macro(
    plain: Callable[[str], list[dict[str, str]]], con: duckdb.DuckDBPyConnection
) -> None:
    assert plain("SELECT version() AS v") == [{"v": "v1.5.6"}]
    listed = "SELECT view_name AS n FROM duckdb_views() WHERE NOT internal ORDER BY n"
    views = [row["n"] for row in plain(listed)]
    assert views == [row[0] for row in con.sql(listed).fetchall()]
    counts = "SELECT " + ", ".join(f"(SELECT count(*) FROM {v}) AS {v}" for v in views)
    ours = con.sql(counts).to_arrow_table().to_pylist()[0]
    assert plain(counts) == [{name: str(count) for name, count in ours.items()}]
    calls = {
        "act_bucket": "SELECT act_bucket('main', 3) AS a",
        "active_at": "FROM active_at(40, 42)",
        "coact": "FROM coact(3, 4)",
        "context": "SELECT context(41, 5, 2) AS a",
        "marked": "SELECT marked(' x') AS a",
        "nearest": "FROM nearest(3, 4)",
        "promotes": "FROM promotes('w3')",
        "search_label": "FROM search_label('sea')",
        "steer_vec": "FROM steer_vec('sea', 1)",
        "top_contexts": "FROM top_contexts(3, 5)",
    }
    macros = con.sql(
        "SELECT DISTINCT function_name FROM duckdb_functions() "
        "WHERE function_type LIKE '%macro' AND NOT internal"
    )
    assert {row[0] for row in macros.fetchall()} == set(calls)
    for sql in calls.values():
        assert len(plain(sql)) == con.sql(sql).to_arrow_table().num_rows > 0
    commented = "SELECT count(*) AS n FROM duckdb_columns() WHERE comment IS NOT NULL"
    assert plain(commented) == [{"n": str(con.sql(commented).fetchall()[0][0])}]
    assert plain("SELECT DISTINCT schema_version AS v FROM run") == [{"v": str(SCHEMA_VERSION)}]


@pytest.mark.slow
@pytest.mark.parametrize("query", PAGE)
def test_the_command_line_of_another_version_runs_the_page(
    query: Worked, plain: Callable[[str], list[dict[str, str]]], con: duckdb.DuckDBPyConnection
) -> None:
    rows = plain(query.sql)
    assert list(rows[0]) == query.columns
    assert len(rows) == con.sql(query.sql).to_arrow_table().num_rows
