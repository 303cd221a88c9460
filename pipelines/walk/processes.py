"""A stage as a process, and a workspace as something that one walker holds at a time.

Knows nothing of what is skipped or why.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.errors import PipelineError
from pipelines.walk.graph import PROJECT, Stage

GRACE_SECONDS = 10.0
"""How long an interrupted stage may take to end by itself, before it is killed."""


def execute(stage: Stage, workspace: Path, lock: int) -> int:
    """The exit code of a stage; it does not outlive an interrupt of this process."""
    environment = dict(os.environ)
    paths = [str(PROJECT), *filter(None, [environment.get("PYTHONPATH")])]
    # The workspace may hold folders of any name; none of them is to be taken for a package.
    environment |= {"PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}
    child = subprocess.Popen(
        [sys.executable, "-m", stage.module, *stage.arguments],
        cwd=workspace,
        env=environment,
        pass_fds=(lock,),
    )
    try:
        return child.wait()
    finally:
        if child.poll() is None:
            _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a stage: a Ctrl-C has reached it too, so it is asked first and killed last."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        child.send_signal(number)
        try:
            child.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        return


@contextmanager
def alone(workspace: Path) -> Iterator[int]:
    """Hold the workspace; a stage that outlived its walker holds it too, through the descriptor."""
    path = workspace / ".work" / "graph" / "lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PipelineError(
                f"another run is at work in {workspace.resolve()}; expected one at a time; "
                "wait for it, or end it"
            ) from None
        yield file.fileno()
