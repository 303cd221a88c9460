"""How sure a mean over prompts is: bootstrap intervals, paired permutation, Holm.

Prompts are the unit of chance throughout: several samples of one prompt are averaged first,
for they share what makes the prompt easy or hard. Knows numbers only, no steering.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from jaxtyping import Float, Int

from steering.errors import EvaluationError

LEVEL: Final = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over prompts with the bounds of its 95 % bootstrap interval; NaN where undefined."""

    value: float
    lo: float
    hi: float
    n: int
    """Prompts on which the value is defined."""


UNDEFINED: Final = Interval(math.nan, math.nan, math.nan, 0)


def prompt_means(
    values: Float[np.ndarray, " row"], prompts: Int[np.ndarray, " id"]
) -> tuple[Int[np.ndarray, " prompt"], Float[np.ndarray, " prompt"]]:
    """Each prompt's id, ascending, and the mean of its defined rows (NaN where none is)."""
    if len(values) != len(prompts):
        raise EvaluationError(
            f"{len(values)} values came with {len(prompts)} prompt ids; "
            "expected one id a value; pass the rows they were measured on"
        )
    ids, place = np.unique(prompts, return_inverse=True)
    defined = ~np.isnan(values)
    total = np.bincount(place, np.where(defined, values, 0.0), minlength=len(ids))
    count = np.bincount(place, defined.astype(np.float64), minlength=len(ids))
    means = np.divide(total, count, out=np.full(len(ids), np.nan), where=count > 0)
    return ids, means


def resample_weights(n: int, draws: int, seed: int) -> Float[np.ndarray, "draw {n}"]:
    """Bootstrap samples of `n` prompts as weights: each row counts the prompts drawn, over n."""
    if n < 1 or draws < 1:
        raise EvaluationError(
            f"{draws} bootstrap draws of {n} prompts were asked for; expected at least one of "
            "each; raise evaluate.bootstrap or give more prompts"
        )
    return _drawn(n, draws, seed)


def interval(
    per_prompt: Float[np.ndarray, " prompt"], *, draws: int = 1000, seed: int = 0
) -> Interval:
    """The mean of the defined prompts with its percentile bootstrap interval."""
    defined = per_prompt[~np.isnan(per_prompt)]
    if len(defined) == 0:
        return UNDEFINED
    means = resample_weights(len(defined), draws, seed) @ defined
    lo, hi = _percentiles(means)
    return Interval(float(defined.mean()), lo, hi, len(defined))


def paired_interval(
    ours: Float[np.ndarray, " prompt"],
    theirs: Float[np.ndarray, " other"],
    *,
    draws: int = 1000,
    seed: int = 0,
) -> Interval:
    """The mean difference ours - theirs over the prompts that both define, with its interval."""
    return interval(_paired(ours, theirs), draws=draws, seed=seed)


def ratio_interval(
    ours: Float[np.ndarray, " unit"],
    theirs: Float[np.ndarray, " unit"],
    *,
    draws: int = 1000,
    seed: int = 0,
) -> Interval:
    """The ratio of two means over the same units, resampled together.

    Undefined unless the lower mean is positive in the sample; a draw whose denominator falls to
    0 or below counts as an infinite ratio, so an unsure denominator shows as an open interval.
    """
    both = ~np.isnan(ours) & ~np.isnan(theirs)
    if not both.any() or theirs[both].mean() <= 0:
        return UNDEFINED
    weights = resample_weights(int(both.sum()), draws, seed)
    above, below = weights @ ours[both], weights @ theirs[both]
    ratios = np.divide(above, below, out=np.full(draws, np.inf), where=below > 0)
    lo, hi = np.percentile(ratios, [50 * (1 - LEVEL), 50 * (1 + LEVEL)], method="nearest")
    value = float(ours[both].mean() / theirs[both].mean())
    return Interval(value, float(lo), float(hi), int(both.sum()))


def paired_permutation(
    ours: Float[np.ndarray, " prompt"],
    theirs: Float[np.ndarray, " other"],
    *,
    draws: int = 10_000,
    seed: int = 0,
) -> float:
    """Two-sided p that the mean paired difference is chance, by random sign flips.

    (1 + flips at least as extreme) / (1 + draws), so it is never 0; 1 where nothing is paired.
    """
    difference = _paired(ours, theirs)
    difference = difference[~np.isnan(difference)]
    if len(difference) == 0:
        return 1.0
    flips = np.random.default_rng(seed).integers(0, 2, (draws, len(difference))) * 2.0 - 1.0
    observed = abs(difference.sum())
    # Sums of the same numbers in another order differ by rounding; a tie must count as a tie.
    extreme = np.abs(flips @ difference) >= observed - 1e-9 * max(1.0, observed)
    return float((1 + extreme.sum()) / (1 + draws))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of a family of p values, in the order given.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    order = np.argsort(p_values, kind="stable")
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, place in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = running
    return adjusted


@lru_cache(maxsize=16)
def _drawn(n: int, draws: int, seed: int) -> Float[np.ndarray, "draw prompt"]:
    """The weights, drawn once: thousands of intervals share a few numbers of prompts."""
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1.0 / n), size=draws)
    weights: Float[np.ndarray, "draw prompt"] = counts.astype(np.float64) / n
    weights.setflags(write=False)
    return weights


def _paired(
    ours: Float[np.ndarray, " prompt"], theirs: Float[np.ndarray, " other"]
) -> Float[np.ndarray, " prompt"]:
    if len(ours) != len(theirs):
        raise EvaluationError(
            f"{len(ours)} prompts were paired with {len(theirs)}; expected the same prompts on "
            "both sides; score both methods on one prompt set"
        )
    difference: Float[np.ndarray, " prompt"] = ours - theirs
    return difference


def _percentiles(means: Float[np.ndarray, " draw"]) -> tuple[float, float]:
    lo, hi = np.percentile(means, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return float(lo), float(hi)
