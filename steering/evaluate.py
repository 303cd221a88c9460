"""What steering did to a text: concept, preservation, their mean with fluency, side effects.

Every score is one number a generated text, so that intervals and paired tests can treat each
prompt as the unit of chance. The judge's probabilities come from outside: this module knows no
judge, no model and no file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from steering.errors import EvaluationError

HELD: Final = 0.9
"""An attribute is the prompt's own where the judge gives it at least this probability."""


def preservation(
    steered: Float[np.ndarray, "row attribute"],
    unsteered: Float[np.ndarray, "row attribute"],
    held: Bool[np.ndarray, "row attribute"],
) -> Float[np.ndarray, " row"]:
    """P of each row: how much of the prompt's other attributes the steered text kept.

    The mean over held attributes j of min(1, p_steered(j) / p_unsteered(j)), in [0, 1]. Keeping
    an attribute better than the unsteered text is worth no more than keeping it.

    Args:
        steered: probability of each attribute's value of the prompt, given the steered text.
        unsteered: the same for the same prompt without steering.
        held: which attributes the prompt itself fixes (posterior >= .9), the target's left out.

    Returns:
        NaN where the prompt holds no other attribute: there is nothing to preserve.
    """
    ratio = np.divide(steered, unsteered, out=np.ones_like(steered), where=unsteered > 0)
    kept = np.where(held, np.minimum(1.0, ratio), 0.0).sum(axis=1)
    count = held.sum(axis=1)
    out = np.full(len(kept), np.nan)
    np.divide(kept, count, out=out, where=count > 0)
    return out


def harmonic_mean(*scores: Float[np.ndarray, " row"]) -> Float[np.ndarray, " row"]:
    """HM of each row's defined scores; 0 if any is 0, NaN if none is defined.

    Raises:
        EvaluationError: a score lies outside [0, 1], so it is no share and no probability.
    """
    table = np.stack(scores)
    if (table < 0).any() or (table > 1 + 1e-6).any():
        raise EvaluationError(
            f"scores range from {np.nanmin(table):.3g} to {np.nanmax(table):.3g}; expected [0, 1]; "
            "give C, P and F, not lifts or nats"
        )
    defined = ~np.isnan(table)
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.where(defined, 1.0 / np.where(defined, table, 1.0), 0.0).sum(axis=0)
    count = defined.sum(axis=0)
    out = np.full(table.shape[1], np.nan)
    np.divide(count, inverse, out=out, where=count > 0)
    return out


@dataclass(frozen=True, slots=True)
class OffTarget:
    """Change of the other concepts' mean probability, absolute, in [0, 1]."""

    largest: float
    mean: float


def off_target(
    steered: Float[np.ndarray, "row concept"], unsteered: Float[np.ndarray, "row concept"]
) -> OffTarget:
    """|mean P(steered) - mean P(unsteered)| over concepts that were not asked for.

    The caller leaves out the target and its rivals for the same slot (another topic cannot stay
    when the topic is what changes). NaN where no concept is left.
    """
    if steered.shape[1] == 0:
        return OffTarget(np.nan, np.nan)
    change = np.abs(np.nanmean(steered, axis=0) - np.nanmean(unsteered, axis=0))
    return OffTarget(float(change.max()), float(change.mean()))


@dataclass(frozen=True, slots=True)
class Reliability:
    """Whether more of the dose gives more of the concept, prompt by prompt."""

    spearman: float
    """Mean over prompts of the rank correlation of dose and response; 0 where C never moves."""
    anti_steerable: float
    """Share of prompts whose response falls with the dose (negative least-squares slope)."""
    n: int
    """Prompts."""


def reliability(
    doses: Float[np.ndarray, " dose"], response: Float[np.ndarray, "prompt dose"]
) -> Reliability:
    """Reliability of a direction from the response of each prompt at each dose.

    Args:
        doses: coefficients, the unsteered 0 among them, at least two different ones.
        response: C of each prompt, a mean over its samples.

    Raises:
        EvaluationError: there are fewer than two different doses.

    Source: Tan et al. 2024, "Analyzing the Generalization and Reliability of Steering Vectors",
    whose per-prompt steerability is the slope of the response.
    """
    if len(np.unique(doses)) < 2:
        raise EvaluationError(
            f"{len(doses)} doses were given, {len(np.unique(doses))} of them different; expected "
            "at least two, the unsteered 0 included; solve more budgets"
        )
    known = response[~np.isnan(response).any(axis=1)]
    if len(known) == 0:
        return Reliability(np.nan, np.nan, 0)
    centred = doses - doses.mean()
    slopes = (known - known.mean(axis=1, keepdims=True)) @ centred / (centred @ centred)
    rho = np.array([spearman(doses, one) for one in known])
    # Rounding makes a flat response slope by 1e-17; that is not a falling one.
    return Reliability(float(rho.mean()), float((slopes < -1e-9).mean()), len(known))


def spearman(x: Float[np.ndarray, " point"], y: Float[np.ndarray, " point"]) -> float:
    """Rank correlation with ties averaged, in [-1, 1]; 0 where either side is constant."""
    rank_x, rank_y = _ranks(x), _ranks(y)
    spread = rank_x.std() * rank_y.std()
    if spread == 0:
        return 0.0
    return float(((rank_x - rank_x.mean()) * (rank_y - rank_y.mean())).mean() / spread)


def pair_rows(
    keys: Shaped[np.ndarray, " row"], base_keys: Shaped[np.ndarray, " base"]
) -> Int[np.ndarray, " row"]:
    """For each row the base row with the same key: the unsteered text of its prompt and seed.

    Raises:
        EvaluationError: a row has no partner, so a paired comparison would be of other noise.
    """
    order = np.argsort(base_keys, kind="stable")
    place = np.searchsorted(base_keys, keys, sorter=order)
    found = order[np.minimum(place, len(order) - 1)] if len(order) else np.zeros(0, np.int64)
    if len(order) == 0 or (base_keys[found] != keys).any():
        raise EvaluationError(
            "a steered text has no unsteered text of the same prompt and seed; expected one for "
            "each; run `tiller run --from steer` so that both are made together"
        )
    return np.asarray(found, dtype=np.int64)


def _ranks(values: Float[np.ndarray, " point"]) -> Float[np.ndarray, " point"]:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return np.asarray((last - (count - 1) / 2)[place], dtype=np.float64)
