"""The tokens of some documents as arrays that rules can be executed on.

Everything that a rule looks up (shifted pieces, runs of pieces, repetition) is made once
and kept, since thousands of rules ask for the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int

from features.errors import LabelError
from features.vocab import Vocab

NO_PIECE = -1
"""Stands beyond the ends of a document."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Whole documents, one after another."""

    doc: Int[np.ndarray, " token"]
    """0-based number of the document within these rows, ascending."""
    pos: Int[np.ndarray, " token"]
    token_id: Int[np.ndarray, " token"]
    is_special: Bool[np.ndarray, " token"]
    vocab: Vocab
    concepts: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Per concept, the tokens where it holds; a document's concept holds on all of its tokens."""
    languages: tuple[str | None, ...] | None = None
    """Per document, the code of its language, None if it has no sure one; None: nobody asked."""

    def __len__(self) -> int:
        return len(self.token_id)

    @cached_property
    def n_docs(self) -> int:
        """Documents in these rows."""
        return int(self.doc[-1]) + 1 if len(self.doc) else 0

    @cached_property
    def _shifted(self) -> dict[int, np.ndarray]:
        return {0: self.token_id.astype(np.int64)}

    def piece_at(self, offset: int) -> Int[np.ndarray, " token"]:
        """The piece `offset` places on in the same document, NO_PIECE beyond its ends."""
        if offset not in self._shifted:
            source = np.arange(len(self)) + offset
            inside = (source >= 0) & (source < len(self))
            source = np.where(inside, source, 0)
            inside &= self.doc[source] == self.doc
            self._shifted[offset] = np.where(inside, self.token_id[source], NO_PIECE)
        return self._shifted[offset]

    def has_piece(
        self, token_ids: Sequence[int] | Int[np.ndarray, " piece"], offset: int
    ) -> Bool[np.ndarray, " token"]:
        """Tokens whose piece at `offset` is one of these."""
        listed = np.zeros(self.n_pieces + 1, dtype=bool)
        listed[np.asarray(token_ids, dtype=np.int64)] = True
        return listed.take(self.piece_at(offset), mode="wrap")

    def is_in_language(self, language: str) -> Bool[np.ndarray, " token"]:
        """Tokens of the documents in this language.

        Raises:
            LabelError: nobody asked for the languages of these documents.
        """
        if self.languages is None:
            raise LabelError(
                "the languages of these documents are not known; expected them for a rule about "
                f"{language!r}; read the documents with their languages"
            )
        spoken = np.array([each == language for each in self.languages], dtype=bool)
        return spoken.take(self.doc)

    @cached_property
    def n_pieces(self) -> int:
        """Pieces that these rows may hold: every token id lies below."""
        return max(len(self.vocab), int(self.token_id.max(initial=0)) + 1)

    @cached_property
    def _runs(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        return {}

    def runs(self, length: int) -> tuple[Int[np.ndarray, " run"], Int[np.ndarray, " token"]]:
        """The distinct runs of `length` pieces as sorted keys, and the run that each token ends."""
        if length not in self._runs:
            key = np.zeros(len(self), dtype=np.int64)
            for offset in range(1 - length, 1):
                key = key * (self.n_pieces + 1) + self.piece_at(offset) + 1
            distinct, place = np.unique(key, return_inverse=True)
            self._runs[length] = (distinct, place)
        return self._runs[length]

    @cached_property
    def _run_counts(self) -> dict[int, np.ndarray]:
        return {}

    def run_counts(self, length: int) -> Int[np.ndarray, " run"]:
        """How often each run of `runs` ends at a token that is not special."""
        if length not in self._run_counts:
            keys, place = self.runs(length)
            real = place[~self.is_special]
            self._run_counts[length] = np.bincount(real, minlength=len(keys))
        return self._run_counts[length]

    def without_oldest(self, key: Int[np.ndarray, " run"], length: int) -> np.ndarray:
        """Keys of the same runs without their first piece."""
        shorter: np.ndarray = key % (self.n_pieces + 1) ** (length - 1)
        return shorter

    def pieces_of_run(self, key: int, length: int) -> tuple[int, ...]:
        """The pieces that a key of `runs` stands for."""
        pieces = []
        for _ in range(length):
            key, piece = divmod(key, self.n_pieces + 1)
            pieces.append(int(piece) - 1)
        return tuple(reversed(pieces))

    def ends_run(
        self, patterns: Sequence[tuple[int, ...]], ahead: int
    ) -> Bool[np.ndarray, " token"]:
        """Tokens `ahead` places before the end of one of these runs."""
        found = np.zeros(len(self), dtype=bool)
        for length in {len(pattern) for pattern in patterns}:
            keys, place = self.runs(length)
            wanted = [self.key_of(pattern) for pattern in patterns if len(pattern) == length]
            listed = np.zeros(len(keys) + 1, dtype=bool)
            where = np.searchsorted(keys, wanted)
            listed[np.where(keys[np.minimum(where, len(keys) - 1)] == wanted, where, -1)] = True
            listed[-1] = False
            found |= listed[place]
        if ahead == 0:
            return found
        inside = self.piece_at(ahead) != NO_PIECE
        moved: np.ndarray = np.concatenate([found[ahead:], np.zeros(ahead, dtype=bool)])
        return np.asarray(moved & inside)

    def key_of(self, pattern: tuple[int, ...]) -> int:
        """The key of `runs` that stands for a run."""
        key = 0
        for piece in pattern:
            key = key * (self.n_pieces + 1) + piece + 1
        return key

    @cached_property
    def is_repeated(self) -> Bool[np.ndarray, " token"]:
        """Tokens whose piece has occurred earlier in the document."""
        key = self.doc.astype(np.int64) * self.n_pieces + self.token_id
        repeated = np.ones(len(self), dtype=bool)
        repeated[np.unique(key, return_index=True)[1]] = False
        return repeated

    @cached_property
    def window(self) -> Int[np.ndarray, " token"]:
        """0-based number of the context that each token lies in: 32 tokens of one document."""
        start = np.ones(len(self), dtype=bool)
        start[1:] = (self.doc[1:] != self.doc[:-1]) | (self.pos[1:] % CONTEXT_TOKENS == 0)
        return np.cumsum(start) - 1


CONTEXT_TOKENS = 32
"""Length of a context in which a rule about tokens is detected."""
