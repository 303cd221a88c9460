"""How a stage begins and ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import stage
from pipelines.errors import PipelineError
from pipelines.params import ModelParams

ROOT = Path(__file__).resolve().parents[2]


def run_in(
    folder: Path, body: str, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """A stage `probe` whose main is `body`, as a process of its own."""
    code = "import errno, sys\nfrom pipelines.stage import run_stage\n"
    code += "from pipelines.errors import *\nfrom store.errors import *\n"
    code += f"def main():\n    {body}\nrun_stage('probe', main)\n"
    return subprocess.run(
        [sys.executable, "-P", "-c", code, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_stage_that_ends_well_leaves_a_record_of_its_cost(tmp_path: Path) -> None:
    done = run_in(tmp_path, "pass")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / ".work" / "runs" / "probe.json").read_text())
    assert record.keys() == {"wall_s", "cpu_s", "peak_mb"}
    assert record["peak_mb"] > 1


@pytest.mark.parametrize("kind", ["MissingInput", "CorpusError", "MissingArtefact", "DiskFull"])
def test_an_expected_error_is_one_line_and_exit_code_2(tmp_path: Path, kind: str) -> None:
    done = run_in(tmp_path, f"raise {kind}('found this;\\n  do that')")
    assert done.returncode == 2
    assert done.stderr == f"{kind}: found this; do that\n"
    assert not (tmp_path / ".work" / "runs" / "probe.json").exists()


def test_a_full_disk_is_named_wherever_it_shows(tmp_path: Path) -> None:
    done = run_in(tmp_path, "raise OSError(errno.ENOSPC, 'No space left on device')")
    assert done.returncode == 2
    assert done.stderr.startswith("DiskFull: ")
    assert len(done.stderr.splitlines()) == 1


def test_an_unexpected_error_keeps_its_traceback(tmp_path: Path) -> None:
    done = run_in(tmp_path, "raise KeyError('mine')")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "environment"), [(["--debug"], {}), ([], {"TILLER_DEBUG": "1"})]
)
def test_debug_shows_the_traceback_of_an_expected_error(
    tmp_path: Path, arguments: list[str], environment: dict[str, str]
) -> None:
    done = run_in(tmp_path, "raise MissingInput('x')", *arguments, **environment)
    assert done.returncode != 0
    assert "Traceback" in done.stderr


def test_a_foreach_stage_is_given_exactly_one_slug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train", "main", "--debug"])
    assert stage.argument() == "main"
    for arguments in ([], ["a", "b"]):
        monkeypatch.setattr(sys, "argv", ["train", *arguments])
        with pytest.raises(PipelineError, match="takes one, the slug"):
            stage.argument()


def test_the_model_is_the_embedded_one_the_linked_folder_or_a_name_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "inputs" / "model").mkdir(parents=True)
    (tmp_path / "inputs" / "model" / ".gitkeep").touch()
    assert Path(stage.model_source(ModelParams())) == ROOT / "microworld" / "model"
    assert stage.model_source(ModelParams(name="openai-community/gpt2")) == "openai-community/gpt2"
    (tmp_path / "inputs" / "model" / "config.json").write_text("{}")
    assert Path(stage.model_source(ModelParams(name="../mine"))) == Path("inputs/model")
    assert Path(stage.model_source(ModelParams())) == ROOT / "microworld" / "model"
