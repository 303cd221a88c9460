"""How often a rule holds in some documents, and where, without a pass over all tokens.

Pieces, runs and positions are counted once; a rule about them is then a sum of counts, and
whether it holds where a feature fires is a look-up at the firings. Agrees with
`features.rules.fires`, token for token, which stays the meaning of a rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int

from features.counts import PieceDocs, spread
from features.rows import NO_PIECE, Rows
from features.rules import (
    Both,
    Either,
    NGram,
    PositionRange,
    Rule,
    TokenSet,
    TopicWords,
    fires,
)
from features.shared_rules import SharedRules, is_shared


class Tally:
    """Counts of one split's tokens, special ones left out."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.is_real = ~rows.is_special
        self.n_real = int(self.is_real.sum())
        self._totals: dict[int, np.ndarray] = {}
        self._runs_ahead: dict[tuple[int, int], np.ndarray] = {}
        self._by_piece: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.shared = SharedRules(rows)

    def total(self, offset: int) -> Int[np.ndarray, " piece"]:
        """How often each piece stands `offset` places from a token."""
        if offset not in self._totals:
            piece = self.rows.piece_at(offset)[self.is_real]
            self._totals[offset] = np.bincount(
                piece[piece != NO_PIECE], minlength=self.rows.n_pieces
            )
        return self._totals[offset]

    @cached_property
    def topics(self) -> PieceDocs:
        """Every piece's documents, special tokens included, as rules about topics count."""
        rows = self.rows
        return PieceDocs(rows.doc, rows.token_id, rows.n_pieces, rows.n_docs)

    @cached_property
    def _up_to_position(self) -> Int[np.ndarray, " position"]:
        return np.concatenate([[0], np.cumsum(np.bincount(self.rows.pos[self.is_real]))])

    @cached_property
    def _by_doc(self) -> Int[np.ndarray, " doc"]:
        rows = self.rows
        counts: np.ndarray = np.bincount(rows.doc[self.is_real], minlength=rows.n_docs)
        return counts

    def mask(self, rule: Rule) -> Bool[np.ndarray, " token"]:
        """The tokens on which the rule holds."""
        if is_shared(rule):
            return self.shared.mask(rule)
        if isinstance(rule, TopicWords):
            return np.asarray(self.docs((rule,))[0].take(self.rows.doc) & self.is_real)
        if isinstance(rule, TokenSet):
            holds = np.zeros(len(self.rows), dtype=bool)
            holds[self.where(rule)] = True
            return holds
        return np.asarray(fires(rule, self.rows) & self.is_real)

    def docs(self, rules: Sequence[TopicWords]) -> Bool[np.ndarray, "rule doc"]:
        """Documents in which rules about topics hold on some token."""
        lists = [np.array(list(dict.fromkeys(rule.token_ids)), dtype=np.int64) for rule in rules]
        least = np.array([rule.at_least for rule in rules])
        found: np.ndarray = (self.topics.held(lists) >= least[:, None]) & (self._by_doc > 0)
        return found

    def said_in(self, docs: Bool[np.ndarray, "rule doc"]) -> Int[np.ndarray, " rule"]:
        """Tokens of the documents of each row."""
        said: np.ndarray = docs @ self._by_doc
        return said

    def said(self, rule: Rule) -> int:  # noqa: PLR0911  (one return a variant)
        """Tokens on which the rule holds."""
        match rule:
            case TokenSet(token_ids, offset):
                return int(self.total(offset)[list(dict.fromkeys(token_ids))].sum())
            case NGram(patterns, ahead) if _apart(patterns):
                return sum(
                    int(self._ends(length, ahead)[self._places(patterns, length)].sum())
                    for length in {len(pattern) for pattern in patterns}
                )
            case PositionRange(first, last):
                upto = self._up_to_position
                stop = len(upto) - 1 if last is None else min(last + 1, len(upto) - 1)
                return int(max(upto[stop] - upto[min(first, len(upto) - 1)], 0))
            case TopicWords():
                return int(self.said_in(self.docs((rule,)))[0])
            case _ if is_shared(rule):
                return int(self.shared.said(self.shared.places((rule,)))[0])
            case Both(left, right):
                return self.said_by_both(left, right)
            case Either(left, right):
                return self.said(left) + self.said(right) - self.said_by_both(left, right)
            case _:
                return int(np.count_nonzero(self.mask(rule)))

    def said_by_both(self, left: Rule, right: Rule) -> int:
        """Tokens on which two rules hold; looked up at those of the rarer set, if one is one."""
        sets = [rule for rule in (left, right) if isinstance(rule, TokenSet)]
        if not sets:
            return int(np.count_nonzero(self.mask(left) & self.mask(right)))
        rarer = min(sets, key=self.said)
        other = right if rarer is left else left
        return int(np.count_nonzero(self.holds_at(other, self.where(rarer))))

    def where(self, rule: TokenSet) -> Int[np.ndarray, " said"]:
        """The tokens on which a set holds, in the order of its pieces."""
        row, start = self._with_piece(rule.offset)
        piece = np.array(list(dict.fromkeys(rule.token_ids)))
        return np.asarray(row[spread(start[piece], start[piece + 1])[0]])

    def _with_piece(
        self, offset: int
    ) -> tuple[Int[np.ndarray, " token"], Int[np.ndarray, " bound"]]:
        """The tokens by the piece `offset` places on, and where the tokens of each begin."""
        if offset not in self._by_piece:
            row = np.flatnonzero(self.is_real & (self.rows.piece_at(offset) != NO_PIECE))
            order = np.argsort(self.rows.piece_at(offset)[row], kind="stable")
            start = np.concatenate([[0], np.cumsum(self.total(offset))])
            self._by_piece[offset] = (row[order], start)
        return self._by_piece[offset]

    def holds_at(  # noqa: PLR0911  (one return a variant)
        self, rule: Rule, row: Int[np.ndarray, " act"]
    ) -> Bool[np.ndarray, " act"]:
        """Whether the rule holds on each of these tokens, none of them special."""
        rows = self.rows
        match rule:
            case TokenSet(token_ids, offset):
                return self.are_of(rows.piece_at(offset)[row], token_ids)
            case NGram(patterns, ahead):
                return self._ends_run(patterns, ahead, row)
            case PositionRange(first, last):
                pos = rows.pos[row]
                return np.asarray((pos >= first) & (True if last is None else pos <= last))
            case TopicWords():
                return np.asarray(self.docs((rule,))[0, rows.doc[row]])
            case Both(left, right):
                return np.asarray(self.holds_at(left, row) & self.holds_at(right, row))
            case Either(left, right):
                return np.asarray(self.holds_at(left, row) | self.holds_at(right, row))
            case _:
                return np.asarray(self.mask(rule)[row])

    def are_of(
        self, piece: Int[np.ndarray, " act"], token_ids: tuple[int, ...]
    ) -> Bool[np.ndarray, " act"]:
        """Whether each piece is one of a set."""
        if len(token_ids) == 1:
            return np.asarray(piece == token_ids[0])
        listed = np.zeros(self.rows.n_pieces + 1, dtype=bool)
        listed[list(token_ids)] = True
        return np.asarray(listed[piece])

    def _places(self, patterns: tuple[tuple[int, ...], ...], length: int) -> np.ndarray:
        """Places in `rows.runs(length)` of the patterns of this length that occur."""
        keys, _ = self.rows.runs(length)
        wanted = np.array([self.rows.key_of(p) for p in patterns if len(p) == length])
        place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return np.unique(place[keys[place] == wanted])

    def _ends(self, length: int, ahead: int) -> Int[np.ndarray, " run"]:
        """How often each run ends `ahead` places after a token."""
        if ahead == 0:
            return self.rows.run_counts(length)
        if (length, ahead) not in self._runs_ahead:
            keys, place = self.rows.runs(length)
            inside = self.is_real & (self.rows.piece_at(ahead) != NO_PIECE)
            self._runs_ahead[length, ahead] = np.bincount(
                place[np.flatnonzero(inside) + ahead], minlength=len(keys)
            )
        return self._runs_ahead[length, ahead]

    def _ends_run(
        self, patterns: tuple[tuple[int, ...], ...], ahead: int, row: Int[np.ndarray, " act"]
    ) -> Bool[np.ndarray, " act"]:
        end = np.minimum(row + ahead, len(self.rows) - 1)
        inside = self.rows.piece_at(ahead)[row] != NO_PIECE
        found = np.zeros(len(row), dtype=bool)
        for length in {len(pattern) for pattern in patterns}:
            listed = self._places(patterns, length)
            run = self.rows.runs(length)[1][end]
            if len(listed):
                near = np.minimum(np.searchsorted(listed, run), len(listed) - 1)
                found |= listed[near] == run
        return np.asarray(found & inside)


def _apart(patterns: tuple[tuple[int, ...], ...]) -> bool:
    """Whether no run ends with another, so that their counts add up."""
    whole = set(patterns)
    return len(whole) == len(patterns) and not any(
        run[cut:] in whole for run in patterns for cut in range(1, len(run))
    )
