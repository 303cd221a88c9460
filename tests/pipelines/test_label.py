"""The stage `label` on a planted workspace: whole, repeatable, and blind to test documents."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.errors import LabelError
from pipelines import label
from pipelines.errors import PipelineError
from store.errors import MissingArtefact
from store.schema import read_table, write_table
from tests.features.planted import (
    FARM,
    HOOK_POINT,
    RANDOM,
    SEA,
    make_world,
    write_workspace,
)

PARAMS = f"""
sae: {{main: {{hook_point: {HOOK_POINT}}}}}
dump: {{hook_points: [{HOOK_POINT}]}}
label: {{bootstrap: 40}}
directions: {{concepts: [sea]}}
"""


def workspace(folder: Path, *, marker: bool = False) -> Path:
    write_workspace(make_world(n_docs=180, marker=marker), folder)
    (folder / "params.yaml").write_text(PARAMS, encoding="utf-8")
    return folder


def hashes(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
    }


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = workspace(tmp_path_factory.mktemp("labelled"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        label.main()
    return folder


def test_the_stage_writes_its_tables_and_its_metrics(labelled: Path) -> None:
    assert sorted(path.name for path in (labelled / "data/labels").iterdir()) == [
        "feature_concept.parquet",
        "label.parquet",
        "label_candidate.parquet",
        "label_score.parquet",
        "withheld_label.parquet",
    ]
    summary = json.loads((labelled / "metrics/labels.json").read_text(encoding="utf-8"))["main"]
    rows = read_table(labelled / "data/labels/label.parquet", "label").to_pylist()
    assert summary["labelled"] == sum(row["side"] == "input" for row in rows) == 10
    assert summary["concepts_tracked"] == 3
    assert summary["tracked_named_well"] == 1
    assert {"sea", "farm", "number"} <= {row["slug"] for row in rows}


def test_a_second_run_writes_the_same_bytes(
    labelled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = hashes(labelled / "data/labels"), hashes(labelled / "metrics")
    monkeypatch.chdir(labelled)
    label.main()
    assert (hashes(labelled / "data/labels"), hashes(labelled / "metrics")) == before


def test_a_marker_in_test_documents_reaches_no_rule_no_name_and_no_evidence(
    labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace(tmp_path, marker=True))
    label.main()
    clean, marked = labelled / "data/labels", tmp_path / "data/labels"
    kept = ["label_id", "feature_id", "slug", "text", "rule"]
    for name, columns in (("label", kept), ("withheld_label", ["slug", "text", "rule"])):
        first = pq.read_table(clean / f"{name}.parquet", columns=columns)
        assert first.equals(pq.read_table(marked / f"{name}.parquet", columns=columns))
    assert hashes(clean)["label_candidate.parquet"] == hashes(marked)["label_candidate.parquet"]
    assert hashes(clean)["label_score.parquet"] != hashes(marked)["label_score.parquet"]


def test_a_feature_of_texts_in_one_language_is_named_by_it_where_concepts_are_withheld(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace(tmp_path))
    texts = (
        "Era un día claro y Elena miraba el mar con alegría desde la ventana.",
        "The farmer walked to the barn with his dog, and the wind was cold.",
        "for i in numbers:\n    print(i)",
    )
    doc_id = read_table(tmp_path / "data/corpus/doc.parquet", "doc")["doc_id"]
    spoken = {"doc_id": doc_id, "text": [texts[doc % 3] for doc in doc_id.to_pylist()]}
    write_table(tmp_path / "data/corpus/text.parquet", "text", pa.table(spoken), {})
    label.main()
    rows = read_table(tmp_path / "data/labels/withheld_label.parquet", "withheld_label").to_pylist()
    by_feature = {row["feature_id"]: row for row in rows}
    assert by_feature[SEA]["text"].startswith("Fires on text in Spanish")
    assert (by_feature[SEA]["slug"], by_feature[SEA]["finds_concept"]) == ("spanish-text", True)
    assert by_feature[FARM]["slug"] == "english-text"
    assert by_feature[RANDOM]["status"] == "weak"


def test_residuals_of_another_dump_are_refused_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace(tmp_path))
    other = tmp_path / "other"
    write_workspace(make_world(n_docs=90), other)
    shutil.rmtree(tmp_path / "data/residuals")
    shutil.copytree(other / "data/residuals", tmp_path / "data/residuals")
    with pytest.raises(PipelineError, match=r"holds \d+ rows for .* documents; expected \d+"):
        label.main()
    assert not (tmp_path / "data/labels").exists()
    assert not (tmp_path / "metrics").exists()


@pytest.mark.parametrize(
    ("missing", "error"),
    [
        ("data/corpus/token.parquet", LabelError),
        ("data/features/main/feature_stats.parquet", MissingArtefact),
    ],
)
def test_a_missing_input_is_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, error: type[Exception]
) -> None:
    monkeypatch.chdir(workspace(tmp_path))
    Path(missing).unlink()
    with pytest.raises(error, match=Path(missing).name):
        label.main()
    assert not Path("data/labels").exists()


def test_the_stage_loads_no_torch() -> None:
    code = "import sys, pipelines.label; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
