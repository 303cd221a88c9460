"""Each stage by itself: it needs no more than dvc.yaml says, and gives the same bytes again."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from pipelines.walk.graph import PROJECT, Stage, read_graph
from pipelines.walk.inputs import open_digests
from pipelines.walk.links import link
from store.atomic import link_tree

if TYPE_CHECKING:
    from tests.end_to_end.conftest import House

pytestmark = pytest.mark.slow


@dataclass(frozen=True, slots=True)
class Alone:
    """How a stage fared by itself, and the digests of what it wrote."""

    process: subprocess.CompletedProcess[str]
    outs: dict[str, str | None]


LIGHT = {"corpus", "index", "label", "report"}
STAGES = ["dump", "train@a", "harvest@a", "directions", "steer", "evaluate", *sorted(LIGHT)]


@pytest.fixture(scope="module")
def alone(house: House, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Alone]:
    """Each stage, run in a folder that holds its deps and nothing else, two at a time."""

    def run(name: str) -> Alone:
        stage, folder = _find(house, name), tmp_path_factory.mktemp("alone")
        _lay_out(stage, house.tiller_dir, folder)
        altered = _altered(house.params, stage.params)
        (folder / "params.yaml").write_text(yaml.safe_dump(altered))
        done = _run(house, stage, folder, with_torch=name not in LIGHT)
        digests = open_digests(folder)
        return Alone(done, {out: digests.of(folder / out) for out in stage.outs})

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(STAGES, pool.map(run, STAGES), strict=True))


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_needs_only_what_it_declares_and_gives_the_same_bytes(
    house: House, alone: Mapping[str, Alone], name: str
) -> None:
    assert alone[name].process.returncode == 0, alone[name].process.stderr
    assert alone[name].outs == {out: house.digest(out) for out in alone[name].outs}


@pytest.mark.parametrize("name", ["dump", "train@a", "harvest@a", "label", "steer", "report"])
def test_a_stage_without_its_input_says_so_in_one_line_and_writes_nothing(
    house: House, name: str, tmp_path: Path
) -> None:
    stage = _find(house, name)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(house.params))
    if "inputs/model" in stage.deps:
        link_tree(house.tiller_dir / "inputs" / "model", tmp_path / "inputs" / "model")
    done = _run(house, stage, tmp_path, with_torch=True)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.split(":")[0] in {"MissingInput", "MissingArtefact", "SaeFileError"}, last
    assert "run `" in last, last
    assert not any((tmp_path / out).exists() for out in stage.outs)


def test_altering_changes_every_number_but_those_that_are_kept() -> None:
    values = {"seed": 0, "sae": {"a": {"k": 4}, "b": {"k": 4}}, "model": {"name": "x"}}
    assert _altered(values, ("sae.a", "model.name")) == {
        "seed": 1,
        "sae": {"a": {"k": 4}, "b": {"k": 5}},
        "model": {"name": "x"},
    }


def _find(house: House, name: str) -> Stage:
    stages = read_graph(PROJECT / "dvc.yaml", house.params)
    return next(stage for stage in stages if stage.name == name)


def _run(
    house: House, stage: Stage, folder: Path, *, with_torch: bool
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", stage.module, *stage.arguments],
        cwd=folder,
        env=house.environment_with(*_stand_ins(folder, with_torch=with_torch), PROJECT),
        capture_output=True,
        text=True,
        check=False,
    )


def _lay_out(stage: Stage, source: Path, target: Path) -> None:
    """The stage's deps, and nothing else of the workspace."""
    for dep in stage.deps:
        if dep.startswith(("data/", "inputs/", "metrics", "plots")):
            (target / dep).parent.mkdir(parents=True, exist_ok=True)
            if (source / dep).is_dir():
                (target / dep).mkdir(exist_ok=True)
                link_tree(source / dep, target / dep)
            else:
                link(source / dep, target / dep)


def _altered(values: dict[str, Any], kept: tuple[str, ...], prefix: str = "") -> dict[str, Any]:
    """The parameters with every number changed that is not below one of the kept keys."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        if any(key == keep or key.startswith(f"{keep}.") for keep in kept):
            found[name] = value
        elif isinstance(value, dict):
            found[name] = _altered(value, kept, f"{key}.")
        elif key == "model.name":
            found[name] = "another"
        else:
            found[name] = _another(value, keep=key.startswith("corpus.split"))
    return found


def _another(value: object, *, keep: bool) -> object:
    match value:
        case _ if keep:
            return value
        case bool():
            return not value
        case int():
            return value + 1
        case float():
            return value / 2
        case _:
            return value


def _stand_ins(folder: Path, *, with_torch: bool) -> list[Path]:
    """A torch that refuses to be imported, where it must not be."""
    if with_torch:
        return []
    stand_in = folder / ".refused" / "torch"
    stand_in.mkdir(parents=True)
    (stand_in / "__init__.py").write_text("raise SystemExit('torch was imported')\n")
    return [stand_in.parent]
