"""Which features a text is about: how strongly each is active, weighed by how seldom it is.

A feature scores its mean activation on the text times ln(1 / density)², as in the cosine of two
tf-idf vectors, where a rare term counts on either side. Dozens of features often say one thing
of a text, so results are told apart: a feature that is active on the tokens of one above it loses
up to 70 % of its score. What was tried, and what this finds: docs/methods/search.md.

Sources: Spärck Jones 1972, "A statistical interpretation of term specificity"; Carbonell and
Goldstein 1998, "The use of MMR" (maximal marginal relevance).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

SHARED = 0.7
"""Share of its score that a feature loses by a result above it with the same activations."""


def about(
    acts: Float[np.ndarray, "token d_sae"],
    density: Float[np.ndarray, " d_sae"],
    k: int,
    shared: float = SHARED,
) -> tuple[Int[np.ndarray, " hit"], Float[np.ndarray, " hit"]]:
    """At most `k` features that a text is about, best first, and what is left of their scores.

    Args:
        acts: of each token of the text, special ones left out; the stream's own units.
        density: share of the corpus' tokens that each feature fires on, above 0.
        shared: what is lost by a result above with equal activations, from 0, nothing, to 1;
            in between as the squared cosine of the activations over the tokens.
    """
    if len(acts) == 0 or k < 1:
        return np.zeros(0, dtype=np.int64), np.zeros(0)
    score = weighed(acts, density)
    pool = _within_reach(score, k, 1 - shared)
    profile = np.asarray(acts[:, pool], dtype=np.float64)
    profile /= np.linalg.norm(profile, axis=0)
    likest = np.zeros(len(pool))
    is_open = np.ones(len(pool), dtype=bool)
    chosen: list[int] = []
    left: list[float] = []
    for _ in range(min(k, len(pool))):
        remaining = np.where(is_open, score[pool] * (1 - shared * likest), -1.0)
        best = int(remaining.argmax())
        chosen.append(int(pool[best]))
        left.append(float(remaining[best]))
        is_open[best] = False
        likest = np.maximum(likest, np.clip(profile.T @ profile[:, best], 0, 1) ** 2)
    return np.array(chosen, dtype=np.int64), np.array(left)


def weighed(
    acts: Float[np.ndarray, "token d_sae"], density: Float[np.ndarray, " d_sae"]
) -> Float[np.ndarray, " d_sae"]:
    """Mean activation on a text times ln(1 / density)², the stream's units; 0 where silent."""
    mean = np.asarray(acts, dtype=np.float64).mean(axis=0)
    return np.asarray(mean * np.log(density) ** 2)


def _within_reach(
    score: Float[np.ndarray, " d_sae"], k: int, kept: float
) -> Int[np.ndarray, " feature"]:
    """Features that can be among the first k, ascending: whatever is lost, `kept` remains."""
    firing = np.flatnonzero(score > 0)
    if len(firing) <= k:
        return firing
    least = np.partition(score[firing], -k)[-k]
    return np.asarray(firing[score[firing] >= kept * least])
