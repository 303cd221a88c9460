"""How a stage begins and ends: its log, its errors as one line, and a record of its cost.

The record goes to `.work/runs/`, outside every out, because a time is never a result.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

from features.errors import FeatureError
from lm.errors import LmError
from microworld.errors import MicroworldError
from pipelines.errors import PipelineError, StageFailed
from pipelines.params import ModelParams
from sae.errors import SaeError
from steering.errors import SteeringError
from store.errors import StoreError

EXPECTED = (
    PipelineError,
    StoreError,
    LmError,
    SaeError,
    FeatureError,
    SteeringError,
    MicroworldError,
)
MICROWORLD_MODEL = Path(__file__).resolve().parent.parent / "microworld" / "model"
INPUTS = Path("inputs")
EXPECTED_ERROR = 2
"""Exit code of whatever has said in one line what was wrong."""


def run_stage(name: str, main: Callable[[], None]) -> None:
    """Run a stage's `main`; an expected error becomes one line and exit code 2."""
    debug = "--debug" in sys.argv or bool(os.environ.get("TILLER_DEBUG"))
    logging.basicConfig(
        level=os.environ.get("TILLER_LOG", "INFO").upper(), format="%(message)s", stream=sys.stderr
    )
    wall, cpu = time.perf_counter(), time.process_time()
    with one_line_errors(debug=debug):
        main()
    _record(name, wall=time.perf_counter() - wall, cpu=time.process_time() - cpu)


class one_line_errors:  # noqa: N801 (a context manager reads as a verb phrase)
    """Turn an expected error into one line on stderr and exit code 2."""

    def __init__(self, *, debug: bool) -> None:
        self.debug = debug

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _tb: object
    ) -> None:
        if self.debug or error is None:
            return
        if isinstance(error, StageFailed) and error.is_told:
            raise SystemExit(EXPECTED_ERROR) from None
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            line = "DiskFull: no space left on the device; free some space and run the stage again"
        elif isinstance(error, EXPECTED):
            line = f"{type(error).__name__}: {' '.join(str(error).split())}"
        else:
            return
        sys.stderr.write(line + "\n")
        raise SystemExit(EXPECTED_ERROR) from None


def argument() -> str:
    """The slug given to a foreach stage."""
    given = [arg for arg in sys.argv[1:] if not arg.startswith("-")]
    if len(given) != 1:
        raise PipelineError(
            f"got {len(given)} arguments; this stage takes one, the slug of an SAE in params.yaml; "
            "for example `python -m pipelines.train main`"
        )
    return given[0]


def model_source(params: ModelParams) -> str:
    """Where the model of these parameters lies: a folder, or a name on the hub."""
    if params.name == "microworld":
        return str(MICROWORLD_MODEL)
    linked = INPUTS / "model"
    return str(linked) if (linked / "config.json").is_file() else params.name


def _record(name: str, *, wall: float, cpu: float) -> None:
    folder = Path(".work/runs")
    folder.mkdir(parents=True, exist_ok=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    record = {"wall_s": round(wall, 3), "cpu_s": round(cpu, 3), "peak_mb": round(peak, 1)}
    scratch = folder / f".{name}.partial"
    scratch.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    scratch.replace(folder / f"{name}.json")
