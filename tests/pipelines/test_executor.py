"""Work in several processes: the same results in the same order, or a clear end."""

from __future__ import annotations

import os
import signal
import time

import pytest

from pipelines.errors import PipelineError
from pipelines.executor import map_in_order


def slow_when_small(number: int) -> tuple[int, int]:
    time.sleep(0.05 * (3 - number))
    return number, number * number


def fails_at_two(number: int) -> int:
    if number == 2:
        raise ValueError("two")
    return number


def dies_at_one(number: int) -> int:
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_items_for_any_number_of_workers(workers: int) -> None:
    found = list(map_in_order(slow_when_small, iter(range(4)), workers))
    assert found == [(0, 0), (1, 1), (2, 4), (3, 9)]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_the_function_comes_at_its_items_turn(workers: int) -> None:
    results = map_in_order(fails_at_two, range(4), workers)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(results)


def test_a_killed_worker_is_a_clear_error_and_the_next_call_works() -> None:
    with pytest.raises(PipelineError, match=r"killed.*lower executor\.workers"):
        list(map_in_order(dies_at_one, range(3), 2))
    assert list(map_in_order(slow_when_small, [3], 2)) == [(3, 9)]


def test_one_worker_runs_in_this_process_and_needs_nothing_that_travels() -> None:
    seen: list[int] = []
    assert list(map_in_order(seen.append, range(3), 1)) == [None] * 3
    assert seen == [0, 1, 2]


def test_no_items_give_no_results() -> None:
    assert list(map_in_order(slow_when_small, [], 2)) == []
