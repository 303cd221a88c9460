"""Walking a graph: a project of three small stages stands in for ours."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import ParamsError, PipelineError, StageFailed
from pipelines.walk import inputs, processes, walker

GRAPH = """
vars: [{python: env python}]
stages:
  read:
    cmd: ${python} -m pipelines.read
    deps: [pipelines/read.py, inputs/model]
    params: [seed]
    outs: [data/read]
  train:
    foreach: ${sae}
    do:
      cmd: ${python} -m pipelines.train ${key}
      deps: [pipelines/train.py, data/read]
      params: ["sae.${key}.train.k"]
      outs: ["data/sae/${key}"]
      metrics: [{"metrics/${key}.json": {cache: false}}]
  sum:
    cmd: ${python} -m pipelines.sum
    deps: [pipelines/sum.py, data/sae]
    params: [sae, label]
    outs: [data/sum.txt]
"""
COMMON = """
import json, os, sys, time
from pathlib import Path
params = json.loads(Path("params.yaml").read_text())
Path(".ran").open("a").write(f"{sys.argv}\\n")
def write(path, text):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)
"""
STAGES = {
    "read": """
model = [p.read_text() for p in sorted(Path("inputs/model").glob("*.json"))]
write(f"data/read/{params['seed']}.txt", f"{params['seed']} {model}")
""",
    "train": """
k = params["sae"][sys.argv[1]]["train"]["k"]
if k == 13:
    sys.exit("k is unlucky")
if k == 14:
    Path("began").touch()
    time.sleep(60)
text = "".join(p.read_text() for p in sorted(Path("data/read").iterdir()))
write(f"data/sae/{sys.argv[1]}/weights", f"{k} {text}")
write(f"metrics/{sys.argv[1]}.json", "{}")
""",
    "sum": """
if os.environ.get("FORGET") != "1":
    weights = [Path(f"data/sae/{slug}/weights").read_text() for slug in params["sae"]]
    write("data/sum.txt", "+".join(weights))
""",
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    (folder / "pipelines").mkdir(parents=True)
    (folder / "dvc.yaml").write_text(GRAPH)
    (folder / ".dvcignore").write_text("__pycache__/\n*.pyc\n")
    (folder / "pipelines" / "__init__.py").touch()
    for name, body in STAGES.items():
        (folder / "pipelines" / f"{name}.py").write_text(COMMON + body)
    for module in (walker, inputs, processes):
        monkeypatch.setattr(module, "PROJECT", folder)
    monkeypatch.setattr(processes, "GRACE_SECONDS", 2.0)
    return folder


@pytest.fixture
def workspace(project: Path, tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    give(tmp_path / "work", {"a": 4, "b": 8})
    return tmp_path / "work"


def give(workspace: Path, ks: dict[str, int], seed: int = 0, **sections: object) -> None:
    """Write parameters, as JSON, which is YAML that the stages read without a library."""
    saes = {slug: {"train": {"k": k}} for slug, k in ks.items()}
    text = json.dumps({"seed": seed, "sae": saes, **sections})
    (workspace / "params.yaml").write_text(text)


def actions(workspace: Path, **options: Any) -> dict[str, str]:
    return {done.stage: done.action for done in walker.outcomes(workspace, **options)}


def who(workspace: Path, action: str, **options: Any) -> list[str]:
    return [name for name, what in actions(workspace, **options).items() if what == action]


ALL = ["read", "train@a", "train@b", "sum"]


def test_the_first_walk_runs_everything_and_the_second_nothing(workspace: Path) -> None:
    assert who(workspace, "ran") == ALL
    assert (workspace / "data" / "sum.txt").read_text() == "4 0 []+8 0 []"
    assert who(workspace, "skipped") == ALL
    assert len((workspace / ".ran").read_text().splitlines()) == 4


def test_a_changed_parameter_runs_what_comes_of_it(workspace: Path) -> None:
    actions(workspace)
    give(workspace, {"a": 5, "b": 8})
    assert who(workspace, "ran") == ["train@a", "sum"]
    give(workspace, {"a": 5, "b": 8}, label={"bootstrap": 50})
    assert who(workspace, "ran") == ["sum"]


def test_a_parameter_that_no_stage_lists_runs_nothing(workspace: Path) -> None:
    actions(workspace)
    give(workspace, {"a": 4, "b": 8}, executor={"workers": 2}, model={"device": "cpu"})
    assert who(workspace, "skipped") == ALL


def test_writing_a_default_out_in_full_runs_nothing(workspace: Path) -> None:
    actions(workspace)
    give(workspace, {"a": 4, "b": 8}, label={"bootstrap": 200})
    assert who(workspace, "skipped") == ALL


def test_putting_a_value_back_restores_what_it_gave(workspace: Path) -> None:
    actions(workspace)
    before = (workspace / "data" / "sum.txt").read_text()
    give(workspace, {"a": 5, "b": 8})
    actions(workspace)
    give(workspace, {"a": 4, "b": 8})
    assert who(workspace, "ran") == []
    assert who(workspace, "skipped") == ALL
    assert (workspace / "data" / "sum.txt").read_text() == before


def test_only_the_last_runs_are_kept(workspace: Path) -> None:
    for k in (4, 5, 6):
        give(workspace, {"a": k, "b": 8})
        actions(workspace)
    kept = workspace / ".work" / "graph" / "kept" / "train@a"
    assert len(list(kept.iterdir())) == walker.KEPT_RUNS
    give(workspace, {"a": 4, "b": 8})
    assert "train@a" in who(workspace, "ran")


@pytest.mark.parametrize("harm", ["removed", "changed", "added"])
def test_an_out_that_was_touched_is_brought_back_as_it_was(workspace: Path, harm: str) -> None:
    actions(workspace)
    weights = workspace / "data" / "sae" / "a" / "weights"
    before = weights.read_text()
    if harm == "added":
        (weights.parent / "stray").write_text("x")
    weights.unlink()
    if harm == "changed":
        weights.write_text("9")
    assert who(workspace, "restored") == ["train@a"]
    assert weights.read_text() == before
    assert [path.name for path in weights.parent.iterdir()] == ["weights"]


def test_a_kept_run_that_was_written_into_is_not_trusted(workspace: Path) -> None:
    actions(workspace)
    weights = workspace / "data" / "sae" / "a" / "weights"
    weights.write_text("written in place, so the kept link changed too")
    assert who(workspace, "ran") == ["train@a"]
    assert weights.read_text() == "4 0 []"


def test_changed_code_runs_its_stage_and_compiled_code_does_not(
    workspace: Path, project: Path
) -> None:
    actions(workspace)
    cache = project / "pipelines" / "__pycache__"
    cache.mkdir(exist_ok=True)
    (cache / "sum.cpython-311.pyc").write_text("x")
    assert who(workspace, "ran") == []
    with (project / "pipelines" / "sum.py").open("a") as file:
        file.write("# another comment\n")
    assert who(workspace, "ran") == ["sum"]


def test_force_runs_every_chosen_stage(workspace: Path) -> None:
    actions(workspace)
    assert who(workspace, "ran", force=True) == ALL
    assert actions(workspace, force=True, first="train@b", last="train") == {"train@b": "ran"}


def test_what_an_earlier_run_left_is_no_part_of_a_later_one(workspace: Path) -> None:
    actions(workspace)
    give(workspace, {"a": 4, "b": 8}, seed=1)
    actions(workspace)
    assert [path.name for path in (workspace / "data" / "read").iterdir()] == ["1.txt"]


def test_a_dropped_sae_takes_its_outs_along_and_the_rest_stays(workspace: Path) -> None:
    actions(workspace)
    give(workspace, {"b": 8})
    assert who(workspace, "ran") == ["sum"]
    assert not (workspace / "data" / "sae" / "a").exists()
    assert not (workspace / "metrics" / "a.json").exists()
    assert (workspace / "data" / "sae" / "b" / "weights").exists()


def test_a_dropped_sae_whose_files_were_changed_since_is_left_to_its_owner(workspace: Path) -> None:
    actions(workspace)
    (workspace / "data" / "sae" / "a" / "notes.txt").write_text("mine")
    give(workspace, {"b": 8})
    actions(workspace)
    assert (workspace / "data" / "sae" / "a" / "notes.txt").exists()


def test_a_failed_stage_stops_the_walk_and_what_was_done_is_not_done_again(workspace: Path) -> None:
    give(workspace, {"a": 4, "b": 13})
    with pytest.raises(StageFailed, match=r"stage 'train@b' ended with exit code 1; .*tiller run"):
        actions(workspace)
    give(workspace, {"a": 4, "b": 8})
    assert who(workspace, "ran") == ["train@b", "sum"]


def test_a_stage_that_forgets_an_out_is_named(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORGET", "1")
    with pytest.raises(StageFailed, match=r"'sum' ended well but wrote no data/sum\.txt"):
        actions(workspace)


def test_a_model_outside_is_linked_in_and_a_changed_byte_runs_its_stages(
    workspace: Path, tmp_path: Path
) -> None:
    model = tmp_path / "models" / "m"
    model.mkdir(parents=True)
    (model / "config.json").write_text("one")
    give(tmp_path / "models", {"a": 4}, model={"name": "m"})
    (tmp_path / "models" / "params.yaml").rename(tmp_path / "models" / "p.yaml")
    run = ["read", "train@a", "sum"]
    assert who(workspace, "ran", params_file=tmp_path / "models" / "p.yaml") == run
    assert '"name": "m"' in (workspace / "params.yaml").read_text()
    # A later walk without the file still finds the model beside it.
    assert who(workspace, "ran") == []
    (model / "config.json").unlink()
    (model / "config.json").write_text("two")
    assert who(workspace, "ran") == run
    assert "two" in (workspace / "data" / "sum.txt").read_text()


def test_a_wrong_parameter_file_changes_nothing(workspace: Path, tmp_path: Path) -> None:
    before = (workspace / "params.yaml").read_text()
    (tmp_path / "bad.yaml").write_text("sae: {}\n")
    with pytest.raises(ParamsError, match=r"bad\.yaml"):
        actions(workspace, params_file=tmp_path / "bad.yaml")
    assert (workspace / "params.yaml").read_text() == before


def test_the_projects_own_parameters_are_not_replaced(project: Path, tmp_path: Path) -> None:
    give(tmp_path, {"a": 4})
    with pytest.raises(PipelineError, match="--workspace"):
        actions(project, params_file=tmp_path / "params.yaml")
    assert not (project / "params.yaml").exists()


def test_nothing_is_made_for_a_walk_that_cannot_begin(workspace: Path, tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="--params FILE"):
        actions(tmp_path / "new")
    with pytest.raises(PipelineError, match="did you mean 'train'"):
        actions(tmp_path / "new", params_file=workspace / "params.yaml", last="trian")
    assert not (tmp_path / "new").exists()


def test_a_workspace_may_hold_a_folder_of_any_name(workspace: Path) -> None:
    (workspace / "json").mkdir()
    (workspace / "json" / "__init__.py").write_text("raise SystemExit('taken for a package')")
    assert who(workspace, "ran") == ALL


def test_two_walks_at_once_are_refused(workspace: Path) -> None:
    with (
        processes.alone(workspace),
        pytest.raises(PipelineError, match="another run is at work"),
    ):
        actions(workspace)
    assert who(workspace, "ran") == ALL


def test_the_table_names_each_stage_and_what_became_of_it(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    walker.walk(workspace)
    capsys.readouterr()
    give(workspace, {"a": 4, "b": 9})
    walker.walk(workspace)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["stage", "what", "seconds"] in rows
    assert [row[:2] for row in rows if len(row) == 3 and row[0] in ALL] == [
        ["read", "skipped"],
        ["train@a", "skipped"],
        ["train@b", "ran"],
        ["sum", "ran"],
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_walk_keeps_what_was_done_and_can_go_on(
    workspace: Path, project: Path, number: signal.Signals
) -> None:
    give(workspace, {"a": 4, "b": 14})
    code = (
        "from pathlib import Path; from pipelines.walk import inputs, processes, walker\n"
        f"project = Path({str(project)!r})\n"
        "walker.PROJECT = inputs.PROJECT = processes.PROJECT = project\n"
        f"walker.walk(Path({str(workspace)!r}))"
    )
    root = Path(walker.__file__).resolve().parents[2]
    child = subprocess.Popen(
        [sys.executable, "-P", "-c", code],
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _wait_for(workspace / "began")
    child.send_signal(number)
    assert child.wait(20) != 0
    give(workspace, {"a": 4, "b": 8})
    if number == signal.SIGINT:
        assert who(workspace, "ran") == ["train@b", "sum"]
    else:
        # The stage lives on without its walker, and holds the workspace as long as it does.
        with pytest.raises(PipelineError, match="another run is at work"):
            actions(workspace)
        _end_orphans(workspace)
        assert who(workspace, "ran") == ["train@b", "sum"]


def _wait_for(path: Path) -> None:
    limit = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < limit, f"{path} did not appear"
        time.sleep(0.05)


def _end_orphans(workspace: Path) -> None:
    """End the stages that run in this workspace: all of them were started by this test."""
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cwd").resolve() == workspace.resolve():
                os.kill(int(entry.name), signal.SIGKILL)
        except OSError:
            continue
    time.sleep(0.2)
