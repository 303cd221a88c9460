"""Rules that might say when a feature fires, made from the documents of one split.

Each maker proposes a few rules of its kind; none scores them. Makers look at where the
feature fires in the evidence they are given, which is the `label` split, or `train` for
features too rare to be seen there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from features.auroc import Reading
from features.counts import PieceDocs, together
from features.documents import Evidence
from features.rows import NO_PIECE, Rows
from features.rules import (
    ConceptRule,
    PositionRange,
    Repetition,
    Rule,
    TextLanguage,
    TokenClass,
    TokenSet,
    TopicWords,
    level_of,
)
from features.tally import Tally
from features.trie import context_patterns
from features.vocab import PIECE_CLASSES, Vocab

MAX_PIECES = 48
"""A longer list of pieces is no name."""
PEAKS = (0.0, 0.3, 0.6)
"""Shares of a feature's largest value above which its firing may count for a rule."""
TIMES = (1, 2, 3)
"""How many words of a topic a document may be asked to hold."""
OFFSETS = (0, -1, -2, 1)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A rule, and the value above which the feature's firing counts for it."""

    rule: Rule
    threshold: float = 0.0
    """0: any firing counts. Weak firings of a sparse code are often mere remainders."""


class CandidateMaker:
    """Proposes rules from one split; totals that all features share are counted once."""

    def __init__(self, evidence: Evidence, readings: tuple[Reading, ...]) -> None:
        self.evidence = evidence
        self._readings = readings
        self._rows = evidence.documents.rows
        rows = self._rows
        self._tally = Tally(rows)
        real = self._tally.is_real
        n_with = PieceDocs(rows.doc[real], rows.token_id[real], rows.n_pieces, rows.n_docs).n_with
        self._topical = np.flatnonzero((n_with >= 2) & (n_with <= 0.7 * rows.n_docs))
        here = real & np.isin(rows.token_id, self._topical)
        place = np.searchsorted(self._topical, rows.token_id[here])
        self._topic = PieceDocs(rows.doc[here], place, len(self._topical), rows.n_docs)
        self._classes = tuple(_classes(rows.vocab))
        self._languages, self._language_of = languages_of(rows)
        self._n_in = np.bincount(self._language_of, minlength=len(self._languages) + 1)[:-1]

    def propose(self, feature: int) -> tuple[Candidate, ...]:
        """Distinct candidates for a feature; none where it does not fire."""
        row, value = self.evidence.of(feature)
        if len(row) == 0:
            return ()
        rules = [
            *self._token_sets(row),
            *context_patterns(self._rows, row),
            *self._classes,
            *self._positions(row),
        ]
        thresholds = [share * float(value.max()) for share in PEAKS]
        return (
            *self._concepts(feature),
            *(Candidate(rule, least) for rule in dict.fromkeys(rules) for least in thresholds),
            *self._topics(row, value, thresholds),
        )

    def _token_sets(self, row: Int[np.ndarray, " act"]) -> Iterator[TokenSet]:
        """Pieces by lift, at the token or near it, cut where F1 is best and shorter."""
        for offset in OFFSETS:
            piece, fired = np.unique(self._rows.piece_at(offset)[row], return_counts=True)
            inside = piece != NO_PIECE
            piece, fired = piece[inside], fired[inside]
            if len(piece) == 0:
                continue
            order, best = cut_by_lift(fired, self._tally.total(offset)[piece], len(row))
            for size in sorted({1, 2, 4, min(best, MAX_PIECES)} & set(range(1, best + 1))):
                chosen = order[:size]
                by_count = chosen[np.argsort(-fired[chosen], kind="stable")]
                yield TokenSet(tuple(piece[by_count].tolist()), offset)

    def _positions(self, row: Int[np.ndarray, " act"]) -> Iterator[PositionRange]:
        """All but the first and the last twentieth of the places where it fires."""
        cut = (len(row) - 1) // 20
        last = len(row) - 1 - cut
        place = np.partition(self._rows.pos[row], (cut, last))
        low, high = int(place[cut]), int(place[last])
        yield PositionRange(1, max(1, high))
        yield PositionRange(low, high)
        if low > 1:
            yield PositionRange(low)

    def _topics(
        self,
        row: Int[np.ndarray, " act"],
        value: Float[np.ndarray, " act"],
        thresholds: list[float],
    ) -> Iterator[Candidate]:
        """Words, and languages, that set documents where the feature fires apart from others."""
        doc = self._rows.doc[row]
        largest = np.zeros(self._rows.n_docs)
        np.maximum.at(largest, doc, value.astype(np.float64))
        for threshold in thresholds:
            positive = largest > threshold
            if not 0 < positive.sum() < len(positive):
                continue
            # Of rules that are as good, the first is chosen: a language says more than a word.
            rules: tuple[Rule, ...] = (*self._language(positive), *self._topic_words(positive))
            yield from (Candidate(rule, threshold) for rule in rules)

    def _topic_words(self, positive: Bool[np.ndarray, " doc"]) -> Iterator[TopicWords]:
        with_piece = self._topic.n_among(positive)
        piece = np.flatnonzero(with_piece >= 2)
        precision = with_piece[piece] / (self._topic.n_with[piece] + 1)
        if len(piece) > MAX_PIECES:
            cut = len(piece) - MAX_PIECES
            kept = precision >= np.partition(precision, cut)[cut]
            piece, precision = piece[kept], precision[kept]
        piece = piece[np.lexsort((piece, -with_piece[piece], -precision))]
        piece = piece[:MAX_PIECES]
        if len(piece) == 0:
            return
        held = np.cumsum(self._topic.counts(piece), axis=0)
        says = np.concatenate([held >= at_least for at_least in TIMES])
        right, said = together(says, np.stack([positive, np.ones_like(positive)])).T
        f1 = (2 * right / (said + np.count_nonzero(positive))).reshape(len(TIMES), len(piece))
        words = self._topical[piece].tolist()
        for at_least, best in zip(TIMES, f1.argmax(axis=1).tolist(), strict=True):
            yield TopicWords(tuple(words[: max(best + 1, at_least)]), at_least)

    def _language(self, positive: Bool[np.ndarray, " doc"]) -> Iterator[TextLanguage]:
        """The language whose documents are most nearly those where the feature fires."""
        if self._languages:
            right = np.bincount(self._language_of[positive], minlength=len(self._n_in) + 1)[:-1]
            f1 = 2 * right / (self._n_in + np.count_nonzero(positive))
            yield TextLanguage(self._languages[int(f1.argmax())])

    def _concepts(self, feature: int) -> Iterator[Candidate]:
        """The three concepts that the feature reads best, by F1 over the rule 'always'."""
        scored = []
        for number, reading in enumerate(self._readings):
            always = 2 * reading.n_pos / max(2 * reading.n_pos + reading.n_neg, 1)
            f1 = reading.best_f1[feature]
            if np.isfinite(f1) and always < 1:
                scored.append(((f1 - always) / (1 - always), -number))
        for _, number in sorted(scored, reverse=True)[:3]:
            reading = self._readings[-number]
            truth = reading.truth
            yield Candidate(ConceptRule(truth.name, truth.level), float(reading.threshold[feature]))


def languages_of(rows: Rows) -> tuple[tuple[str, ...], Int[np.ndarray, " doc"]]:
    """The languages that set documents apart, and each document's place among them.

    A document without one is placed after the last. There are none where all documents are
    in one language, or nobody asked for their languages.
    """
    spoken = rows.languages or ()
    named = sorted({language for language in spoken if language is not None})
    if len(set(spoken)) < 2:
        return (), np.zeros(rows.n_docs, dtype=np.int64)
    place = {language: i for i, language in enumerate(named)}
    return tuple(named), np.array([place.get(language or "", len(named)) for language in spoken])


def _classes(vocab: Vocab) -> Iterator[Rule]:
    """Rules that are the same for every feature."""
    yield Repetition()
    for kind in PIECE_CLASSES:
        if vocab.classes[kind].any():
            yield TokenClass(kind)
            yield TokenClass(kind, -1)


def cut_by_lift(
    fired: Int[np.ndarray, " piece"], total: Int[np.ndarray, " piece"], n_act: int
) -> tuple[Int[np.ndarray, " piece"], int]:
    """Pieces by the share of their occurrences that fire, and how many give the best F1."""
    order = np.lexsort((-fired, -(fired / (total + 1))))
    right, says = np.cumsum(fired[order]), np.cumsum(total[order])
    return order, int((2 * right / (says + n_act)).argmax()) + 1


def is_about_documents(candidate: Candidate) -> bool:
    """Whether the candidate is judged on documents rather than on tokens."""
    return level_of(candidate.rule) == "document"
