"""Which coefficient costs exactly a budget: log-log regula falsi, many directions at once.

A cost (dCE in nats, or a KL) grows about as a power of the dose, so that on logarithmic axes a
secant is nearly exact. All directions advance together, one batch of evaluations a round, and
every evaluation of a direction serves all of its budgets. Knows no model: `cost` is given.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from steering.curve import Curve
from steering.errors import BudgetUnreachable

Cost = Callable[[Int[np.ndarray, " item"], Float[np.ndarray, " item"]], Float[np.ndarray, " item"]]
"""Costs of (which direction, coefficient) items, evaluated in one batch."""


@dataclass(frozen=True, slots=True)
class Solution:
    """The coefficient found for one budget and what it cost when it was tried."""

    coefficient: float
    """In the unit that the cost takes; NaN where the budget was not met."""
    cost: float
    evaluations: int
    """Cost evaluations spent on this direction until the budget was settled."""
    reason: str | None = None
    """Why there is no coefficient; None where there is one."""


def solve_budgets(
    cost: Cost,
    n: int,
    budgets: Sequence[float],
    *,
    start: float = 1.0,
    power: float = 2.0,
    lowest: float = 0.01,
    highest: float = 64.0,
    tolerance: float = 0.05,
    max_evaluations: int = 8,
) -> list[list[Solution]]:
    """For each of `n` directions, one `Solution` a budget, in the order of `budgets`.

    Args:
        cost: what doses cost, in the budgets' unit, evaluated in one batch.
        n: how many directions there are.
        budgets: costs to meet, positive.
        start: first guess of a coefficient.
        power: first guess of how fast the cost grows with the coefficient.
        lowest: smallest coefficient tried.
        highest: largest coefficient tried.
        tolerance: largest relative miss of a met budget.
        max_evaluations: most evaluations that one direction spends on one budget.

    Raises:
        BudgetUnreachable: a budget is not positive, so no coefficient can meet it.
    """
    if any(not budget > 0 for budget in budgets):
        raise BudgetUnreachable(
            f"budgets {list(budgets)} were asked for; expected positive costs in nats; "
            "an unsteered model is the budget of 0"
        )
    curves = [Curve(lowest, highest) for _ in range(n)]
    spent = np.zeros((n, len(budgets)), dtype=np.int64)
    while batch := _next_batch(
        curves,
        budgets,
        spent,
        guess=(start, power),
        tolerance=tolerance,
        max_evaluations=max_evaluations,
    ):
        which = np.array([direction for direction, _ in batch], dtype=np.int64)
        doses = np.array([dose for _, dose in batch])
        for direction, dose, value in zip(which, doses, cost(which, doses), strict=True):
            curves[direction].points[float(dose)] = math.inf if math.isnan(value) else float(value)
    return [[_solution(curve, budget, tolerance) for budget in budgets] for curve in curves]


def solve_alike(
    cost: Cost,
    n: int,
    budgets: Sequence[float],
    *,
    pilots: int = 6,
    tolerance: float = 0.05,
    max_evaluations: int = 8,
) -> list[list[Solution]]:
    """As `solve_budgets`, for directions of one stream, which cost alike.

    Some pilots, evenly spaced, are solved first; the others begin where those ended, which saves
    about half of the evaluations.
    """
    solved: dict[int, list[Solution]] = {}
    start, power = 1.0, 2.0
    first = sorted({int(place) for place in np.linspace(0, n - 1, min(n, pilots))})
    for places in (first, [place for place in range(n) if place not in first]):
        solutions = solve_budgets(
            _of(cost, np.array(places, dtype=np.int64)),
            len(places),
            budgets,
            start=start,
            power=power,
            tolerance=tolerance,
            max_evaluations=max_evaluations,
        )
        solved |= zip(places, solutions, strict=True)
        start, power = _guess(solutions, budgets) if solutions else (start, power)
    return [solved[place] for place in range(n)]


def _of(cost: Cost, places: Int[np.ndarray, " place"]) -> Cost:
    """The cost of some directions, numbered by themselves."""
    return lambda which, doses: cost(places[which], doses)


def _guess(solved: Sequence[Sequence[Solution]], budgets: Sequence[float]) -> tuple[float, float]:
    """The middle of the known coefficients, and the power with which cost grew between budgets."""
    logs = np.log([[one.coefficient for one in solutions] for solutions in solved])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        by_budget = np.nanmedian(logs.reshape(-1, len(budgets)), axis=0)
    known = np.flatnonzero(~np.isnan(by_budget))
    if len(known) == 0:
        return 1.0, 2.0
    start = float(np.exp(by_budget[known[len(known) // 2]]))
    rise = by_budget[known[-1]] - by_budget[known[0]]
    if rise <= 0:
        return start, 2.0
    return start, float(math.log(budgets[known[-1]] / budgets[known[0]]) / rise)


def _next_batch(
    curves: Sequence[Curve],
    budgets: Sequence[float],
    spent: Int[np.ndarray, "direction budget"],
    *,
    guess: tuple[float, float],
    tolerance: float,
    max_evaluations: int,
) -> list[tuple[int, float]]:
    """What each unsettled (direction, budget) wants tried next; one item where wishes agree."""
    batch: list[tuple[int, float]] = []
    for direction, curve in enumerate(curves):
        wishes: list[float] = []
        for place, budget in enumerate(budgets):
            if spent[direction, place] >= max_evaluations or curve.met(budget, tolerance):
                continue
            wish = curve.proposal(budget, *guess)
            if wish is None:
                continue
            spent[direction, place] += 1
            # Two wishes within 1 % would buy one answer twice.
            if all(abs(wish / other - 1) > 0.01 for other in wishes):
                wishes.append(wish)
        batch += [(direction, wish) for wish in wishes]
    return batch


def _solution(curve: Curve, budget: float, tolerance: float) -> Solution:
    coefficient = curve.met(budget, tolerance)
    tried = len(curve.points)
    if coefficient is not None:
        return Solution(coefficient, curve.points[coefficient], tried)
    if not curve.points:
        return Solution(math.nan, math.nan, 0, "nothing was evaluated")
    nearest = min(curve.points, key=lambda x: (abs(curve.points[x] - budget), x))
    costs = list(curve.points.values())
    side = "stays below" if max(costs) < budget else "jumps past"
    return Solution(
        math.nan,
        curve.points[nearest],
        tried,
        f"the cost {side} {budget:g} between coefficients {min(curve.points):.3g} "
        f"and {max(curve.points):.3g}",
    )
