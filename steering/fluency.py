"""F, the two-sided fluency of a generated text: neither gibberish nor a loop.

A loop is *more* likely than text under its own model and shuffled words repeat nothing, so
neither perplexity nor repetition alone is fluency: F is the product of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Num

from steering.errors import EvaluationError


@dataclass(frozen=True, slots=True)
class FluencyReference:
    """What unsteered text is like, from the calibrate half's unsteered generations."""

    nats: float
    """Median over texts of the mean nats a generated id."""
    tolerance: float
    """90th percentile of |nats - median|: so far a text may stray at no cost."""
    distinct2: float
    """Median share of bigrams that are distinct."""
    repeated4: float
    """Median share of 4-grams that occurred before in the same text."""

    def __post_init__(self) -> None:
        if not (self.distinct2 > 0 and self.repeated4 < 1 and self.tolerance >= 0):
            raise EvaluationError(
                f"the unsteered texts give {self}; expected some distinct bigrams and 4-grams; "
                "generate longer texts from the unsteered model"
            )


def reference(
    nats: Float[np.ndarray, " row"], ids: Sequence[Int[np.ndarray, " _"]]
) -> FluencyReference:
    """The reference statistics of unsteered generations; empty texts are left out.

    Args:
        nats: mean nats a generated id under the unsteered model, NaN for an empty text.
        ids: the generated ids of each row.

    Raises:
        EvaluationError: there is no text, or its texts are all one loop.
    """
    written = ~np.isnan(nats)
    if not written.any():
        raise EvaluationError(
            "no unsteered text has a generated id; expected at least one; "
            "check the calibrate prompts and steer.max_new_tokens"
        )
    median = float(np.median(nats[written]))
    return FluencyReference(
        nats=median,
        tolerance=float(np.quantile(np.abs(nats[written] - median), 0.9)),
        distinct2=float(np.median(distinct_bigrams(ids)[written])),
        repeated4=float(np.median(repeated_4grams(ids)[written])),
    )


def fluency(
    nats: Float[np.ndarray, " row"],
    ids: Sequence[Int[np.ndarray, " _"]],
    ref: FluencyReference,
) -> Float[np.ndarray, " row"]:
    """F of each row, in [0, 1]: exp(-max(0, |l - l_ref| - tau)) * rho.

    rho = min(1, distinct2 / ref) * min(1, (1 - rep4) / (1 - rep4_ref)). A text without a
    generated id says nothing and scores 0.
    """
    strayed = np.maximum(0.0, np.abs(nats - ref.nats) - ref.tolerance)
    varied = np.minimum(1.0, distinct_bigrams(ids) / ref.distinct2)
    fresh = np.minimum(1.0, (1.0 - repeated_4grams(ids)) / (1.0 - ref.repeated4))
    return np.where(np.isnan(nats), 0.0, np.exp(-np.nan_to_num(strayed)) * varied * fresh)


def mean_nats(nats: Sequence[Num[np.ndarray, " _"]]) -> Float[np.ndarray, " row"]:
    """Mean nats a generated id of each row; NaN for a row with none."""
    return np.array([np.mean(row, dtype=np.float64) if len(row) else np.nan for row in nats])


def distinct_bigrams(ids: Sequence[Int[np.ndarray, " _"]]) -> Float[np.ndarray, " row"]:
    """Share of each row's bigrams that are distinct; 1 where there is none."""
    return 1.0 - _repeated(ids, 2)


def repeated_4grams(ids: Sequence[Int[np.ndarray, " _"]]) -> Float[np.ndarray, " row"]:
    """Share of each row's 4-grams that occurred before in it; 0 where there is none."""
    return _repeated(ids, 4)


def _repeated(ids: Sequence[Int[np.ndarray, " _"]], n: int) -> Float[np.ndarray, " row"]:
    """Share of each row's n-grams that are copies of an earlier one, for all rows at once."""
    lengths = np.array([len(row) for row in ids], dtype=np.int64)
    share = np.zeros(len(ids))
    if lengths.sum() == 0:
        return share
    flat = np.concatenate([np.asarray(row, dtype=np.int64) for row in ids])
    row_of = np.repeat(np.arange(len(ids)), lengths)
    grams, width = flat, 1
    while width < n:
        # Doubling: a gram of 2w is a pair of grams of w. Renumbering keeps the codes small.
        _, code = np.unique(grams, return_inverse=True)
        ahead = np.roll(code, -width)
        grams, width = code * (int(code.max()) + 1) + ahead, 2 * width
    within = np.arange(len(flat)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    whole = within <= (lengths - n)[row_of]
    _, code = np.unique(grams, return_inverse=True)
    pairs = np.unique(row_of[whole] * (int(code.max()) + 1) + code[whole])
    distinct = np.bincount(pairs // (int(code.max()) + 1), minlength=len(ids))
    total = np.maximum(lengths - n + 1, 0)
    np.divide(total - distinct, total, out=share, where=total > 0)
    return share
