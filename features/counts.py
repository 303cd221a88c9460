"""Counts that many rules share: rows of truths together, and pieces by document."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int

COUNTED = 1 << 20
"""Columns that `together` counts at once: single precision holds such counts exactly."""


def together(
    left: Bool[np.ndarray, "left column"], right: Bool[np.ndarray, "right column"]
) -> Int[np.ndarray, "left right"]:
    """In how many columns a row of the one and a row of the other are both true."""
    counts = np.zeros((len(left), len(right)), dtype=np.int64)
    for first in range(0, left.shape[1], COUNTED):
        one = left[:, first : first + COUNTED].astype(np.float32)
        other = one if right is left else right[:, first : first + COUNTED].astype(np.float32)
        counts += (one @ other.T).astype(np.int64)
    return counts


def spread(
    start: Int[np.ndarray, " range"], stop: Int[np.ndarray, " range"]
) -> tuple[Int[np.ndarray, " item"], Int[np.ndarray, " item"]]:
    """Every number of these ranges, one range after another, and the range that each is of."""
    size = stop - start
    owner = np.repeat(np.arange(len(size)), size)
    skipped = start - (np.cumsum(size) - size)
    return np.arange(len(owner)) + skipped[owner], owner


class PieceDocs:
    """How often each piece stands in each document, by piece."""

    def __init__(
        self,
        doc: Int[np.ndarray, " token"],
        piece: Int[np.ndarray, " token"],
        n_pieces: int,
        n_docs: int,
    ) -> None:
        self.n_docs = n_docs
        key, self._count = np.unique(
            piece.astype(np.int64) * max(n_docs, 1) + doc, return_counts=True
        )
        self.piece, self.doc = np.divmod(key, max(n_docs, 1))
        self.start = np.searchsorted(self.piece, np.arange(n_pieces + 1))

    def counts(self, pieces: Int[np.ndarray, " piece"]) -> Int[np.ndarray, "piece doc"]:
        """Occurrences of these pieces in every document."""
        table = np.zeros((len(pieces), self.n_docs), dtype=np.int64)
        place, owner = spread(self.start[pieces], self.start[pieces + 1])
        table[owner, self.doc[place]] = self._count[place]
        return table

    def held(self, lists: Sequence[Int[np.ndarray, " _"]]) -> Int[np.ndarray, "list doc"]:
        """Occurrences, in every document, of all the pieces of each list together."""
        pieces = np.concatenate([self.piece[:0], *lists])
        list_of = np.repeat(np.arange(len(lists)), [len(each) for each in lists])
        place, owner = spread(self.start[pieces], self.start[pieces + 1])
        held = np.bincount(
            list_of[owner] * self.n_docs + self.doc[place],
            weights=self._count[place],
            minlength=len(lists) * self.n_docs,
        )
        return held.astype(np.int64).reshape(len(lists), self.n_docs)

    @cached_property
    def _by_doc(self) -> tuple[Int[np.ndarray, " entry"], Int[np.ndarray, " bound"]]:
        """The pieces of one document after another, and where each document begins."""
        order = np.argsort(self.doc, kind="stable")
        return self.piece[order], np.searchsorted(self.doc[order], np.arange(self.n_docs + 1))

    @cached_property
    def n_with(self) -> Int[np.ndarray, " piece"]:
        """Documents that hold each piece."""
        counts: np.ndarray = np.diff(self.start)
        return counts

    def n_among(self, docs: Bool[np.ndarray, " doc"]) -> Int[np.ndarray, " piece"]:
        """Documents among these that hold each piece; the fewer side is what is counted."""
        piece, start = self._by_doc
        many = 2 * np.count_nonzero(docs) > len(docs)
        few = np.flatnonzero(~docs if many else docs)
        place, _ = spread(start[few], start[few + 1])
        counts = np.bincount(piece[place], minlength=len(self.n_with))
        return self.n_with - counts if many else counts
