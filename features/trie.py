"""Runs of pieces that a feature waits for: a trie grown only where it pays.

A node of the trie is a run of pieces that ends at the token. It is refined by one more
piece of left context when telling the refined run apart saves more bits, in coding where
the feature fires, than naming the run costs.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

from features.rows import Rows
from features.rules import NGram

LONGEST = 3
MOST = 32
"""Runs in one rule."""


def context_patterns(rows: Rows, row: Int[np.ndarray, " act"]) -> Iterator[NGram]:
    """Rules about left context, and about the token with the next one; empty where none pays."""
    left = _left_patterns(rows, row)
    if any(len(pattern) > 1 for pattern in left):
        yield NGram(left)
    right = _right_patterns(rows, row)
    if right:
        yield NGram(right, ahead=1)


def _left_patterns(rows: Rows, row: Int[np.ndarray, " act"]) -> tuple[tuple[int, ...], ...]:
    """Runs that end at the token, of mixed length, cut where F1 is best."""
    runs: list[np.ndarray] = []
    fired: list[np.ndarray] = []
    total: list[np.ndarray] = []
    cost = 1 + np.log2(len(rows.vocab) + 1)
    parent_n: np.ndarray = np.zeros(0)
    parent_k: np.ndarray = np.zeros(0)
    parent_key: np.ndarray = np.zeros(0, dtype=np.int64)
    for length in range(1, LONGEST + 1):
        keys, place = rows.runs(length)
        node, k = np.unique(place[row], return_counts=True)
        n = rows.run_counts(length)[node].astype(np.float64)
        key, kept = keys[node], np.ones(len(node), dtype=bool)
        if length > 1:
            shorter = rows.without_oldest(key, length)
            parent = np.minimum(np.searchsorted(parent_key, shorter), len(parent_key) - 1)
            known = parent_key[parent] == shorter
            rate = parent_k[parent] / parent_n[parent]
            saved = n * _divergence(k / n, rate)
            kept = known & (k / n > rate) & (saved > cost) & (k > 1)
            np.subtract.at(fired[-1], parent[kept], k[kept])
            np.subtract.at(total[-1], parent[kept], n[kept])
        runs.append(key[kept])
        fired.append(k[kept].astype(np.float64))
        total.append(n[kept])
        parent_key, parent_k, parent_n = key[kept], k[kept].astype(np.float64), n[kept]
        if len(parent_key) == 0:
            break
    length_of = np.repeat(np.arange(1, len(runs) + 1), [len(level) for level in runs])
    every = np.concatenate(runs)
    chosen = _cut(np.concatenate(fired), np.concatenate(total), len(row))
    return _unimplied(
        [rows.pieces_of_run(int(every[i]), int(length_of[i])) for i in chosen.tolist()]
    )


def _right_patterns(rows: Rows, row: Int[np.ndarray, " act"]) -> tuple[tuple[int, ...], ...]:
    """Pairs of the token and the next one."""
    keys, place = rows.runs(2)
    after = row + 1
    after = after[after < len(rows)]
    after = after[rows.doc[after] == rows.doc[after - 1]]
    node, fired = np.unique(place[after], return_counts=True)
    often = fired > 1
    node, fired = node[often], fired[often].astype(np.float64)
    chosen = _cut(fired, rows.run_counts(2)[node].astype(np.float64), len(row))
    return _unimplied([rows.pieces_of_run(key, 2) for key in keys[node[chosen]].tolist()])


def _cut(
    fired: Float[np.ndarray, " run"], total: Float[np.ndarray, " run"], n_act: int
) -> Int[np.ndarray, " chosen"]:
    """The first runs by lift, as many as give the best F1, in the order of their firings."""
    order = np.lexsort((-fired, -(fired / (total + 1))))[:MOST]
    order = order[fired[order] > 0]
    if len(order) == 0:
        return order
    right, says = np.cumsum(fired[order]), np.cumsum(total[order])
    chosen = order[: int((2 * right / (says + n_act)).argmax()) + 1]
    # The runs that fire most come first, since a name says the first one.
    return np.asarray(chosen[np.argsort(-fired[chosen], kind="stable")])


def _unimplied(runs: list[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    """The runs that end with no other of them, since that one says as much."""
    whole = set(runs)
    return tuple(run for run in runs if not any(run[cut:] in whole for cut in range(1, len(run))))


def _divergence(
    p: Float[np.ndarray, " run"], q: Float[np.ndarray, " run"]
) -> Float[np.ndarray, " run"]:
    """Bits a token saved by coding firings at rate p instead of q."""
    p = np.clip(p, 1e-9, 1 - 1e-9)
    q = np.clip(q, 1e-9, 1 - 1e-9)
    bits: np.ndarray = p * np.log2(p / q) + (1 - p) * np.log2((1 - p) / (1 - q))
    return bits
