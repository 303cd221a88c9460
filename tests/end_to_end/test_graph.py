"""What must re-run and what must not, by real runs, under `dvc repro` and `tiller run` alike."""

from __future__ import annotations

import compileall
import hashlib
import json
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pipelines.walk.graph import PROJECT
from pipelines.walk.inputs import open_digests
from pipelines.walk.links import remove

if TYPE_CHECKING:
    from tests.end_to_end.conftest import House

pytestmark = pytest.mark.slow

STEERING = {"steer", "evaluate", "report"}
FROM_INDEX = {"index", "label", "directions", *STEERING}


def test_nothing_runs_when_nothing_changed_and_it_costs_little(house: House) -> None:
    looked = _cpu_of_children()
    house.run("dvc", "status")
    looked, before = _cpu_of_children() - looked, _cpu_of_children()
    assert house.dvc() == frozenset()
    assert _cpu_of_children() - before <= 2 * looked, "CPU of `dvc repro`, by `dvc status`"
    before = _cpu_of_children()
    subprocess.run(
        [sys.executable, "-c", "from pipelines.cli import main; main()", "run", "-w", "."],
        cwd=house.tiller_dir,
        env=house.environment_with(PROJECT),
        stdout=subprocess.DEVNULL,
        check=True,
    )
    assert _cpu_of_children() - before <= looked, "CPU of `tiller run`, by `dvc status`"
    assert house.tiller() == frozenset()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"steer.coefficients": [0.25]}, STEERING),
        ({"evaluate.bootstrap": 21}, {"evaluate", "report"}),
        ({"sae.b.train.k": 3}, {"train@b", "harvest@b", *FROM_INDEX}),
        ({"executor.workers": 2, "model.device": "auto"}, set()),
    ],
    ids=["steer.coefficients", "evaluate", "k of one SAE", "where it runs"],
)
def test_a_change_runs_what_comes_of_it_and_putting_it_back_runs_nothing(
    house: House, changes: dict[str, Any], expected: set[str]
) -> None:
    before = house.lock()
    house.tell(changes)
    under_dvc, under_tiller = house.both()
    assert under_dvc == under_tiller
    # A stage whose inputs came out byte for byte as before need not run again.
    assert under_dvc <= expected
    assert {stage for stage in expected if "@" in stage} <= under_dvc
    assert bool(under_dvc) == bool(expected)
    if len(expected) <= 3:
        assert under_dvc == expected
    house.tell({})
    assert house.both() == (frozenset(), frozenset())
    assert house.lock() == before


def test_labelling_anew_steers_anew_only_if_a_direction_changed(house: House) -> None:
    before = house.digest("data/directions")
    house.tell({"label.bootstrap": 21})
    under_dvc, under_tiller = house.both()
    assert under_dvc == under_tiller
    assert {"label", "directions"} <= under_dvc <= {"label", "directions", *STEERING}
    assert ("steer" in under_dvc) == (house.digest("data/directions") != before)
    house.tell({})
    assert house.both() == (frozenset(), frozenset())


def test_logging_and_compiled_code_run_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TILLER_LOG", "DEBUG")
    assert compileall.compile_dir(house.dvc_dir / "store", quiet=2)
    assert list((house.dvc_dir / "store").rglob("*.pyc"))
    assert house.both() == (frozenset(), frozenset())


def test_two_clean_runs_give_the_same_hash_for_every_out(house: House) -> None:
    lock = house.lock()
    assert len(lock) > 12
    found = {out: _dvc_hash(house.tiller_dir / out) for out in lock}
    assert found == lock


@pytest.mark.parametrize("out", ["data/sae/a", "data/features/b", "data/labels"])
def test_an_out_that_was_deleted_comes_back_as_it_was(house: House, out: str) -> None:
    before = house.lock()
    remove(house.dvc_dir / out)
    remove(house.tiller_dir / out)
    house.both()
    assert house.lock() == before
    assert _dvc_hash(house.dvc_dir / out) == before[out]
    assert _dvc_hash(house.tiller_dir / out) == before[out]


def test_a_killed_training_goes_on_where_it_stood_and_ends_the_same(house: House) -> None:
    before = house.digest("data/sae/a")
    scratch = house.tiller_dir / ".work" / "train"
    remove(scratch)
    training = subprocess.Popen(
        [sys.executable, "-P", "-m", "pipelines.train", "a"],
        cwd=house.tiller_dir,
        env=house.environment_with(PROJECT),
    )
    limit = time.monotonic() + 60
    while not any(path.is_file() for path in scratch.rglob("*")):
        assert training.poll() is None, "it ended before there was a checkpoint"
        assert time.monotonic() < limit
        time.sleep(0.005)
    training.send_signal(signal.SIGKILL)
    training.wait()
    assert house.digest("data/sae/a") == before, "a killed run leaves the last whole out"
    subprocess.run(
        training.args, cwd=house.tiller_dir, env=house.environment_with(PROJECT), check=True
    )
    assert house.digest("data/sae/a") == before


def test_a_dropped_sae_is_gone_and_the_other_is_not_trained_again(house: House) -> None:
    before = house.lock()
    house.tell({"sae.b": None})
    assert house.both(last="index") == (frozenset({"index"}),) * 2
    assert not (house.tiller_dir / "data" / "sae" / "b").exists()
    assert not (house.tiller_dir / "plots" / "train-b.csv").exists()
    house.tell({})
    assert house.both() == (frozenset(), frozenset())
    assert house.lock() == before


def test_a_changed_byte_of_the_model_is_read_again(house: House) -> None:
    before = house.lock()
    originals = {}
    for folder in (house.dvc_dir, house.tiller_dir):
        config = folder / "model" / "config.json"
        originals[config] = config.read_bytes()
        config.unlink()
        config.write_bytes(originals[config] + b"\n")
    _refresh_inputs(house)
    assert house.both(last="dump") == (frozenset({"corpus", "dump"}),) * 2
    for config, text in originals.items():
        config.unlink()
        config.write_bytes(text)
    _refresh_inputs(house)
    assert house.both() == (frozenset(), frozenset())
    assert house.lock() == before


def _refresh_inputs(house: House) -> None:
    """What `tiller run` does by itself, for DVC."""
    house.run("pipelines.walk.inputs").check_returncode()


def _cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _dvc_hash(out: Path) -> str:
    """What dvc.lock says of an out: md5 of a file, or of a folder's list of them."""
    if out.is_file():
        return hashlib.md5(out.read_bytes()).hexdigest()
    listed = [
        {"md5": hashlib.md5(path.read_bytes()).hexdigest(), "relpath": name}
        for name, path in open_digests(out.parent).files(out).items()
    ]
    listed.sort(key=lambda entry: entry["relpath"])
    return hashlib.md5(json.dumps(listed, sort_keys=True).encode()).hexdigest() + ".dir"
