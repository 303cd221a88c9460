"""Where parallel work runs: processes of this machine, behind one function.

Knows nothing of stages. The order of the results, and so every out, is the same for any
number of workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

from pipelines.errors import PipelineError

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_order(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int = 1
) -> Iterator[Result]:
    """`function` of each item, in the items' order, by so many processes.

    With one worker everything runs in this process. Otherwise `function`, the items and the
    results travel between processes, so `function` is one that a module defines by name. An
    exception of `function` is raised here, at its item's turn.

    Raises:
        PipelineError: a worker was killed from outside, most often for its memory.
    """
    if workers <= 1:
        yield from map(function, items)
        return
    # A forked child would inherit the locks of torch's and Arrow's threads, held for ever.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        try:
            yield from pool.map(function, items)
        except BrokenProcessPool as error:
            raise PipelineError(
                f"one of {workers} worker processes was killed, often because memory ran out; "
                "expected each to end by itself; lower executor.workers in params.yaml and "
                "run the stage again"
            ) from error
