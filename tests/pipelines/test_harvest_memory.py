"""The whole stage `harvest`, torch and all, within a hard limit of memory at any size of dump."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pipelines
from tests.pipelines.harvest_memory import build

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts mappings on Linux only"),
]
CHILD = Path(__file__).with_name("harvest_memory.py")
MEBI = 2**20
LIMIT_MB = 300
"""Reserved or used, beyond the imports: the sort may hold 64 MB and reserves as much again."""
FEW_TOKENS, MANY_TOKENS = 90_000, 270_000
"""Both have more pairs of features than co-activation counts, so both draw a sample."""


def harvest(workspace: Path, limit_mb: int) -> subprocess.CompletedProcess[str]:
    """The stage in a process of its own, with what a limit counts kept to what is in use."""
    known = {
        "PYTHONPATH": str(Path(str(pipelines.__file__)).parents[1]),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TILLER_LOG": "WARNING",
        # Arrow's own allocator reserves a gibibyte at once, and malloc keeps what it is given back.
        "ARROW_DEFAULT_MEMORY_POOL": "system",
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_THRESHOLD_": str(MEBI // 4),
        "MALLOC_TRIM_THRESHOLD_": str(MEBI // 4),
    }
    return subprocess.run(
        [sys.executable, str(CHILD), str(limit_mb)],
        cwd=workspace,
        env={**os.environ, **known},
        capture_output=True,
        check=False,
        text=True,
        # A thread's stack counts as its process's memory: one mebibyte, not eight.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_STACK, (MEBI, MEBI)),
    )


def test_a_harvest_of_a_dump_several_times_its_memory_takes_what_a_small_one_takes(
    tmp_path: Path, tiny_lm_dir: Path
) -> None:
    peaks = []
    for n_tokens in (FEW_TOKENS, MANY_TOKENS):
        workspace = tmp_path / str(n_tokens)
        workspace.mkdir()
        n_bytes = build(workspace, tiny_lm_dir, n_tokens)
        done = harvest(workspace, LIMIT_MB)
        assert done.returncode == 0, done.stderr
        before, more = map(int, done.stdout.split())
        assert before > 100
        assert 10 < more <= LIMIT_MB
        peaks.append(more)
        if n_tokens == FEW_TOKENS:
            missed = harvest(workspace, 40)
            assert missed.returncode != 0, "a limit that can be missed"
            assert "emory" in missed.stderr or "alloc" in missed.stderr
        shutil.rmtree(workspace / "data/residuals")
    assert n_bytes > 3.5 * LIMIT_MB * MEBI
    assert peaks[1] / peaks[0] < 1.15, peaks
