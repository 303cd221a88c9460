"""Sets of pieces looked up together, since a feature tries many sets at the same place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from features.rules import TokenSet


class PieceSets:
    """Rules about the piece at one place from the token, as one table of members."""

    def __init__(self, sets: Sequence[TokenSet]) -> None:
        """`sets` share an offset."""
        self.offset = sets[0].offset
        size = [len(each.token_ids) for each in sets]
        listed = np.array([piece for each in sets for piece in each.token_ids])
        self._pieces, place = np.unique(listed, return_inverse=True)
        # The last column is that of every piece that no set lists.
        self._member = np.zeros((len(sets), len(self._pieces) + 1), dtype=bool)
        self._member[np.repeat(np.arange(len(sets)), size), place] = True

    def said(self, total: Int[np.ndarray, " piece"]) -> Int[np.ndarray, " set"]:
        """Tokens on which each rule holds, by how often each piece stands at the place."""
        said: np.ndarray = self._member[:, :-1] @ total[self._pieces]
        return said

    def holding(self, piece: Int[np.ndarray, " act"]) -> Bool[np.ndarray, "set act"]:
        """Whether each rule holds on tokens that have these pieces at the place."""
        place = np.searchsorted(self._pieces, piece)
        is_listed = self._pieces.take(place, mode="clip") == piece
        return self._member.take(np.where(is_listed, place, -1), axis=1)
