"""`python -m benchmarks.steering [part ...]`: what steering adds to a decode step.

One run, one machine, one thread, processor time. A line is `below` only where the lower end of
its interval lies on the wrong side of what is required. What each figure means is written in
`docs/benchmarks.md`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from benchmarks.parts import run_parts

PARTS = {
    "overhead": "benchmarks.steering_overhead",
    "sweep": "benchmarks.steering_sweep",
    "folded": "benchmarks.steering_folded",
    "peers": "benchmarks.steering_peers",
    "llama_cpp": "benchmarks.steering_llama_cpp",
}


def main(chosen: Sequence[str] = ()) -> int:
    """Run these parts, or all; 2 where one is unknown."""
    return run_parts(PARTS, chosen)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
