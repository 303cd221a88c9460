"""Which features fire together: Jaccard overlap of firings and correlation of values.

Over a sample of the tokens where all would be too many. What is held is that sample, which is
bounded whatever the corpus, and pairs are counted a few features at a time: memory follows
neither the number of activations nor d_sae squared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int

from features.tokens import SPLITS, Tokens

TokenChunk = tuple[np.ndarray, np.ndarray, np.ndarray]
"""tok ascending, feature_id, value; all activations of a token in one chunk."""

_Sums = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Cells (a pair of features, as one number), tokens shared, sums of products of values."""

_MOST_HELD = 20_000_000
"""Activations that the sample may have, in expectation: about 30 bytes each."""
_MOST_AT_ONCE = 1_000_000
"""Pairs that are laid out at a time."""
_DRAWN_AT_ONCE = 1_048_576


def coactivation_neighbours(
    chunks: Callable[[], Iterable[TokenChunk]],
    tokens: Tokens,
    *,
    run_id: str,
    d_sae: int,
    k: int = 8,
    max_pairs: int = 40_000_000,
    seed: int = 0,
) -> pa.Table:
    """The `k` nearest features of each by Jaccard overlap and by correlation of values.

    Documents of the test split and special tokens are passed over, since neighbours serve
    as hard negatives. Where the tokens left have more than `max_pairs` pairs of firing
    features, or more than 20 million activations in such pairs, a share of them is drawn,
    each token alike and wherever it stands, that is expected to have as many; every figure
    is over the tokens drawn, and so without bias but for a rare feature rough. A feature's
    values are 0 where it is silent.

    Args:
        chunks: gives the activations from the start each time it is called; they are read
            twice, first to count pairs.
        max_pairs: pairs to count, in expectation.
        seed: of the draw, which does not depend on how the chunks are cut.
    """
    usable = (tokens.split != SPLITS.index("test")) & ~tokens.is_special
    n_pairs = n_paired = 0
    for tok, _, _ in chunks():
        firing = _run_lengths(tok[usable[tok]])
        n_pairs += int((firing * (firing - 1) // 2).sum())
        n_paired += int(firing[firing > 1].sum())
    share = min(1.0, max_pairs / max(n_pairs, 1), _MOST_HELD / max(n_paired, 1))
    if share < 1:
        _draw(usable, share, seed)
    sample = _Sample.of(chunks(), usable, d_sae)
    nearest: list[pa.Table] = []
    for first, second, together, product in sample.pairs():
        jaccard = together / (sample.n_act[first] + sample.n_act[second] - together)
        corr = sample.correlation(first, second, product)
        for kind, score in (("coact_jaccard", jaccard), ("value_corr", corr)):
            nearest.append(_nearest(first, second, score, kind, run_id=run_id, k=k))
    return pa.concat_tables(nearest or [_nearest_of_none(run_id)])


def _draw(usable: Bool[np.ndarray, " token"], share: float, seed: int) -> None:
    """Leaves a share of the usable tokens, in place: the draw of a token is of its number."""
    rng = np.random.default_rng(seed)
    for start in range(0, len(usable), _DRAWN_AT_ONCE):
        some = usable[start : start + _DRAWN_AT_ONCE]
        some &= rng.random(len(some)) < share


def _run_lengths(tok: Int[np.ndarray, " act"]) -> Int[np.ndarray, " token"]:
    """How often each number of an ascending sequence occurs in it."""
    starts = np.flatnonzero(np.diff(tok, prepend=-1))
    return np.diff(starts, append=len(tok))


@dataclass(frozen=True, slots=True, eq=False)
class _Sample:
    """The activations of the tokens drawn, those of a token beside each other."""

    n_tokens: int
    n_act: Float[np.ndarray, " d_sae"]
    total: Float[np.ndarray, " d_sae"]
    square: Float[np.ndarray, " d_sae"]
    """Firings of each feature, and sums of its values and of their squares."""
    feature: Int[np.ndarray, " act"]
    value: Float[np.ndarray, " act"]
    start: Int[np.ndarray, " token_and_one"]
    """Where each token's activations begin, of the tokens on which two features fire or more."""

    @classmethod
    def of(
        cls, chunks: Iterable[TokenChunk], usable: Bool[np.ndarray, " token"], d_sae: int
    ) -> _Sample:
        n_act, total, square = (np.zeros(d_sae) for _ in range(3))
        features: list[np.ndarray] = [np.zeros(0, dtype=np.int32)]
        values: list[np.ndarray] = [np.zeros(0, dtype=np.float32)]
        lengths: list[np.ndarray] = [np.zeros(1, dtype=np.int64)]
        for all_tok, all_feature, all_value in chunks:
            keep = usable[all_tok]
            feature, value = all_feature[keep], all_value[keep]
            wide = value.astype(np.float64)
            n_act += np.bincount(feature, minlength=d_sae)
            total += np.bincount(feature, weights=wide, minlength=d_sae)
            square += np.bincount(feature, weights=wide * wide, minlength=d_sae)
            length = _run_lengths(all_tok[keep])
            is_paired = np.repeat(length > 1, length)
            features.append(feature[is_paired])
            values.append(value[is_paired])
            lengths.append(length[length > 1])
        start = np.cumsum(np.concatenate(lengths))
        held, strengths = np.concatenate(features), np.concatenate(values)
        return cls(int(usable.sum()), n_act, total, square, held, strengths, start)

    def correlation(
        self,
        first: Int[np.ndarray, " pair"],
        second: Int[np.ndarray, " pair"],
        product: Float[np.ndarray, " pair"],
    ) -> Float[np.ndarray, " pair"]:
        """Of two features' values over the tokens, from the sum of their products."""
        n = max(self.n_tokens, 1)
        mean = self.total / n
        deviation = np.sqrt(np.maximum(self.square / n - mean**2, 0))
        spread = deviation[first] * deviation[second]
        covariance = product / n - mean[first] * mean[second]
        corr: Float[np.ndarray, " pair"] = np.divide(
            covariance, spread, out=np.zeros_like(covariance), where=spread > 0
        )
        return corr

    def pairs(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        """First feature, second feature, tokens shared, sum of products of values.

        Every pair that shares a token comes in both orders, all of a first feature at once.
        """
        d_sae = len(self.n_act)
        length = np.diff(self.start).astype(np.int32)
        token = np.repeat(np.arange(len(length), dtype=np.int32), length)
        by_feature = np.argsort(self.feature, kind="stable").astype(np.int32)
        partners = length[token[by_feature]]
        ends = np.concatenate([[0], np.cumsum(np.bincount(self.feature, minlength=d_sae))])
        sizes = np.bincount(self.feature, weights=length[token], minlength=d_sae)
        for low, high in _runs(sizes.astype(np.int64), _MOST_AT_ONCE):
            acts, widths = (whole[ends[low] : ends[high]] for whole in (by_feature, partners))
            n_cells = (high - low) * d_sae
            parts: list[_Sums] = []
            for start, stop in _runs(widths, _MOST_AT_ONCE):
                left = np.repeat(acts[start:stop], widths[start:stop])
                right = _counted_from(self.start[token[acts[start:stop]]], widths[start:stop])
                left, right = left[left != right], right[left != right]
                cell = (self.feature[left].astype(np.int64) - low) * d_sae + self.feature[right]
                product = self.value[left].astype(np.float64) * self.value[right]
                parts.append(_summed(cell, np.ones(len(cell)), product, n_cells))
            if len(parts) > 1:
                cell, count, product = (np.concatenate(one) for one in zip(*parts, strict=True))
                parts = [_summed(cell, count, product, n_cells)]
            for cell, count, product in parts:
                yield low + cell // d_sae, cell % d_sae, count, product


def _runs(sizes: Int[np.ndarray, " n"], most: int) -> Iterator[tuple[int, int]]:
    """Cuts a sequence into runs of at most so much in all, or of one member that is larger."""
    ends = np.cumsum(sizes)
    start = 0
    while start < len(sizes):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + most, side="right")))
        yield start, stop
        start = stop


def _counted_from(
    first: Int[np.ndarray, " n"], length: Int[np.ndarray, " n"]
) -> Int[np.ndarray, " m"]:
    """first[0], first[0] + 1, ... for length[0] numbers, then the same from first[1], ..."""
    before = np.cumsum(length) - length
    counted: np.ndarray = np.repeat(first - before, length) + np.arange(int(length.sum()))
    return counted


def _summed(
    cell: Int[np.ndarray, " pair"],
    count: Float[np.ndarray, " pair"],
    product: Float[np.ndarray, " pair"],
    n_cells: int,
) -> _Sums:
    """Distinct cells, ascending, with the sums of their counts and of their products.

    In one array of all cells where they are not many more than the pairs, else by sorting.
    """
    if n_cells <= 4 * len(cell):
        counts = np.bincount(cell, weights=count, minlength=n_cells)
        products = np.bincount(cell, weights=product, minlength=n_cells)
        found = np.flatnonzero(counts)
        return found, counts[found], products[found]
    order = np.argsort(cell, kind="stable")
    cell = cell[order]
    starts = np.flatnonzero(np.diff(cell, prepend=-1))
    if not len(starts):
        return cell, count, product
    counts, products = (np.add.reduceat(column[order], starts) for column in (count, product))
    return cell[starts], counts, products


def _nearest(
    first: Int[np.ndarray, " pair"],
    second: Int[np.ndarray, " pair"],
    score: Float[np.ndarray, " pair"],
    kind: str,
    *,
    run_id: str,
    k: int,
) -> pa.Table:
    """Each first feature's `k` highest scores; ties go to the lower second feature."""
    order = np.lexsort((second, -score, first))
    feature, other, best = first[order], second[order], score[order]
    start = np.searchsorted(feature, feature, side="left")
    rank = np.arange(len(feature)) - start
    keep = rank < k
    return neighbour_table(
        feature[keep], rank[keep], other[keep], best[keep], kind=kind, run_id=run_id
    )


def _nearest_of_none(run_id: str) -> pa.Table:
    none = np.zeros(0, dtype=np.int64)
    return neighbour_table(none, none, none, np.zeros(0), kind="coact_jaccard", run_id=run_id)


def neighbour_table(
    feature: Int[np.ndarray, " row"],
    rank: Int[np.ndarray, " row"],
    other: Int[np.ndarray, " row"],
    score: Float[np.ndarray, " row"],
    *,
    kind: str,
    run_id: str,
) -> pa.Table:
    """Rows of `neighbour`."""
    return pa.table(
        {
            "run_id": pa.array([run_id] * len(feature), pa.string()),
            "feature_id": pa.array(feature.astype(np.int32)),
            "kind": pa.array([kind] * len(feature), pa.string()),
            "rank": pa.array(rank.astype(np.int16)),
            "other_id": pa.array(other.astype(np.int32)),
            "score": pa.array(score.astype(np.float32)),
        }
    )
