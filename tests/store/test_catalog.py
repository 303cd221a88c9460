import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import store
from store.activations import read_feature
from store.catalog import files_of, read_catalog, write_catalog
from store.errors import MissingArtefact, SchemaMismatch
from store.manifest import content_hash, read_json, write_json
from store.schema import SCHEMA_VERSION, TABLES, write_table

Builder = Callable[..., Path]


@pytest.fixture(scope="module")
def con(workspace: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with store.open(workspace) as connection:
        yield connection


def files_read(con: duckdb.DuckDBPyConnection, sql: str) -> list[tuple[int, int]]:
    """For each scan of activations: files scanned, files there are."""
    plan = con.sql(f"EXPLAIN ANALYZE {sql}").fetchall()[0][1]
    return [(int(a), int(b)) for a, b in re.findall(r"Scanning Files: (\d+)/(\d+)", plan)]


@pytest.mark.parametrize("name", sorted(TABLES))
def test_every_table_is_a_view_with_the_promised_columns(
    name: str, con: duckdb.DuckDBPyConnection, workspace: Path
) -> None:
    promised = read_json(workspace / "data/store/schema.json")["tables"][name]["columns"]
    found = con.sql(f"DESCRIBE {name}").fetchall()
    columns = {row[0]: row[1].replace("FLOAT", "REAL") for row in found}
    if name in {"act", "act_token"}:
        assert columns.pop("run_id") == "VARCHAR"
    assert columns == {column["name"]: column["type"] for column in promised}


def test_sql_counts_what_the_arrays_count(con: duckdb.DuckDBPyConnection, workspace: Path) -> None:
    for slug in ("main", "second"):
        root = workspace / "data/features" / slug
        for view in ("act", "act_token"):
            counts = dict(
                con.sql(
                    f"SELECT feature_id, count(*) FROM {view} WHERE run_id = '{slug}' GROUP BY ALL"
                ).fetchall()
            )
            assert all(counts[f] == len(read_feature(root, f)[0]) for f in list(counts)[:40])
            run = con.sql(f"SELECT n_act FROM run WHERE run_id = '{slug}'").fetchall()
            assert sum(counts.values()) == run[0][0]


@pytest.mark.parametrize(
    "sql",
    [
        "FROM top_contexts(300, 3)",
        "FROM top_contexts(300, 3, run_id := 'second')",
        "FROM coact(300, 3)",
        "FROM coact(300, 3, run_id := 'second')",
    ],
)
def test_a_macro_that_names_a_feature_opens_its_one_bucket(
    sql: str, con: duckdb.DuckDBPyConnection
) -> None:
    scans = files_read(con, sql)
    assert scans
    assert all(read == 1 for read, _there in scans)
    assert {there for _read, there in scans} == {4 + 8}


def test_a_filter_by_run_opens_that_run_s_files_alone(con: duckdb.DuckDBPyConnection) -> None:
    assert files_read(con, "SELECT count(value) FROM act WHERE run_id = 'second'") == [(8, 12)]


def test_top_contexts_are_the_strongest_tokens_in_order(
    con: duckdb.DuckDBPyConnection, workspace: Path
) -> None:
    for slug, feature in (("main", 3), ("second", 700)):
        tok, value = read_feature(workspace / "data/features" / slug, feature)
        wanted = sorted(zip(-value, tok, strict=True))[:2]
        rows = con.sql(f"FROM top_contexts({feature}, 2, run_id := '{slug}')").fetchall()
        assert [(-row[1], row[2]) for row in rows] == wanted
        assert [row[0] for row in rows] == list(range(len(wanted)))


def test_a_context_stays_in_its_document_and_marks_its_token(
    con: duckdb.DuckDBPyConnection,
) -> None:
    text = con.sql("SELECT context(41, 5, 2), context(59, 1, 30)").fetchall()[0]
    assert text == (" w0 «w1» w2 w3", " w18 «w19»")
    contexts = con.sql(
        """
        SELECT tok, token, context
        FROM (SELECT DISTINCT feature_id FROM act WHERE run_id = 'main' ORDER BY ALL LIMIT 5) AS f,
             LATERAL (SELECT a.tok FROM act AS a WHERE a.run_id = 'main'
                      AND a.feature_id = f.feature_id) AS t,
             LATERAL (SELECT v.text AS token, context(t.tok, 3, 3) AS context
                      FROM token AS k JOIN vocab AS v USING (token_id) WHERE k.tok = t.tok)
        """
    ).fetchall()
    assert contexts
    assert all(f"«{token.strip()}»" in context for _tok, token, context in contexts)


def test_active_at_gives_every_firing_of_a_half_open_range(
    con: duckdb.DuckDBPyConnection,
) -> None:
    rows = con.sql("FROM active_at(40, 42)").fetchall()
    there = con.sql("SELECT count(*) FROM act WHERE run_id = 'main' AND tok IN (40, 41)").fetchall()
    assert len(rows) == there[0][0] > 0
    assert {row[0] for row in rows} == {40, 41}
    assert rows == sorted(rows, key=lambda row: (row[0], -row[6], row[4]))


def test_coactivation_agrees_with_sets(con: duckdb.DuckDBPyConnection, workspace: Path) -> None:
    root = workspace / "data/features/main"
    for a, b in ((3, 4), (10, 10), (100, 200)):
        here, there = set(read_feature(root, a)[0]), set(read_feature(root, b)[0])
        n_a, n_b, both, jaccard, lift, _corr = con.sql(f"FROM coact({a}, {b})").fetchall()[0]
        assert (n_a, n_b, both) == (len(here), len(there), len(here & there))
        if here | there:
            assert jaccard == pytest.approx(len(here & there) / len(here | there))
        if here and there:
            assert lift == pytest.approx(len(here & there) * 240 / len(here) / len(there))


def test_nearest_is_by_cosine_of_decoder_rows(con: duckdb.DuckDBPyConnection) -> None:
    rows = np.array(
        [
            row[0]
            for row in con.sql(
                "SELECT vec FROM decoder WHERE run_id = 'main' ORDER BY feature_id"
            ).fetchall()
        ]
    )
    cosine = rows @ rows[3]
    cosine[3] = -2
    found = con.sql("FROM nearest(3, 4)").fetchall()
    assert [row[0] for row in found] == np.argsort(-cosine)[:4].tolist()
    assert found[0][3] == pytest.approx(cosine.max(), abs=1e-6)


@pytest.mark.parametrize("piece", ["Gw3", " w3", "w3"])
def test_promotes_takes_a_piece_or_its_text(piece: str, con: duckdb.DuckDBPyConnection) -> None:
    rows = con.sql(f"FROM promotes('{piece}')").fetchall()
    assert [row[0] for row in rows] == list(range(483, 0, -40))
    assert rows[-1][1] == "sea"


def test_search_finds_a_label_by_its_rarer_word(con: duckdb.DuckDBPyConnection) -> None:
    assert con.sql("FROM search_label('Sea')").fetchall()[0][1] == "sea"
    assert con.sql("FROM search_label('fires on a star')").fetchall()[0][1] == "star"
    assert con.sql("FROM search_label('nothing like it')").fetchall() == []
    assert con.sql("FROM search_label('sea', run_id := 'second')").fetchall() == []
    assert len(con.sql("FROM search_label('fires', k := 2)").fetchall()) == 2


def test_a_steering_vector_has_the_length_that_was_asked_for(
    con: duckdb.DuckDBPyConnection,
) -> None:
    row = con.sql("FROM steer_vec('sea', 0.5)").fetchall()[0]
    unit = con.sql("SELECT vec FROM decoder WHERE run_id = 'main' AND feature_id = 3").fetchall()
    assert row[:7] == (3, "sea", False, "blocks.2.hook_resid_post", 0.5, "norm", 2.0)
    np.testing.assert_allclose(row[7], 2.0 * np.array(unit[0][0]), rtol=1e-6)
    assert con.sql("FROM steer_vec('none', 1)").fetchall() == []


def test_a_feature_shows_its_input_label_with_the_score_of_the_test_split(
    con: duckdb.DuckDBPyConnection,
) -> None:
    rows = con.sql(
        """
        SELECT feature_id, slug, side, is_weak,
               score::DECIMAL(3, 2)::VARCHAR, lo::DECIMAL(3, 2)::VARCHAR
        FROM feature WHERE slug IS NOT NULL ORDER BY feature_id
        """
    ).fetchall()
    assert rows == [
        (3, "sea", "input", False, "0.70", "0.60"),
        (4, "star", "input", True, "0.50", "0.40"),
    ]
    assert con.sql("SELECT count(*) FROM feature").fetchall() == [(512 + 1024,)]


def test_every_column_has_its_unit_as_a_comment_and_every_macro_what_it_gives(
    con: duckdb.DuckDBPyConnection,
) -> None:
    asked = "SELECT table_name, column_name, comment FROM duckdb_columns() WHERE NOT internal"
    comments = {(view, name): text for view, name, text in con.sql(asked).fetchall()}
    for table in TABLES.values():
        for column in table.columns:
            assert comments[table.name, column.name] == column.unit
    in_feature = {name: text for (view, name), text in comments.items() if view == "feature"}
    assert None not in in_feature.values()
    assert in_feature["null_value"] == "score where nothing is to be found"
    for name in ("act", "act_token"):
        assert comments[name, "run_id"] == "slug of the SAE"
    silent = con.sql(
        """
        SELECT view_name FROM duckdb_views() WHERE NOT internal AND comment IS NULL
        UNION ALL
        SELECT function_name FROM duckdb_functions()
        WHERE function_type LIKE '%macro' AND NOT internal AND comment IS NULL
        """
    )
    assert silent.fetchall() == []


@pytest.mark.parametrize(
    "call",
    [
        "top_contexts(3, 1)",
        "active_at(40, 42)",
        "coact(3, 4)",
        "nearest(3, 1)",
        "promotes('w3')",
        "search_label('sea')",
        "steer_vec('sea', 1)",
    ],
)
def test_what_a_macro_s_comment_says_it_gives_it_gives(
    call: str, con: duckdb.DuckDBPyConnection
) -> None:
    name = call.partition("(")[0]
    asked = f"SELECT comment FROM duckdb_functions() WHERE function_name = '{name}'"
    promised = con.sql(asked).fetchall()[0][0].rpartition(": ")[2]
    assert re.sub(r" \(.*?\)", "", promised).split(", ") == con.sql(f"FROM {call}").columns


def test_the_files_that_the_views_read_are_listed_and_no_others(workspace: Path) -> None:
    found = [Path(path) for path in files_of(read_catalog(workspace))]
    there = {path for path in found if path.is_file()}
    assert {path for path in there if path.suffix != ".parquet"} == set()
    assert workspace / "data/corpus/token.parquet" in there
    assert len([path for path in there if "act_feature" in path.parts]) == 4 + 8
    assert all("*" in path.name or "[" in str(path) for path in found if path not in there)


def test_json_columns_can_be_asked(con: duckdb.DuckDBPyConnection) -> None:
    assert con.sql("SELECT rule->>'$.tokens[0]' FROM label LIMIT 1").fetchall() == [("3",)]


def test_one_catalog_is_right_before_and_after_the_later_stages(
    build_workspace: Builder, tmp_path: Path
) -> None:
    folder = build_workspace(tmp_path)
    catalog = (folder / "data/store/catalog.sql").read_bytes()
    before = store.open(folder)
    assert before.sql("SELECT count(*) FROM steerability").fetchall() == [(0,)]
    row = pa.table({"run_id": ["main"], "feature_id": [3], "output_score": [0.5]})
    write_table(folder / "data/directions/causal.parquet", "steerability", row, {})
    scratch = folder / "data/.evaluation.partial"
    write_table(scratch / "causal.parquet", "steerability", row, {})
    for connection in (before, store.open(folder)):
        rows = connection.sql("SELECT feature_id, output_score, hm FROM steerability").fetchall()
        assert rows == [(3, 0.5, None)]
    write_catalog(folder, ["main"])
    assert (folder / "data/store/catalog.sql").read_bytes() == catalog


def test_an_output_label_is_the_chosen_one_once_directions_has_scored_it(
    workspace: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(workspace, folder)
    waiting = {"run_id": "main", "label_id": 31, "metric": "output_score", "split": "test"}
    rows = [*pq.read_table(folder / "data/labels/label_score.parquet").to_pylist()]
    rows.append({**waiting, "reason": "not steered yet"})
    table = pa.Table.from_pylist(rows)
    write_table(folder / "data/labels/label_score.parquet", "label_score", table, {})
    connection = store.open(folder)
    of_feature = """
        SELECT slug, score > 0.6, output_slug, output_name, output_gain, output_lo, output_hi,
               output_null
        FROM feature WHERE run_id = 'main' AND feature_id = 3
    """
    of_label = "SELECT slug, status, method, rule->>'$.tokens[0]' FROM label WHERE label_id = 31"
    of_score = """
        SELECT metric, value, null_value, n_pos, split, reason
        FROM label_score WHERE label_id = 31
    """
    others = "SELECT * FROM label_score WHERE label_id <> 31 ORDER BY ALL"
    before = connection.sql(others).fetchall()
    sea = ("sea", True)
    unscored = (*sea, "out-3", "promotes w3", None, None, None, None)
    assert connection.sql(of_feature).fetchall() == [unscored]
    placeholder = ("output_score", None, None, None, "test", "not steered yet")
    assert connection.sql(of_score).fetchall() == [placeholder]
    own = {"run_id": "main", "feature_id": 3, "label_id": 31, "n": 12, "method": "steered_tokens"}
    figures = {"value": 2.0, "lo": 1.5, "hi": 2.5, "null_value": 0.25, "other_value": 0.5}
    chosen = {**own, **figures, "rank": 0, "slug": "says-w4", "name": "says w4", "status": "ok"}
    chosen |= {"text": "Makes the model say w4", "rule": '{"tokens": [4]}'}
    second = {**own, **figures, "rank": 1, "name": "promotes w3", "status": "weak", "value": 1.0}
    spoken = pa.Table.from_pylist([chosen, second])
    write_table(folder / "data/directions/output_label.parquet", "output_label", spoken, {})
    scored = (*sea, "says-w4", "says w4", 2.0, 1.5, 2.5, 0.5)
    assert connection.sql(of_feature).fetchall() == [scored]
    assert connection.sql(of_label).fetchall() == [("says-w4", "ok", "steered_tokens", "4")]
    gain = ("output_gain", 2.0, 0.5, 12, "calibrate", None)
    assert connection.sql(of_score).fetchall() == [gain]
    assert connection.sql(others).fetchall() == before
    assert connection.sql("SELECT count(*) FROM label").fetchall() == [(3,)]


def test_a_tokens_loss_is_what_the_dump_measured_and_null_before(
    build_workspace: Builder, tmp_path: Path
) -> None:
    folder = build_workspace(tmp_path)
    connection = store.open(folder)
    asked = "SELECT tok, loss FROM token WHERE tok < 3 ORDER BY tok"
    (n_tokens,) = connection.sql("SELECT count(*) FROM token").fetchall()
    assert connection.sql(asked).fetchall() == [(0, None), (1, None), (2, None)]
    measured = pa.table({"tok": [0, 1], "loss": [None, 2.5]})
    write_table(folder / "data/residuals/loss.parquet", "token_loss", measured, {})
    assert connection.sql(asked).fetchall() == [(0, None), (1, 2.5), (2, None)]
    assert connection.sql("SELECT count(*) FROM token").fetchall() == [n_tokens]


def test_a_table_that_lacks_a_column_reads_as_null(
    build_workspace: Builder, tmp_path: Path
) -> None:
    folder = build_workspace(tmp_path)
    (folder / "data/evaluation").mkdir()
    pq.write_table(
        pa.table({"direction_id": ["d"], "extra": [1]}),
        folder / "data/evaluation/frontier.parquet",
    )
    rows = store.open(folder).sql("SELECT direction_id, value FROM frontier").fetchall()
    assert rows == [("d", None)]


def test_the_store_is_the_same_bytes_wherever_it_lies(
    build_workspace: Builder, tmp_path: Path
) -> None:
    hashes = {content_hash(build_workspace(tmp_path / name) / "data/store") for name in "ab"}
    assert len(hashes) == 1
    text = (tmp_path / "a/data/store/catalog.sql").read_text()
    assert str(tmp_path) not in text


@pytest.mark.parametrize("name", ["it's here", "a [b] *c?", "with,comma"])
def test_a_workspace_may_have_any_name_and_be_opened_from_anywhere(
    name: str, workspace: Path, tmp_path: Path
) -> None:
    folder = tmp_path / name
    shutil.copytree(workspace, folder)
    con = store.open(folder)
    assert con.sql("SELECT count(*) FROM token").fetchall() == [(240,)]
    assert con.sql("SELECT DISTINCT run_id FROM act ORDER BY 1").fetchall() == [
        ("main",),
        ("second",),
    ]
    assert len(con.sql("FROM top_contexts(3, 1)").fetchall()) == 1


def test_plain_duckdb_reads_the_catalog_from_the_workspace(workspace: Path) -> None:
    program = (
        "import duckdb; con = duckdb.connect();"
        "con.execute(open('data/store/catalog.sql').read());"
        "print(con.sql('SELECT count(*) FROM act').fetchall()[0][0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=workspace, capture_output=True, text=True, check=True
    )
    assert (
        int(done.stdout) == store.open(workspace).sql("SELECT count(*) FROM act").fetchall()[0][0]
    )


def test_the_default_run_is_the_one_that_was_named(
    build_workspace: Builder, tmp_path: Path
) -> None:
    folder = build_workspace(tmp_path, ["zeta", "alpha"])
    assert read_json(folder / "data/store/schema.json")["default_run"] == "zeta"
    zeta = store.open(folder).sql("FROM top_contexts(3, 5)").fetchall()
    write_catalog(folder)
    alpha = store.open(folder).sql("FROM top_contexts(3, 5, run_id := 'zeta')").fetchall()
    assert zeta == alpha
    assert read_json(folder / "data/store/schema.json")["default_run"] == "alpha"
    with pytest.raises(MissingArtefact, match=r"omega.*expected the table run"):
        write_catalog(folder, ["alpha", "omega"])


def test_features_of_an_sae_that_is_no_longer_named_are_not_seen(
    build_workspace: Builder, tmp_path: Path
) -> None:
    folder = build_workspace(tmp_path, ["main", "old"])
    write_catalog(folder, ["main"])
    con = store.open(folder)
    for view in ("act", "act_token", "run", "feature_stats", "decoder", "logit"):
        assert con.sql(f"SELECT DISTINCT run_id FROM {view}").fetchall() == [("main",)]


def remove(folder: Path, name: str) -> None:
    path = folder / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("data/features", "no features"),
        ("data/features/main/run.parquet", "expected the table run"),
        ("data/features/main/topk.parquet", "expected the table topk"),
        ("data/features/main/decoder.parquet", "expected the decoder's rows"),
        ("data/features/main/act_feature", "expected both sort orders"),
        ("data/features/main/act_token", "expected both sort orders"),
        ("data/corpus/token.parquet", "expected tokens"),
    ],
)
def test_what_is_missing_is_named_and_the_older_store_stays(
    missing: str, message: str, build_workspace: Builder, tmp_path: Path
) -> None:
    folder = build_workspace(tmp_path)
    before = content_hash(folder / "data/store")
    remove(folder, missing)
    with pytest.raises(MissingArtefact, match=message):
        write_catalog(folder)
    assert content_hash(folder / "data/store") == before


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("run_id", "other", "speaks of the runs"),
        ("n_tokens", 241, "241 tokens"),
        ("n_act", 1, "expected 1, as"),
    ],
)
def test_tables_that_do_not_agree_are_refused(
    column: str, value: object, message: str, build_workspace: Builder, tmp_path: Path
) -> None:
    folder = build_workspace(tmp_path)
    path = folder / "data/features/main/run.parquet"
    row = pq.read_table(path).to_pylist()[0] | {column: value}
    write_table(path, "run", pa.Table.from_pylist([row]), {})
    with pytest.raises(SchemaMismatch, match=message):
        write_catalog(folder)


def test_opening_what_is_not_there_or_of_another_version_says_what_to_do(
    build_workspace: Builder, tmp_path: Path
) -> None:
    with pytest.raises(MissingArtefact, match="dvc repro index"):
        store.open(tmp_path)
    folder = build_workspace(tmp_path)
    shutil.move(folder / "data/features", folder / "data/gone")
    with pytest.raises(MissingArtefact, match="does not fit its files"):
        store.open(folder)
    schema = json.loads((folder / "data/store/schema.json").read_text())
    write_json(folder / "data/store/schema.json", schema | {"schema_version": 0})
    with pytest.raises(SchemaMismatch, match=f"schema version 0; expected {SCHEMA_VERSION}"):
        store.open(folder)


def test_importing_the_errors_loads_neither_arrow_nor_duckdb() -> None:
    program = (
        "import sys, store.errors;"
        "print([m for m in ('duckdb', 'pyarrow', 'numpy', 'torch') if m in sys.modules])"
    )
    root = Path(store.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", store.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(store, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        store.nothing  # noqa: B018
