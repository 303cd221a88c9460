"""What is loaded when: torch costs 3 s, sae_lens 10 s, so neither comes uncalled for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "transformers", "datasets", "sae_lens", "transformer_lens", "matplotlib")
LIGHT_STAGES = ("corpus", "index", "label", "report")
HEAVY_STAGES = ("dump", "train", "harvest", "directions", "steer", "evaluate")
LIGHT_PACKAGES = ("store", "features", "microworld", "lm", "sae", "steering", "pipelines")


def loaded_by(code: str) -> set[str]:
    """The heavy libraries that a fresh interpreter has loaded after running `code`."""
    report = f"\nimport sys\nprint('LOADED', *[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code + report],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("LOADED"))
    return set(line.split()[1:])


def test_the_probe_sees_a_heavy_import() -> None:
    assert loaded_by("import matplotlib") == {"matplotlib"}


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["features", "--help"]])
def test_asking_tiller_for_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = (
        f"import sys; sys.argv = ['tiller', *{arguments!r}]\n"
        "from pipelines.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code"
    )
    assert loaded_by(code) == set()


def test_importing_a_package_or_its_errors_loads_nothing_heavy() -> None:
    code = "\n".join(f"import {package}, {package}.errors" for package in LIGHT_PACKAGES)
    assert loaded_by(code) == set()


def test_importing_a_stage_without_tensors_loads_nothing_heavy() -> None:
    # What a stage loads when it runs is tested in end_to_end/test_stages.py.
    assert loaded_by("\n".join(f"import pipelines.{stage}" for stage in LIGHT_STAGES)) == set()


def test_importing_no_stage_loads_another_interpretability_library() -> None:
    code = "\n".join(f"import pipelines.{stage}" for stage in (*LIGHT_STAGES, *HEAVY_STAGES))
    assert loaded_by(code).isdisjoint({"sae_lens", "transformer_lens"})
