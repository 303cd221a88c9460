"""Intervals of 95 % for shares that rest on documents.

Documents are resampled whole, since tokens of one document are not independent. A share that
is the same in every draw, as a perfect one is, would get no width; there, and where five or
fewer documents hold a positive, the interval is at least as wide as Wilson's for as many
independent documents.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

FEW = 5
"""Documents with a positive, up to which the bootstrap alone is not trusted."""
_Z = 1.959964


def middle(draws: Float[np.ndarray, "draw *figure"]) -> Float[np.ndarray, "bound *figure"]:
    """The middle 95 % of the draws that are defined; NaN where none is."""
    if not np.isfinite(draws).all():
        flat = draws.reshape(len(draws), -1)
        found = [middle(column[np.isfinite(column)]) for column in flat.T]
        return np.stack(found, axis=1).reshape(2, *draws.shape[1:])
    if len(draws) == 0:
        return np.full((2, *draws.shape[1:]), np.nan)
    ranked = np.sort(draws, axis=0)
    place = np.array([0.025, 0.975]) * (len(draws) - 1)
    below = place.astype(int)
    above = np.minimum(below + 1, len(draws) - 1)
    part = (place - below).reshape(2, *[1] * (draws.ndim - 1))
    bounds: np.ndarray = ranked[below] + (ranked[above] - ranked[below]) * part
    return bounds


def wilson(share: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a share of n independent trials.

    Source: Wilson 1927.
    """
    if n == 0:
        return 0.0, 1.0
    centre = share + _Z**2 / (2 * n)
    half = _Z * np.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    low, high = (centre - half) / (1 + _Z**2 / n), (centre + half) / (1 + _Z**2 / n)
    return float(min(max(low, 0.0), share)), float(max(min(high, 1.0), share))


def widened(
    value: float, bounds: tuple[float, float], parts: tuple[tuple[float, int], ...]
) -> tuple[float, float]:
    """The bootstrap's bounds, at least as wide as Wilson's where draws agree or are few.

    Args:
        parts: shares whose mean the value is, each with its number of documents.
    """
    lo, hi = bounds
    if hi - lo > 1e-9 and min(n for _, n in parts) > FEW:
        return lo, hi
    known = [(share, wilson(share, n)) for share, n in parts]
    down = sum(share - low for share, (low, _) in known) / len(parts)
    up = sum(high - share for share, (_, high) in known) / len(parts)
    return max(min(value - down, lo), 0.0), min(max(value + up, hi), 1.0)


def auroc_interval(
    auroc: Float[np.ndarray, " feature"], n_pos: int, n_neg: int
) -> tuple[Float[np.ndarray, " feature"], Float[np.ndarray, " feature"]]:
    """The 95 % interval of an AUROC, units taken as independent: documents, never their tokens.

    The area is first drawn half a pair towards one half, so that a perfect one keeps a width.

    Source: Hanley and McNeil 1982.
    """
    pairs = n_pos * n_neg
    area = (auroc * pairs + 0.5) / (pairs + 1)
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area) + (n_pos - 1) * (q1 - area**2) + (n_neg - 1) * (q2 - area**2)
    half = 1.96 * np.sqrt(np.maximum(variance, 0) / pairs)
    return np.clip(auroc - half, 0, 1), np.clip(auroc + half, 0, 1)


def auroc_draws(
    value: Float[np.ndarray, " active"],
    unit: Int[np.ndarray, " active"],
    doc: Int[np.ndarray, " unit"],
    holds: Bool[np.ndarray, " unit"],
    weights: Float[np.ndarray, "draw doc"],
) -> Float[np.ndarray, " draw"]:
    """The area under the curve in each resample of the documents; NaN without both classes.

    Args:
        value: activations of the units that are active, all above 0; the others are silent.
        unit: which unit each belongs to.
        doc: the document of each unit.
        weights: how often each document is drawn.
    """
    order = np.argsort(value, kind="stable")
    ranked, unit = value[order], unit[order]
    n_docs = weights.shape[1]
    active = np.zeros(len(doc), dtype=bool)
    active[unit] = True
    first = np.flatnonzero(np.diff(ranked, prepend=-1.0))
    sides = []
    for side in (holds, ~holds):
        silent = weights @ np.bincount(doc[side & ~active], minlength=n_docs).astype(np.float64)
        each = weights[:, doc[unit]] * side[unit]
        grouped = np.add.reduceat(each, first, axis=1) if len(first) else each[:, :0]
        sides.append(np.concatenate([silent[:, None], grouped], axis=1))
    positive, negative = sides
    below = np.cumsum(negative, axis=1) - negative
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        areas: np.ndarray = (positive * (below + negative / 2)).sum(axis=1) / pairs
    return areas
