"""Walking the graph without DVC or git: `tiller run`.

A stage is skipped while its inputs (the content of its deps, its parameters, its command)
and its outs are those of its last run, restored when an earlier run had the same inputs, and
run as a process of its own otherwise. The record of each stage is `.work/graph/<stage>.json`.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Column, Table

from pipelines.errors import PipelineError, StageFailed
from pipelines.params import load_params
from pipelines.stage import EXPECTED_ERROR, INPUTS
from pipelines.walk.digests import Digests
from pipelines.walk.graph import PROJECT, Stage, between, overlap, read_graph, value_at
from pipelines.walk.inputs import link_inputs, open_digests
from pipelines.walk.links import link, mirror, remove
from pipelines.walk.processes import alone, execute
from store.atomic import whole_file
from store.errors import MissingArtefact, SchemaMismatch
from store.manifest import fingerprint, read_json, write_json

KEPT_RUNS = 2
"""Runs of a stage whose outs are kept, the present one included, to put a value back for free."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one stage of a walk."""

    stage: str
    action: Literal["ran", "restored", "skipped"]
    seconds: float


def walk(
    workspace: Path = Path(),
    *,
    params: Path | None = None,
    first: str | None = None,
    last: str | None = None,
    force: bool = False,
) -> None:
    """Bring a workspace up to date and print what became of each stage: see `outcomes`."""
    logging.basicConfig(level="INFO", format="%(message)s")
    table = Table("stage", "what", Column("seconds", justify="right"), box=SIMPLE)
    try:
        for done in outcomes(workspace, params_file=params, first=first, last=last, force=force):
            table.add_row(done.stage, done.action, f"{done.seconds:.1f}")
    finally:
        if table.row_count:
            Console().print(table)


def outcomes(
    workspace: Path,
    *,
    params_file: Path | None = None,
    first: str | None = None,
    last: str | None = None,
    force: bool = False,
) -> Iterator[Outcome]:
    """Bring a workspace up to date; gives each stage's outcome as it ends.

    Args:
        params_file: copied to the workspace's params.yaml; its relative paths are relative
            to the folder it lies in, also in later runs.
        first: only this stage and those that come of it.
        last: only this stage and those that it needs.
        force: run every stage, whatever is recorded.

    Raises:
        PipelineError: the parameters, the graph or a path in them is wrong, or another run is
            at work in the workspace.
        StageFailed: a stage ended with an error; those before it stay recorded.
    """
    given = params_file or workspace / "params.yaml"
    params = load_params(given)
    values = params.model_dump(mode="json")
    stages = read_graph(PROJECT / "dvc.yaml", values)
    chosen = between(stages, first, last)
    workspace.mkdir(parents=True, exist_ok=True)
    with alone(workspace) as lock:
        bases = _adopt(workspace, given)
        digests = open_digests(workspace)
        link_inputs(params, workspace, bases, digests)
        _forget_removed(workspace, stages, digests)
        at_work = _Walk(workspace, stages, values, digests, lock, force)
        try:
            for stage in chosen:
                yield at_work.bring_up_to_date(stage)
        finally:
            digests.save()


@dataclass(frozen=True, slots=True)
class _Walk:
    """One pass over a workspace."""

    workspace: Path
    stages: tuple[Stage, ...]
    values: Mapping[str, Any]
    digests: Digests
    lock: int
    force: bool

    def bring_up_to_date(self, stage: Stage) -> Outcome:
        start = time.perf_counter()
        inputs = self._inputs(stage)
        record = _read(_record(self.workspace, stage.name))
        kept = self.workspace / ".work" / "graph" / "kept" / stage.name / fingerprint(inputs)
        action: Literal["ran", "restored", "skipped"] = "ran"
        if not self.force and record.get("inputs") == inputs and self._has(record["outs"]):
            return Outcome(stage.name, "skipped", time.perf_counter() - start)
        if not self.force and self._restore(stage, kept):
            action = "restored"
        else:
            self._run(stage)
        outs = self._outs(stage)
        self._keep(outs, kept)
        write_json(_record(self.workspace, stage.name), {"inputs": inputs, "outs": outs})
        return Outcome(stage.name, action, time.perf_counter() - start)

    def _inputs(self, stage: Stage) -> dict[str, Any]:
        """Everything that the outs may depend on, as one JSON value."""
        return {
            "command": [stage.module, *stage.arguments],
            "deps": {dep: self.digests.of(self._place(dep)) for dep in stage.deps},
            "params": {key: value_at(self.values, key) for key in stage.params},
        }

    def _place(self, dep: str) -> Path:
        """What a stage writes, or came from outside, lies in the workspace; all else is code."""
        written = any(overlap(dep, out) for stage in self.stages for out in stage.outs)
        return (self.workspace if written or overlap(dep, str(INPUTS)) else PROJECT) / dep

    def _has(self, outs: Mapping[str, str]) -> bool:
        return all(self.digests.of(self.workspace / out) == digest for out, digest in outs.items())

    def _outs(self, stage: Stage) -> dict[str, str]:
        found = {out: self.digests.of(self.workspace / out) for out in stage.outs}
        missing = [out for out, digest in found.items() if digest is None]
        if missing:
            raise StageFailed(
                f"stage {stage.name!r} ended well but wrote no {', '.join(missing)}; expected "
                "every out that dvc.yaml names; correct the stage or dvc.yaml"
            )
        return {out: digest for out, digest in found.items() if digest is not None}

    def _run(self, stage: Stage) -> None:
        # What an earlier run left, say for a hook point that is gone, is no part of this one.
        for out in stage.outs:
            remove(self.workspace / out)
            (self.workspace / out).parent.mkdir(parents=True, exist_ok=True)
        log.info("stage %s", stage.name)
        code = execute(stage, self.workspace, self.lock)
        if code == 0:
            return
        end = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        raise StageFailed(
            f"stage {stage.name!r} {end}; expected 0, and its own message stands above; mend the "
            "cause and run `tiller run` again, which skips the stages that are done",
            is_told=code == EXPECTED_ERROR,
        )

    def _keep(self, outs: Mapping[str, str], kept: Path) -> None:
        for out in outs:
            _mirror(self.workspace / out, kept / out, self.digests)
        write_json(kept / ".outs.json", outs)
        os.utime(kept)
        runs = sorted(kept.parent.iterdir(), key=lambda folder: folder.stat().st_mtime_ns)
        for old in runs[:-KEPT_RUNS]:
            remove(old)

    def _restore(self, stage: Stage, kept: Path) -> bool:
        """Put back the outs of an earlier run with the same inputs, unless they were touched."""
        outs = _read(kept / ".outs.json")
        if set(outs) != set(stage.outs):
            return False
        if any(self.digests.of(kept / out) != digest for out, digest in outs.items()):
            return False
        for out in outs:
            _mirror(kept / out, self.workspace / out, self.digests)
        return True


def _mirror(source: Path, target: Path, digests: Digests) -> None:
    if source.is_dir():
        mirror(digests.files(source), target, digests)
    elif digests.of(target) != digests.of(source):
        link(source, target)


def _adopt(workspace: Path, given: Path) -> tuple[Path, ...]:
    """Make a parameter file the workspace's own; gives where its relative paths start from."""
    target, origin = workspace / "params.yaml", workspace / ".work" / "graph" / "origin.json"
    if given.resolve() != target.resolve():
        if workspace.resolve() == PROJECT:
            raise PipelineError(
                f"{given} would replace the project's own params.yaml; expected another "
                "folder for it; give one with --workspace DIR"
            )
        with whole_file(target) as scratch:
            scratch.write_bytes(given.read_bytes())
        write_json(origin, {"folder": str(given.resolve().parent)})
    folder = _read(origin).get("folder")
    return (*([Path(folder)] if folder else []), workspace)


def _forget_removed(workspace: Path, stages: tuple[Stage, ...], digests: Digests) -> None:
    """Remove what stages wrote that dvc.yaml no longer has, such as a dropped SAE's."""
    names = {stage.name for stage in stages}
    written = [out for stage in stages for out in stage.outs]
    for path in (workspace / ".work" / "graph").glob("*@*.json"):
        if path.stem in names:
            continue
        for out, digest in _read(path).get("outs", {}).items():
            ours = digests.of(workspace / out) == digest
            if ours and not any(overlap(out, other) for other in written):
                remove(workspace / out)
        remove(path)


def _record(workspace: Path, name: str) -> Path:
    return workspace / ".work" / "graph" / f"{name}.json"


def _read(path: Path) -> dict[str, Any]:
    """A record, empty where there is none that can be read."""
    try:
        found = read_json(path)
    except (MissingArtefact, SchemaMismatch):
        return {}
    return found if isinstance(found, dict) else {}
