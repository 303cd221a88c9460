"""What a search by pasted text finds: the concepts that hold in documents of the microworld.

How to rank is chosen on documents of the score split, by the share of a text's concepts that its
first ten results are named after, and then measured on the test split. No label or concept
enters a ranking.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import duckdb
import numpy as np
from jaxtyping import Bool, Float, Int

from benchmarks.search_truth import NO_CONCEPT, Features, Texts, features, texts
from features.active import SHARED, about, weighed

FIRST, N_BOOTSTRAP, RUN = 10, 2000, "main"
N_RANKED = 60
"""Results that are told apart; the features after them count by their scores alone."""
Score = Callable[[np.ndarray, Features], np.ndarray]
"""Each feature's score from a text's activations [token, d_sae]."""
Rank = Callable[[np.ndarray], np.ndarray]
"""Every feature, best first, from a text's activations [token, d_sae]."""
COLUMNS = (
    "ranking",
    "1/rank of the best",
    "1/rank of any as good",
    "concepts in ten",
    "names in ten that hold",
)
WIDTHS = (44, 20, 21, 20, 22)


def measure(con: duckdb.DuckDBPyConnection) -> None:
    """Print what is chosen from, on score, and what the choice finds, on test."""
    known = features(con, RUN)
    for split in ("score", "test"):
        found = texts(con, RUN, split, len(known.density))
        ranks = rankings(known) if split == "score" else chosen(known)
        print(f"\n### Pasted text: {len(found.acts)} documents of the {split} split\n", flush=True)
        _line(COLUMNS)
        _line(tuple("-" * width for width in WIDTHS))
        for name, rank in ranks.items():
            order = np.stack([rank(acts) for acts in found.acts])
            _row(name, order, found, known)
            if split == "test" and name == "ours":
                _row("null: ours of another document", _of_another(order), found, known)
        for name, is_first in (
            ("truth known: all that read it, any order", known.reads_of),
            ("truth known: the best of each, any order", known.best_of),
        ):
            order = np.stack([_in_any_order(is_first(holds)) for holds in found.holds])
            _row(name, order, found, known)


def rankings(known: Features) -> dict[str, Rank]:
    """Every ranking that was chosen from."""
    apart: dict[str, Rank] = {
        f"the last, told apart by {shared:g}": partial(_told_apart, known, shared)
        for shared in (0.35, SHARED, 1.0)
    }
    return {name: partial(_ranked, score, known) for name, score in SCORES.items()} | apart


def chosen(known: Features) -> dict[str, Rank]:
    """The ranking that was chosen, what it is made of, and orders by chance."""
    rng = np.random.default_rng(0)
    return {
        "ours": partial(_told_apart, known, SHARED),
        "ours, not told apart": partial(_ranked, SCORES["mean · ln(1/density)²"], known),
        "mean / density": partial(_ranked, SCORES["mean / density"], known),
        "mean": partial(_ranked, SCORES["mean"], known),
        "null: what fires, in any order": lambda acts: np.argsort(
            -rng.random(acts.shape[1]) * (acts > 0).any(axis=0), kind="stable"
        ),
    }


def _background(known: Features) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of each feature's activation on a token of the corpus."""
    mean = known.density * known.mean
    return mean, known.density * (known.std**2 + known.mean**2) - mean**2


def _z(acts: np.ndarray, known: Features) -> np.ndarray:
    mean, variance = _background(known)
    return np.asarray((acts.mean(axis=0) - mean) / np.sqrt(variance / len(acts) + 1e-12))


def _g2(acts: np.ndarray, known: Features) -> np.ndarray:
    """Log-likelihood ratio of the firings under their own rate and under the density."""
    share = np.clip((acts > 0).mean(axis=0), 1e-12, 1 - 1e-12)
    p = np.clip(known.density, 1e-12, 1 - 1e-12)
    gain = share * np.log(share / p) + (1 - share) * np.log((1 - share) / (1 - p))
    return np.asarray(np.where(share > p, 2 * len(acts) * gain, 0))


def _pointwise(acts: np.ndarray, known: Features) -> np.ndarray:
    mean = acts.mean(axis=0)
    return np.asarray(mean * np.log(np.maximum(mean, 1e-9) / _background(known)[0]))


def _idf(known: Features) -> np.ndarray:
    return np.asarray(np.log((known.n_docs.max() + 1) / (known.n_docs + 0.5)))


SCORES: Mapping[str, Score] = {
    "mean / density": lambda acts, known: acts.mean(axis=0) / known.density,
    "mean": lambda acts, _: acts.mean(axis=0),
    "peak": lambda acts, _: acts.max(axis=0),
    "mean / the feature's mean": lambda acts, known: acts.mean(axis=0) / known.mean,
    "z of the mean": _z,
    "G² of the firings": _g2,
    "mean · ln(mean / corpus mean)": _pointwise,
    "mean · ln(documents / its documents)": lambda acts, known: acts.mean(axis=0) * _idf(known),
    "mean · ln(1/density)": lambda acts, known: acts.mean(axis=0) * -np.log(known.density),
    "mean · ln(1/density)²": lambda acts, known: weighed(acts, known.density),
}


def _ranked(score: Score, known: Features, acts: np.ndarray) -> Int[np.ndarray, " d_sae"]:
    return np.argsort(-score(acts, known), kind="stable")


def _told_apart(known: Features, shared: float, acts: np.ndarray) -> Int[np.ndarray, " d_sae"]:
    first = about(acts, known.density, N_RANKED, shared)[0]
    rest = np.argsort(-weighed(acts, known.density), kind="stable")
    return np.concatenate([first, rest[~np.isin(rest, first)]])


def _in_any_order(is_first: Bool[np.ndarray, " d_sae"]) -> Int[np.ndarray, " d_sae"]:
    """These before all others, the order among either drawn."""
    chance = np.random.default_rng(int(is_first.sum())).random(len(is_first))
    return np.argsort(-(is_first + chance), kind="stable")


def _of_another(order: np.ndarray) -> Int[np.ndarray, "doc d_sae"]:
    """Each document's results given to another, chosen by chance."""
    drawn = np.random.default_rng(0).permutation(len(order))
    other = np.empty_like(drawn)
    other[drawn] = np.roll(drawn, 1)
    return np.asarray(order[other])


def counts(
    order: Int[np.ndarray, "doc d_sae"], found: Texts, known: Features
) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Of each measure, what is found in each document and what there is to find."""
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(1, order.shape[1] + 1)[None], axis=1)
    there = found.holds.sum(axis=1)
    any_rank = np.stack([rank[:, good].min(axis=1) for good in known.as_good.T], axis=1)
    best = (found.holds / rank[:, known.best]).sum(axis=1)
    as_good = (found.holds / any_rank).sum(axis=1)
    said = known.named[order[:, :FIRST]]
    is_named = said != NO_CONCEPT
    true = is_named & np.take_along_axis(found.holds, said, axis=1)
    distinct = np.array([len(set(row[hit])) for row, hit in zip(said, true, strict=True)])
    return (
        (best, there),
        (as_good, there),
        (distinct, there),
        (true.sum(axis=1), is_named.sum(axis=1)),
    )


def interval(found: np.ndarray, there: np.ndarray) -> Float[np.ndarray, " 3"]:
    """What is found of what there is: all in all, and its 95 % interval over documents."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(found), size=(N_BOOTSTRAP, len(found)))
    shares = found[drawn].sum(axis=1) / np.maximum(there[drawn].sum(axis=1), 1)
    low, high = np.quantile(shares, [0.025, 0.975])
    return np.array([found.sum() / max(there.sum(), 1), low, high])


def _row(name: str, order: np.ndarray, found: Texts, known: Features) -> None:
    cells = [
        "{:.3f} [{:.3f}, {:.3f}]".format(*interval(hit, there))
        for hit, there in counts(order, found, known)
    ]
    _line((name, *cells))


def _line(cells: tuple[str, ...]) -> None:
    padded = (cell.ljust(width) for cell, width in zip(cells, WIDTHS, strict=True))
    print("| " + " | ".join(padded) + " |", flush=True)


def main() -> None:
    """Print the tables of the finished microworld."""
    from store.catalog import open as open_store

    with open_store(Path(__file__).resolve().parent.parent) as con:
        measure(con)


if __name__ == "__main__":
    main()
