"""One field of one feature, theirs against ours: how far apart, and whether that is agreement.

A number agrees within 1 % and its rounding, a list where all of theirs is ours too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from features.exchange.page import Context, Page

RELATIVE = 0.01
"""Share by which two numbers that agree may differ, beyond their rounding."""
ROUNDED_DENSITY, ROUNDED = 5e-6, 5e-4
"""Rounding of SAEDashboard: densities to .001 %, all else to three decimals."""
HISTOGRAM = 0.1
"""Difference of cumulative shares by which two histograms that agree may differ."""
CONTEXT_PIECES = 4
"""Pieces before its peak by which a context is known."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One field of one feature."""

    size: float
    """How far apart, in the field's own measure; 0 is equal."""
    agrees: bool
    theirs: str
    ours: str


def _density(theirs: Page, ours: Page) -> Difference:
    return _numbers(theirs.density, ours.density, ROUNDED_DENSITY)


def _max_value(theirs: Page, ours: Page) -> Difference:
    return _numbers(theirs.max_value, ours.max_value, ROUNDED)


def _histogram(theirs: Page, ours: Page) -> Difference | None:
    """The largest difference of cumulative shares at any bin's middle of either."""
    sides = [np.array(page.histogram, dtype=np.float64).reshape(-1, 2) for page in (theirs, ours)]
    if any(side[:, 1].sum() == 0 for side in sides):
        return None
    at = np.unique(np.concatenate([side[:, 0] for side in sides]))
    cumulative = [np.interp(at, *_cumulative(side), left=0.0, right=1.0) for side in sides]
    size = float(np.abs(cumulative[0] - cumulative[1]).max())
    said = [f"{np.average(side[:, 0], weights=side[:, 1]):.3g} in the mean" for side in sides]
    return Difference(size, size <= HISTOGRAM, said[0], said[1])


def _cumulative(histogram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Middles of the bins, ascending, and the share of activations up to each."""
    histogram = histogram[np.argsort(histogram[:, 0], kind="stable")]
    share = histogram[:, 1] / histogram[:, 1].sum()
    return histogram[:, 0], np.cumsum(share) - share / 2


def _words(side: str) -> Callable[[Page, Page], Difference | None]:
    def compare(theirs: Page, ours: Page) -> Difference | None:
        listed = [[word for word, _ in getattr(page, side)] for page in (theirs, ours)]
        return _lists(listed[0], listed[1])

    return compare


def _logits(side: str) -> Callable[[Page, Page], Difference | None]:
    def compare(theirs: Page, ours: Page) -> Difference | None:
        """The token of both lists whose logits differ most."""
        known = dict(getattr(ours, side))
        both = [
            (word, _numbers(logit, known[word], ROUNDED))
            for word, logit in getattr(theirs, side)
            if word in known
        ]
        if not both:
            return None
        word, most = max(both, key=lambda one: (not one[1].agrees, one[1].size))
        return Difference(
            most.size, most.agrees, f"{word!r} {most.theirs}", f"{word!r} {most.ours}"
        )

    return compare


def _aligned(theirs: Page, ours: Page) -> Difference | None:
    return _lists([one[0] for one in theirs.aligned], [one[0] for one in ours.aligned])


def _correlated(theirs: Page, ours: Page) -> Difference | None:
    return _lists([one for one, _ in theirs.correlated], [one for one, _ in ours.correlated])


def _contexts(theirs: Page, ours: Page) -> Difference | None:
    """Their strongest contexts that are among ours, with the same activation at the peak."""
    listed = [one for one in theirs.contexts if one.bin is None and one.peak >= 0]
    if not listed:
        return None
    known: defaultdict[tuple[str, ...], list[float]] = defaultdict(list)
    for one in ours.contexts:
        if one.peak >= 0:
            known[_spot(one)].append(one.values[one.peak])
    spots = [(_spot(one), one.values[one.peak]) for one in listed]
    found = sum(
        any(_numbers(value, other, ROUNDED).agrees for other in known[spot])
        for spot, value in spots
    )
    size = 1 - found / len(spots)
    strongest = [one for one in ours.contexts if one.bin is None and one.peak >= 0]
    return Difference(
        size,
        found == len(spots),
        repr("".join(spots[0][0])),
        repr("".join(_spot(strongest[0]))) if strongest else "none",
    )


def _spot(context: Context) -> tuple[str, ...]:
    return context.tokens[max(0, context.peak - CONTEXT_PIECES) : context.peak + 1]


def _numbers(theirs: float, ours: float, rounded: float) -> Difference:
    larger = max(abs(theirs), abs(ours))
    apart = abs(theirs - ours)
    agrees = apart <= rounded + RELATIVE * larger
    return Difference(apart / larger if larger else 0.0, agrees, f"{theirs:.4g}", f"{ours:.4g}")


def _lists(theirs: Sequence[object], ours: Sequence[object]) -> Difference | None:
    """The share of theirs that we have not, the longer list cut to the shorter."""
    length = min(len(theirs), len(ours))
    if length == 0:
        return None
    first, second = theirs[:length], ours[:length]
    missing = [one for one in first if one not in second]
    said = [", ".join(str(one).strip() for one in side[:3]) for side in (first, second)]
    return Difference(len(missing) / length, not missing, said[0], said[1])


FIELDS: Mapping[str, tuple[str, Callable[[Page, Page], Difference | None]]] = {
    "density": ("of the larger", _density),
    "largest activation": ("of the larger", _max_value),
    "histogram": ("of the activations", _histogram),
    "promoted tokens": ("of the list", _words("promotes")),
    "their logits": ("of the larger", _logits("promotes")),
    "suppressed tokens": ("of the list", _words("suppresses")),
    "logits of these": ("of the larger", _logits("suppresses")),
    "largest weights": ("of the list", _aligned),
    "correlated features": ("of the list", _correlated),
    "strongest contexts": ("of theirs", _contexts),
}
"""Each field: what the size of its difference is, and how it is compared; None, one has it not."""
