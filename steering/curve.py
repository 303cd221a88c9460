"""What is known of one direction's cost by dose, and where it is worth looking next.

Between two known points a secant on logarithmic axes, outside them a power law. Knows numbers only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

STEEPEST: Final = 8.0
"""Largest factor by which a step outside the known range may change the coefficient."""


@dataclass(slots=True)
class Curve:
    """The known points of one direction's cost, as coefficient -> cost."""

    lowest: float
    highest: float
    points: dict[float, float] = field(default_factory=dict)

    def met(self, budget: float, tolerance: float) -> float | None:
        """The coefficient tried whose cost is nearest the budget, if within the tolerance."""
        if not self.points:
            return None
        best = min(self.points, key=lambda x: (abs(self.points[x] - budget), x))
        return best if abs(self.points[best] - budget) <= tolerance * budget else None

    def proposal(self, budget: float, start: float, power: float = 2.0) -> float | None:
        """Where to look next for `budget`; None where the bracket's ends rule it out.

        Between the dearest point that is too cheap and the cheapest above it that is too dear:
        the secant on log-log axes, kept off the ends by a tenth of the gap. Outside: along the
        power law of the two nearest points, by no more than `STEEPEST` a step.
        """
        if not self.points:
            return min(max(start, self.lowest), self.highest)
        # The first crossing: a curve that turns back down at large doses has later ones.
        above = min((x for x, y in self.points.items() if y >= budget), default=None)
        below = max(
            (x for x, y in self.points.items() if y < budget and (above is None or x < above)),
            default=None,
        )
        if below is not None and above is not None:
            return self._between(below, above, budget)
        known = below if below is not None else above
        assert known is not None
        step = (budget / self._positive(known, budget)) ** (1.0 / self._power(known, budget, power))
        aim = known * min(max(step, 1 / STEEPEST), STEEPEST)
        aim = min(max(aim, self.lowest), self.highest)
        return None if aim in self.points else aim

    def _between(self, below: float, above: float, budget: float) -> float:
        x0, x1 = math.log(below), math.log(above)
        y0 = math.log(self._positive(below, budget))
        y1 = math.log(self._positive(above, budget))
        share = (math.log(budget) - y0) / (y1 - y0) if y1 > y0 else 0.5
        return math.exp(x0 + min(max(share, 0.1), 0.9) * (x1 - x0))

    def _power(self, at: float, budget: float, power: float) -> float:
        """How fast the cost grows around `at`: the given guess until two points say otherwise."""
        others = [x for x in self.points if x != at]
        if not others:
            return power
        near = min(others, key=lambda x: abs(math.log(x / at)))
        rise = math.log(self._positive(near, budget) / self._positive(at, budget))
        return min(max(rise / math.log(near / at), 0.5), 6.0)

    def _positive(self, coefficient: float, budget: float) -> float:
        """The cost within 1e-3 to 1e3 budgets: a small dose may cost nothing or less, a large
        one infinity, and neither has a logarithm."""
        return min(max(self.points[coefficient], budget * 1e-3), budget * 1e3)
