"""One figure of one label, and the figure that could not be had."""

from __future__ import annotations

from dataclasses import dataclass

SILENT = "the feature is silent on these documents"


@dataclass(frozen=True, slots=True)
class Score:
    """One figure of one label; without a value where it is undefined, with the reason."""

    metric: str
    value: float | None
    lo: float | None
    hi: float | None
    null_value: float | None
    n_pos: int
    n_neg: int
    negatives: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Support:
    """The positives and negatives that a figure rests on."""

    n_pos: int
    n_neg: int
    negatives: str | None = None
    """How the negatives were chosen."""

    def score(
        self,
        metric: str,
        value: float,
        interval: tuple[float | None, float | None],
        null_value: float,
    ) -> Score:
        """A figure that is defined."""
        lo, hi = interval
        return Score(metric, value, lo, hi, null_value, self.n_pos, self.n_neg, self.negatives)

    def undefined(self, metric: str, reason: str) -> Score:
        """A figure that is not."""
        return Score(metric, None, None, None, None, self.n_pos, self.n_neg, self.negatives, reason)
