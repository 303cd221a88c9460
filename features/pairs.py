"""Rules made of two: `A or B` and `A and B`, tried only where they could win.

A pair's hits are counted where the feature fires, and how often it holds is bounded by how
often its halves do; whole documents are read only for pairs that the bounds leave.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float, Int

from features.candidates import Candidate
from features.judge import Slate, Standing, skill_of
from features.rules import Both, Either

FIRST = 3
"""Rules that every other one of a pool is joined with."""
TRIED = 6
"""The best rules about tokens; twice as many are tried because they hold widely."""
WIDE = 0.6
"""Recall from which on narrowing a rule is worth a try."""

Join = type[Either] | type[Both]


@dataclass(frozen=True, slots=True, eq=False)
class Tried:
    """Pairs of rules of a slate, by their numbers, to be joined in one way."""

    join: Join
    left: Int[np.ndarray, " pair"]
    right: Int[np.ndarray, " pair"]

    def hits(self, standing: Standing) -> Int[np.ndarray, " pair"]:
        """Where a pair holds and the feature fires."""
        both: np.ndarray = standing.both_hold[self.left, self.right]
        if self.join is Both:
            return both
        either: np.ndarray = standing.hits[self.left] + standing.hits[self.right] - both
        return either

    def said(self, standing: Standing, i: int) -> int:
        """Tokens on which one of the pairs holds."""
        left, right = int(self.left[i]), int(self.right[i])
        both = standing.said_by_both(left, right)
        if self.join is Both:
            return both
        return int(standing.said[left] + standing.said[right]) - both

    def most(self, standing: Standing) -> Float[np.ndarray, " pair"]:
        """The largest F1 that each pair may have, by counts alone."""
        hits = self.hits(standing)
        said = hits
        if self.join is Either:
            said = np.maximum(hits, np.maximum(standing.said[self.left], standing.said[self.right]))
        bound: np.ndarray = 2 * hits / (said + standing.n_act)
        return bound


def best_pairs(
    slate: Slate,
    at_home: Standing,
    outside: Standing,
    usable: Int[np.ndarray, " candidate"],
    enough: float,
) -> list[Candidate]:
    """The best `A or B` and the best `A and B` on the split that the singles were made from.

    None at all where no pair can reach the skill `enough` on the split of the judge.

    Args:
        at_home: how the singles stand on the split that they were made from.
        outside: how the singles stand on the split of the judge.
        usable: candidates whose rules may be joined.
    """
    kinds = [tried for tried in tried_pairs(slate, at_home, usable) if len(tried.left)]
    bound = max((float(tried.most(outside).max()) for tried in kinds), default=0.0)
    if skill_of(bound, outside.n_act, outside.n_real) + 1e-9 < enough:
        return []
    return [_best(slate, at_home, tried) for tried in kinds]


def tried_pairs(
    slate: Slate, at_home: Standing, usable: Int[np.ndarray, " candidate"]
) -> tuple[Tried, Tried]:
    """The best rules about tokens joined by `or`; those and rules that hold widely, by `and`."""
    rules = _ranked_rules(slate, at_home, usable)
    recall = at_home.hits / at_home.n_act
    share = at_home.said / max(at_home.n_real, 1)
    tokens = rules[~slate.is_about_documents[rules]][:TRIED]
    wide = rules[np.argsort(-recall[rules], kind="stable")]
    wide = wide[(recall[wide] >= WIDE) & (share[wide] < 0.5)][: 2 * TRIED]
    wide = np.concatenate([tokens, wide[~np.isin(wide, tokens)]])
    return (
        _joined(slate, Either, tokens),
        _joined(slate, Both, wide[recall[wide] >= WIDE]),
    )


def _ranked_rules(
    slate: Slate, at_home: Standing, usable: Int[np.ndarray, " candidate"]
) -> Int[np.ndarray, " rule"]:
    """Rules by the worst of their candidates, which a lucky threshold does not raise."""
    rule_of = slate.rule_of[usable]
    order = np.lexsort((slate.complexity[rule_of], -at_home.skill[usable]))
    rules, worst = np.unique(rule_of[order][::-1], return_index=True)
    ranked: np.ndarray = rules[np.argsort(-worst)]
    return ranked


def _joined(slate: Slate, join: Join, pool: Int[np.ndarray, " rule"]) -> Tried:
    """The first few of a pool with each after them, unless both speak of documents."""
    first, after = _first_with_each(len(pool))
    left, right = pool[first], pool[after]
    about = slate.is_about_documents
    kept = ~(about[left] & about[right])
    return Tried(join, left[kept], right[kept])


@cache
def _first_with_each(
    size: int,
) -> tuple[Int[np.ndarray, " pair"], Int[np.ndarray, " pair"]]:
    """Places in a pool: each of the first few, with every place after it."""
    first, after = np.triu_indices(size, 1)
    return first[first < FIRST], after[first < FIRST]


def _best(slate: Slate, at_home: Standing, tried: Tried) -> Candidate:
    """The pair with the best F1, the first of equals; those that cannot be are not counted."""
    hits, bounds = tried.hits(at_home).tolist(), tried.most(at_home).tolist()
    best = (float("inf"), -1)
    for i in sorted(range(len(bounds)), key=lambda i: (-bounds[i], i)):
        if bounds[i] < -best[0]:
            break
        said = tried.said(at_home, i)
        best = min(best, (-2 * hits[i] / (said + at_home.n_act), i))
    one, other = tried.left[best[1]], tried.right[best[1]]
    return Candidate(tried.join(slate.rules[one], slate.rules[other]))
