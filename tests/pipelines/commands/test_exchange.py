"""`tiller export` and `tiller import` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import store
from features.errors import UnknownFeature
from features.exchange.dashboard_file import read_batch
from features.exchange.errors import ForeignFile, MalformedFile, OutExists
from pipelines.cli import app
from pipelines.errors import PipelineError
from tests.features.exchange.conftest import build


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace that exports leave as it is."""
    return build(tmp_path_factory.mktemp("exchange"))


def tiller(workspace: Path, *arguments: str | Path) -> Result:
    given = [str(argument) for argument in arguments]
    return CliRunner().invoke(app, [*given, "--workspace", str(workspace)], catch_exceptions=True)


def test_a_store_goes_out_and_its_explanations_come_back(tmp_path: Path) -> None:
    workspace = build(tmp_path / "workspace")
    done = tiller(workspace, "export", "neuronpedia", tmp_path / "out", "--model-id", "mine")
    assert done.exit_code == 0, done.output
    assert "12 features" in done.output
    assert "3 explanations in 7 files" in done.output
    file = tmp_path / "out/mine/2-main/explanations/batch-0.jsonl.gz"
    refused = tiller(workspace, "import", "neuronpedia", file)
    assert isinstance(refused.exception, ForeignFile)
    done = tiller(workspace, "import", "neuronpedia", file, "--model-id", "mine", "--name", "np")
    assert done.exit_code == 0, done.output
    assert "3 labels of 2 features, with 2 scores of others" in done.output
    with store.open(workspace) as con:
        found = con.execute("SELECT slug FROM label WHERE method = 'imported'").fetchall()
    assert len(found) == 3
    assert all(slug.endswith("@np") for (slug,) in found)


def test_activations_go_to_delphi_and_back(tmp_path: Path) -> None:
    workspace = build(tmp_path / "workspace")
    done = tiller(workspace, "export", "delphi", tmp_path / "out", "--ctx-len", "32")
    assert done.exit_code == 0, done.output
    folder = tmp_path / "out/blocks.2.hook_resid_post"
    assert json.loads((folder / "config.json").read_text())["ctx_len"] == 32
    done = tiller(workspace, "import", "delphi", folder, "--sae", "main")
    assert done.exit_code == 0, done.output
    assert (workspace / "data/import-delphi-main/act_token/part-00000.parquet").is_file()


def test_features_are_listed_by_number_range_and_name(workspace: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = tiller(workspace, "export", "dashboard", out, "--features", "11, 4-6,sky,4")
    assert done.exit_code == 0, done.output
    found = [one.page.feature_id for one in read_batch(out / "batch-0.json").features]
    assert found == [1, 4, 5, 6, 11]
    assert done.output.startswith("5 features under ")
    again = tiller(workspace, "export", "dashboard", out)
    assert isinstance(again.exception, OutExists)


def test_a_dashboard_is_held_against_the_store_and_nothing_is_written(
    workspace: Path, tmp_path: Path
) -> None:
    assert tiller(workspace, "export", "dashboard", tmp_path / "out").exit_code == 0
    batch = tmp_path / "out/batch-0.json"
    before = sorted(workspace.rglob("*"))
    done = tiller(workspace, "import", "dashboard", batch)
    assert done.exit_code == 0, done.output
    assert "theirs: 12 features of made-model, layer 2, main" in done.output
    assert "layers differ" not in done.output
    (density,) = (line for line in done.output.splitlines() if line.startswith(" density"))
    assert "12 of 12" in density
    raw = json.loads(batch.read_text())
    raw["layer"] = 3
    raw["features"][5] |= {"frac_nonzero": 0.9, "pos_str": ["[bold]\u202ex"]}
    batch.write_text(json.dumps(raw))
    done = tiller(workspace, "import", "dashboard", batch)
    assert "the layers differ" in done.output
    lines = {line.split("  ")[0].strip(): line for line in done.output.splitlines()}
    assert "11 of 12" in lines["density"]
    assert "5: " in lines["density"]
    assert "0.9 " in lines["density"]
    assert "[bold] x" in lines["promoted tokens"]
    assert sorted(workspace.rglob("*")) == before


def test_a_broken_dashboard_is_refused_with_its_place(workspace: Path, tmp_path: Path) -> None:
    file = tmp_path / "batch-0.json"
    file.write_text('{"model_id": "m", "layer": 2, "sae_set": "s", "features": [{}]}')
    done = tiller(workspace, "import", "dashboard", file)
    assert isinstance(done.exception, MalformedFile)
    assert "features[0]: feature_index is absent" in str(done.exception)


@pytest.mark.parametrize(
    ("listed", "kind"),
    [
        ("6-4", PipelineError),
        ("0-99999999", PipelineError),
        (",", PipelineError),
        ("12", UnknownFeature),
        ("harbour", UnknownFeature),
    ],
)
def test_features_that_are_not_there_are_refused_and_nothing_is_written(
    workspace: Path, tmp_path: Path, listed: str, kind: type[Exception]
) -> None:
    done = tiller(workspace, "export", "dashboard", tmp_path / "out", "--features", listed)
    assert isinstance(done.exception, kind)
    assert not list(tmp_path.iterdir())


def test_an_unknown_sae_is_refused_by_every_command(workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{}")
    for arguments in (
        ("export", "neuronpedia", tmp_path / "out"),
        ("export", "dashboard", tmp_path / "out"),
        ("export", "delphi", tmp_path / "out"),
        ("import", "neuronpedia", tmp_path / "a.jsonl"),
        ("import", "dashboard", tmp_path / "a.jsonl"),
        ("import", "delphi", tmp_path),
    ):
        done = tiller(workspace, *arguments, "--sae", "other")
        assert isinstance(done.exception, UnknownFeature), arguments
        assert "expected one of main" in str(done.exception)
