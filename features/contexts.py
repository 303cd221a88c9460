"""The tokens worth showing for a feature: strongest, graded, silent, and hardest to tell apart.

Strata: 0 the largest activations; 1 to 9 samples from the tenths of the value's
distribution below them, the weakest first; 10 random tokens where the feature is silent;
11 silent tokens that carry a piece on which its top contexts fire.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int

from features.tokens import SPLITS, Tokens

TOP, SILENT, HARD = 0, 10, 11
"""Strata with a name; 1 to 9 are tenths."""


class ContextPicker:
    """Collects `topk` rows, one feature at a time; a pure function of tokens and seed."""

    def __init__(
        self, tokens: Tokens, *, top: int, per_decile: int, silent: int, hard: int, seed: int
    ) -> None:
        self._tokens = tokens
        self._top, self._per_decile = top, per_decile
        self._silent, self._hard = silent, hard
        self._seed = seed
        # Half as wide as numpy's own: two of these a token are most of a harvest's memory.
        narrow = np.int32 if len(tokens) <= np.iinfo(np.int32).max else np.int64
        self._real = np.flatnonzero(~tokens.is_special).astype(narrow)
        pieces = tokens.token_id[self._real]
        self._by_piece = self._real[np.argsort(pieces, kind="stable")]
        count = np.bincount(pieces) if len(pieces) else np.zeros(1, dtype=np.int64)
        self._piece_start = np.concatenate([[0], np.cumsum(count)])
        self._rows: list[tuple[int, int, np.ndarray, np.ndarray]] = []

    def add(
        self, feature: int, tok: Int[np.ndarray, " act"], value: Float[np.ndarray, " act"]
    ) -> None:
        """Pick the contexts of one feature that fires at `tok`, ascending."""
        rng = np.random.default_rng((self._seed, feature))
        order = np.lexsort((tok, -value))
        top = order[: self._top]
        self._keep(feature, TOP, tok[top], value[top])
        rest = order[self._top :][::-1]
        for tenth in range(1, 10):
            low, high = (len(tok) * (tenth - 1)) // 10, (len(tok) * tenth) // 10
            pool = rest[low:high]
            if len(pool):
                drawn = rng.choice(pool, size=min(self._per_decile, len(pool)), replace=False)
                drawn = drawn[np.lexsort((tok[drawn], -value[drawn]))]
                self._keep(feature, tenth, tok[drawn], value[drawn])
        silent = self._silent_among(rng.choice(self._real, size=4 * self._silent), tok)
        self._keep_silent(feature, SILENT, silent[: self._silent])
        hard = self._silent_among(self._same_pieces(tok[top], rng), tok)
        self._keep_silent(feature, HARD, hard[: self._hard])

    def table(self, run_id: str) -> pa.Table:
        """All picked contexts as rows of `topk`."""
        lengths = [len(tok) for _, _, tok, _ in self._rows]
        tok = np.concatenate([row[2] for row in self._rows] or [np.zeros(0, dtype=np.int64)])
        value = np.concatenate([row[3] for row in self._rows] or [np.zeros(0)])
        ranks = [np.arange(length) for length in lengths] or [np.zeros(0, dtype=np.int64)]
        split = self._tokens.split[tok]
        return pa.table(
            {
                "run_id": pa.array([run_id] * len(tok), pa.string()),
                "feature_id": _repeat([row[0] for row in self._rows], lengths, np.int32),
                "rank": pa.array(np.concatenate(ranks).astype(np.int16)),
                "stratum": _repeat([row[1] for row in self._rows], lengths, np.int8),
                "tok": pa.array(tok.astype(np.int64)),
                "value": pa.array(value.astype(np.float32)),
                "split": pa.array([SPLITS[code] for code in split], pa.string()),
            }
        )

    def _keep(self, feature: int, stratum: int, tok: np.ndarray, value: np.ndarray) -> None:
        self._rows.append((feature, stratum, tok, value))

    def _keep_silent(self, feature: int, stratum: int, tok: np.ndarray) -> None:
        self._keep(feature, stratum, tok, np.zeros(len(tok)))

    def _same_pieces(
        self, top: Int[np.ndarray, " top"], rng: np.random.Generator
    ) -> Int[np.ndarray, " draw"]:
        """Random places of the pieces on which the top contexts fire."""
        pieces = rng.choice(self._tokens.token_id[top], size=8 * self._hard)
        start, stop = self._piece_start[pieces], self._piece_start[pieces + 1]
        drawn: np.ndarray = self._by_piece[rng.integers(start, stop)]
        return drawn

    def _silent_among(
        self, drawn: Int[np.ndarray, " draw"], tok: Int[np.ndarray, " act"]
    ) -> Int[np.ndarray, " silent"]:
        """Distinct drawn tokens where the feature does not fire, in drawing order."""
        _, first = np.unique(drawn, return_index=True)
        distinct = drawn[np.sort(first)]
        silent: np.ndarray = distinct[~contains(tok, distinct)]
        return silent


def contains(
    ascending: Int[np.ndarray, " n"], wanted: Int[np.ndarray, " m"]
) -> Bool[np.ndarray, " m"]:
    """Whether each wanted number is among the ascending ones."""
    if len(ascending) == 0:
        return np.zeros(len(wanted), dtype=bool)
    place = np.minimum(np.searchsorted(ascending, wanted), len(ascending) - 1)
    found: np.ndarray = ascending[place] == wanted
    return found


def _repeat(values: list[int], lengths: list[int], dtype: type[np.integer]) -> pa.Array:
    return pa.array(np.repeat(np.array(values, dtype=dtype), lengths))
