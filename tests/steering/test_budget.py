from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steering.budget import solve_alike, solve_budgets
from steering.errors import BudgetUnreachable

BUDGETS = [0.05, 0.1, 0.25, 0.5]


def power_law(scale: float, power: float = 2.0, factor: float = 1.0) -> Callable[[float], float]:
    return lambda x: factor * (x / scale) ** power


class Counted:
    """Cost curves, one a direction, that count what was asked of them."""

    def __init__(self, *curves: Callable[[float], float]) -> None:
        self.curves = curves
        self.batches: list[int] = []

    def __call__(self, which: np.ndarray, doses: np.ndarray) -> np.ndarray:
        self.batches.append(len(which))
        return np.array([self.curves[i](x) for i, x in zip(which, doses, strict=True)])


@settings(deadline=None)
@given(
    power=st.floats(1.0, 3.5),
    scale=st.floats(0.05, 8.0),
    start=st.floats(0.1, 8.0),
)
def test_every_budget_on_a_power_law_is_met_within_eight_evaluations(
    power: float, scale: float, start: float
) -> None:
    cost = Counted(lambda x: (x / scale) ** power)
    [solutions] = solve_budgets(cost, 1, BUDGETS, start=start, lowest=1e-4)
    for solution, budget in zip(solutions, BUDGETS, strict=True):
        assert solution.reason is None
        assert solution.cost == pytest.approx(budget, rel=0.05)
        assert (solution.coefficient / scale) ** power == pytest.approx(solution.cost)


@settings(deadline=None)
@given(seed=st.integers(0, 500))
def test_a_curve_like_a_models_is_solved_in_few_evaluations(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scale, ceiling = rng.uniform(0.5, 4), rng.uniform(2, 8)
    cost = Counted(lambda x: ceiling * (1 - np.exp(-((x / scale) ** 2) / ceiling)))
    [solutions] = solve_budgets(cost, 1, BUDGETS, start=1.0)
    assert all(solution.reason is None for solution in solutions)
    assert sum(cost.batches) <= 12
    assert len(cost.batches) <= 8


def test_one_budget_takes_no_more_than_eight_evaluations() -> None:
    cost = Counted(lambda x: 1e-9 if x < 3.0 else 10.0)
    [[solution]] = solve_budgets(cost, 1, [0.1])
    assert sum(cost.batches) == 8
    assert np.isnan(solution.coefficient)
    assert solution.reason is not None
    assert "jumps past 0.1" in solution.reason


def test_a_direction_that_costs_nothing_says_so() -> None:
    [[solution]] = solve_budgets(Counted(lambda x: 0.0), 1, [0.1], highest=16.0)
    assert np.isnan(solution.coefficient)
    assert solution.reason is not None
    assert "stays below 0.1" in solution.reason


def test_a_small_dose_that_helps_the_model_does_not_stop_the_search() -> None:
    cost = Counted(lambda x: 0.02 * (x - 1.0) * x)
    [[solution]] = solve_budgets(cost, 1, [0.1], start=0.5)
    assert solution.cost == pytest.approx(0.1, rel=0.05)


def test_the_first_crossing_is_taken_where_the_curve_turns_back() -> None:
    cost = Counted(lambda x: np.exp(-((np.log(x) - 1.0) ** 2)))
    [[solution]] = solve_budgets(cost, 1, [0.5], start=1.0)
    assert solution.coefficient < np.e
    assert solution.cost == pytest.approx(0.5, rel=0.05)


def test_an_infinite_or_undefined_cost_is_too_dear_not_fatal() -> None:
    cost = Counted(lambda x: np.nan if x > 2.0 else x**2 / 8)
    [[solution]] = solve_budgets(cost, 1, [0.3], start=8.0)
    assert solution.cost == pytest.approx(0.3, rel=0.05)


def test_directions_are_solved_together_as_if_alone() -> None:
    curves = [power_law(s) for s in (0.5, 1.0, 3.0)]
    together = Counted(*curves)
    solved = solve_budgets(together, 3, BUDGETS)
    for place, curve in enumerate(curves):
        assert solve_budgets(Counted(curve), 1, BUDGETS) == [solved[place]]
    assert len(together.batches) <= 8


def test_a_good_first_guess_saves_evaluations() -> None:
    far, near = Counted(lambda x: x**2), Counted(lambda x: x**2)
    solve_budgets(far, 1, [0.1], start=30.0)
    solve_budgets(near, 1, [0.1], start=0.32)
    assert sum(near.batches) == 1 < sum(far.batches)


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(BudgetUnreachable, match="expected positive costs"):
        solve_budgets(Counted(lambda x: x), 1, [0.1, 0.0])


def test_no_directions_need_no_evaluation() -> None:
    assert solve_budgets(Counted(), 0, BUDGETS) == []


def test_directions_that_cost_alike_are_solved_in_fewer_evaluations() -> None:
    scales = np.random.default_rng(0).uniform(0.9, 1.3, size=40)
    curves = [power_law(s, 4.5, 0.15) for s in scales]
    alike, alone = Counted(*curves), Counted(*curves)
    solved = solve_alike(alike, len(curves), BUDGETS)
    solve_budgets(alone, len(curves), BUDGETS)
    for curve, solutions in zip(curves, solved, strict=True):
        for solution, budget in zip(solutions, BUDGETS, strict=True):
            assert curve(solution.coefficient) == pytest.approx(budget, rel=0.05)
    assert sum(alike.batches) < 0.75 * sum(alone.batches)


def test_one_odd_direction_among_alike_ones_is_solved_all_the_same() -> None:
    curves = [power_law(s) for s in [1.0] * 9 + [20.0]]
    solved = solve_alike(Counted(*curves), 10, [0.1, 0.5], pilots=3)
    assert solved[9][0].cost == pytest.approx(0.1, rel=0.05)
    assert solve_alike(Counted(), 0, BUDGETS) == []


def test_pilots_that_meet_no_budget_leave_the_others_their_own_start() -> None:
    curves = [power_law(1.0, factor=0.0), power_law(1.0), power_law(2.0)]
    solved = solve_alike(Counted(*curves), 3, [0.1], pilots=1)
    assert solved[0][0].reason is not None
    assert solved[2][0].cost == pytest.approx(0.1, rel=0.05)
