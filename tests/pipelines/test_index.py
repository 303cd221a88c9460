"""The stage `index` run as a user runs it: `python -m pipelines.index` in a workspace."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import pipelines
import store
from store.activations import sort_by_feature, writer
from store.manifest import content_hash
from store.schema import empty, write_table
from store.tables import SAE_TABLES

ROOT = Path(pipelines.__file__).parent.parent
PARAMS = "sae:\n  zeta: {}\n  alpha: {}\n"


def run_index(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipelines.index"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def write_features(folder: Path, slug: str) -> None:
    """Thirty tokens of an SAE of 200 latents, one of which fires on each."""
    tok = np.arange(30)
    with writer(folder, {"sae": slug}, 200) as out:
        out.write(tok, tok * 6, np.ones(30, dtype=np.float32))
        out.finish()
    sort_by_feature(folder, 200)
    run = {"run_id": slug, "d_sae": 200, "n_tokens": 30, "n_act": 30, "corpus_sha": "c"}
    rows = {name: empty(name) for name in SAE_TABLES} | {"run": pa.Table.from_pylist([run])}
    for name, table in rows.items():
        write_table(folder / f"{name}.parquet", name, table, {})


@pytest.fixture
def indexed(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_text(PARAMS)
    tokens = pa.table({"tok": np.arange(30), "doc_id": np.arange(30) // 10})
    write_table(tmp_path / "data/corpus/token.parquet", "token", tokens, {})
    for slug in ("alpha", "zeta", "removed"):
        write_features(tmp_path / "data/features" / slug, slug)
    return tmp_path


def test_the_stage_indexes_the_saes_of_the_parameters_in_their_order(indexed: Path) -> None:
    done = run_index(indexed)
    assert done.returncode == 0, done.stderr
    schema = store.read_json(indexed / "data/store/schema.json")
    assert (schema["default_run"], schema["runs"]) == ("zeta", ["zeta", "alpha"])
    with store.open(indexed) as con:
        counts = con.sql("SELECT run_id, count(*) FROM act GROUP BY ALL ORDER BY 1").fetchall()
        assert counts == [("alpha", 30), ("zeta", 30)]
        assert con.sql("SELECT tok FROM top_contexts(12, 3)").fetchall() == [(2,)]


def test_two_runs_give_the_same_bytes(indexed: Path) -> None:
    hashes = []
    for _run in range(2):
        assert run_index(indexed).returncode == 0
        hashes.append(content_hash(indexed / "data/store"))
    assert hashes[0] == hashes[1]


def test_the_stage_loads_no_torch() -> None:
    program = (
        "import sys, pipelines.index, store.catalog;"
        "print([m for m in ('torch', 'transformers', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_missing_harvest_is_one_line_and_exit_code_2(indexed: Path) -> None:
    (indexed / "data/features/alpha/run.parquet").unlink()
    done = run_index(indexed)
    assert done.returncode == 2
    assert done.stderr.startswith("MissingArtefact: no file data/features/alpha/run.parquet;")
    assert done.stderr.count("\n") == 1
    assert not (indexed / "data/store").exists()
