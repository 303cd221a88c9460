"""What a chosen rule is worth on documents that nothing was chosen on.

Detection asks in which contexts the feature fires, fuzzing on which tokens; both are
balanced accuracies in which silence counts half at random and half where it is hard: on
the feature's own commonest pieces, and where its decoder neighbours fire. Every figure comes
with an interval over documents (features/intervals.py) and with its null: what the rule scores
once its places are shuffled (one half for an AUROC), or, of detection, fuzzing and AUROC, what
it scores on other features as dense, if that is more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from features.candidates import Candidate, is_about_documents
from features.counts import together
from features.documents import Evidence
from features.figures import Figure, balanced_accuracies, larger_mean, sums_of, with_intervals
from features.intervals import FEW, auroc_draws, auroc_interval, middle
from features.rules import ConceptRule
from features.scores import SILENT, Score, Support
from features.tally import Tally
from features.units import Units, exact_auroc

SHUFFLES = 10
MATCHED = 5
"""Features of like density that a rule is also tried on."""
COMMON_PIECES = 5
NEIGHBOURS = 3


class Scorer:
    """Scores rules on one split; what all labels share is made once."""

    def __init__(
        self,
        test: Evidence,
        neighbours: Int[np.ndarray, "feature neighbour"],
        *,
        bootstrap: int,
        seed: int,
    ) -> None:
        """`neighbours`: each feature's nearest decoder rows, nearest first; −1 where fewer."""
        self._test = test
        self._rows = test.documents.rows
        self._tally = Tally(self._rows)
        self._doc = self._rows.doc
        self._real = ~self._rows.is_special
        self._neighbours = neighbours
        rng = np.random.default_rng(seed)
        n_docs = self._rows.n_docs
        self._weights = rng.multinomial(n_docs, np.full(n_docs, 1 / n_docs), bootstrap)
        self._weights = self._weights.astype(np.float64)
        self._rolls = rng.integers(1, max(len(self._rows), 2), SHUFFLES).tolist()
        self._windows = Units(self._rows.window, self._doc)
        self._documents = Units(self._doc, self._doc)
        self._usable = {
            id(units): units.where(self._real) for units in (self._windows, self._documents)
        }
        self._orders = {
            id(units): np.stack([rng.permutation(units.n) for _ in range(SHUFFLES)])
            for units in (self._windows, self._documents)
        }
        self._real_by_doc = self._count_by_doc(np.flatnonzero(self._real))
        real = np.flatnonzero(self._real)
        self._by_piece = real[np.argsort(self._rows.token_id[real], kind="stable")]
        pieces = np.arange(self._rows.n_pieces + 1)
        self._piece_start = np.searchsorted(self._rows.token_id[self._by_piece], pieces)
        self._scored: dict[tuple[int, Candidate], tuple[Score, ...]] = {}
        self._by_density = np.argsort(test.n_act, kind="stable")
        self._rank = np.argsort(self._by_density, kind="stable")

    def score(self, feature: int, candidate: Candidate) -> tuple[Score, ...]:
        """Detection, fuzzing, F1, coverage, purity; and AUROC where the rule is one concept."""
        if (feature, candidate) not in self._scored:
            self._scored[feature, candidate] = self._score(feature, candidate)
        return self._scored[feature, candidate]

    def _score(self, feature: int, candidate: Candidate) -> tuple[Score, ...]:
        says = self._tally.mask(candidate.rule)
        said = np.flatnonzero(says)
        by_document = is_about_documents(candidate)
        units = self._documents if by_document else self._windows
        row, value = self._test.of(feature)
        own = row[value > candidate.threshold]
        tokens = row if by_document else own
        hard = self._hard_rows(feature, own)
        hard_tokens = self._hard_rows(feature, row) if by_document else hard
        hits, held = _counts(self._turned(says, tokens)), self._turned_to_real(said)
        others = self._of_like_density(feature)
        found: list[Figure | Score] = [
            self._contexts(own, said, hard, units, others),
            self._tokens(tokens, says, said, hard_tokens, hits, held, others),
            self._f1_of_documents(own, said)
            if by_document
            else self._f1(own, says, said, hits, held),
            *self._mass(row, value, says),
        ]
        scores = with_intervals(found, self._weights)
        if isinstance(candidate.rule, ConceptRule):
            scores.append(self._auroc(feature, candidate.rule.name))
        return tuple(scores)

    def _contexts(
        self,
        row: Int[np.ndarray, " act"],
        said_row: Int[np.ndarray, " said"],
        hard_row: Int[np.ndarray, " hard"],
        units: Units,
        others: Sequence[int],
    ) -> Figure | Score:
        """Detection: in which contexts, or documents, the feature fires."""
        yes, said, usable = units.holding(row), units.holding(said_row), self._usable[id(units)]
        silent = ~yes & usable
        hard = units.holding(hard_row) & silent
        support = _support(int(yes.sum()), int(silent.sum()), bool(hard.any()))
        if not yes.any() or not silent.any():
            return support.undefined(
                "detection", SILENT if not yes.any() else "no context is silent"
            )
        sides = np.stack([yes, silent, hard])
        columns = np.stack([sides, sides & said], axis=1).reshape(6, -1)
        moved = together(said[self._orders[id(units)]], sides)
        size = sides.sum(axis=1)
        shuffled = balanced_accuracies([sums_of(size, wrong) for wrong in moved])
        there = np.stack([yes, *(units.holding(self._test.of(other)[0]) for other in others)])[1:]
        at_rest = ~there & usable
        named = (there, there & said, at_rest, at_rest & said)
        counts = np.stack([np.count_nonzero(each, axis=1) for each in named], axis=1)
        matched = [(*each, 0, 0) for each in counts.tolist()]
        null = larger_mean(shuffled, balanced_accuracies(matched))
        return Figure("detection", support, units.by_doc(columns), null)

    def _tokens(
        self,
        row: Int[np.ndarray, " act"],
        says: Bool[np.ndarray, " token"],
        said: Int[np.ndarray, " said"],
        hard: Int[np.ndarray, " hard"],
        hits: Int[np.ndarray, " roll"],
        held: Int[np.ndarray, " roll"],
        others: Sequence[int],
    ) -> Figure | Score:
        """Fuzzing: on which tokens the feature fires; by counts, since most tokens are silent."""
        n_real = int(self._real_by_doc.sum())
        support = _support(len(row), n_real - len(row), len(hard) > 0)
        if len(row) in (0, n_real):
            return support.undefined("fuzzing", SILENT if len(row) == 0 else "no context is silent")
        yes, right = self._count_by_doc(row), self._count_by_doc(row[says[row]])
        wrong = self._count_by_doc(said) - right
        hard_by_doc = self._count_by_doc(hard), self._count_by_doc(hard[says[hard]])
        by_doc = np.stack([yes, right, self._real_by_doc - yes, wrong, *hard_by_doc])
        hard_hits = _counts(self._turned(says, hard))
        shuffled = [
            (len(row), hit, n_real - len(row), all_held - hit, len(hard), hard_hit)
            for hit, all_held, hard_hit in np.stack([hits, held, hard_hits], axis=1).tolist()
        ]
        matched = []
        for other in others:
            there = self._test.of(other)[0]
            hit = int(np.count_nonzero(says[there]))
            matched.append((len(there), hit, n_real - len(there), len(said) - hit, 0, 0))
        null = larger_mean(balanced_accuracies(shuffled), balanced_accuracies(matched))
        return Figure("fuzzing", support, by_doc, null)

    def _f1(
        self,
        row: Int[np.ndarray, " act"],
        says: Bool[np.ndarray, " token"],
        said: Int[np.ndarray, " said"],
        hits: Int[np.ndarray, " roll"],
        held: Int[np.ndarray, " roll"],
    ) -> Figure | Score:
        support = Support(len(row), len(says) - len(row))
        if len(row) == 0:
            return support.undefined("f1", SILENT)
        parts = (row[says[row]], row, said)
        null = 2 * hits / (len(row) + held)
        by_doc = np.stack([self._count_by_doc(part) for part in parts])
        return Figure("f1", support, by_doc, float(np.mean(null)))

    def _f1_of_documents(
        self, row: Int[np.ndarray, " act"], said_row: Int[np.ndarray, " said"]
    ) -> Figure | Score:
        units = self._documents
        yes, said = units.holding(row), units.holding(said_row)
        support = Support(int(yes.sum()), int((~yes).sum()))
        if not yes.any():
            return support.undefined("f1", SILENT)
        moved = said[self._orders[id(units)]]
        null = 2 * (moved & yes).sum(axis=1) / (yes.sum() + moved.sum(axis=1))
        by_doc = units.by_doc(np.stack([yes & said, yes, said]))
        return Figure("f1", support, by_doc, float(null.mean()))

    def _mass(
        self,
        row: Int[np.ndarray, " act"],
        value: Float[np.ndarray, " act"],
        says: Bool[np.ndarray, " token"],
    ) -> list[Figure | Score]:
        """Coverage: activation mass where the rule holds. Purity: its share of the top tenth."""
        if len(row) == 0:
            return [Support(0, 0).undefined(name, SILENT) for name in ("coverage", "purity")]
        weights = {
            "coverage": value.astype(np.float64),
            "purity": (value >= np.percentile(value, 90)).astype(np.float64),
        }
        found: list[Figure | Score] = []
        held = says[row]
        moved = np.stack(list(self._turned(says, row)))
        for name, weight in weights.items():
            by_doc = np.stack(
                [
                    np.bincount(self._doc[row], weights=part, minlength=self._rows.n_docs)
                    for part in (weight * held, weight)
                ]
            )
            null = float((moved @ weight).mean() / weight.sum())
            found.append(Figure(name, Support(int(np.count_nonzero(weight)), 0), by_doc, null))
        return found

    def _count_by_doc(self, row: Int[np.ndarray, " some"]) -> Float[np.ndarray, " doc"]:
        counts = np.bincount(self._doc[row], minlength=self._rows.n_docs)
        return counts.astype(np.float64)

    def _turned(
        self, mask: Bool[np.ndarray, " token"], row: Int[np.ndarray, " some"]
    ) -> Iterator[Bool[np.ndarray, " some"]]:
        """The mask at these rows, once it is turned round by each number of tokens."""
        return (mask.take(row - roll, mode="wrap") for roll in self._rolls)

    def _turned_to_real(self, said: Int[np.ndarray, " said"]) -> Int[np.ndarray, " roll"]:
        """How many of the tokens that a rule names are real, once it is turned round."""
        turned = (self._real.take(said + roll, mode="wrap") for roll in self._rolls)
        return _counts(turned)

    def _of_like_density(self, feature: int) -> list[int]:
        """The living features nearest in firings, neighbours left out."""
        near = set(self._neighbours[feature, :NEIGHBOURS].tolist()) | {feature}
        place = int(self._rank[feature])
        around = sorted(
            range(max(0, place - 2 * MATCHED), min(len(self._rank), place + 2 * MATCHED + 1)),
            key=lambda rank: (abs(rank - place), rank),
        )
        others = [int(self._by_density[rank]) for rank in around]
        return [o for o in others if o not in near and self._test.n_act[o] > 0][:MATCHED]

    def _hard_rows(self, feature: int, row: Int[np.ndarray, " act"]) -> Int[np.ndarray, " hard"]:
        """Silent rows with the feature's commonest pieces, or where its neighbours fire."""
        piece, count = np.unique(self._rows.token_id[row], return_counts=True)
        common = piece[np.argsort(-count, kind="stable")[:COMMON_PIECES]].tolist()
        same = [
            self._by_piece[self._piece_start[each] : self._piece_start[each + 1]] for each in common
        ]
        near = [
            self._test.of(int(other))[0]
            for other in self._neighbours[feature, :NEIGHBOURS]
            if other >= 0
        ]
        hard = np.zeros(len(self._rows), dtype=bool)
        for rows in (*same, *near):
            hard[rows] = True
        hard[row] = False
        return np.flatnonzero(hard)

    def _auroc(self, feature: int, concept: str) -> Score:
        """Of the document's largest value, or of the token's, against where the concept holds."""
        truth = self._test.documents.truth[concept]
        by_token = truth.level == "token"
        valid = truth.is_defined & (self._real if by_token else True)
        holds = truth.holds[valid]
        support = Support(int(holds.sum()), int((~holds).sum()))
        if support.n_pos == 0 or support.n_neg == 0:
            return support.undefined("auroc", f"one class of {concept!r} is empty here")
        reading = self._reading(feature, by_token)[valid]
        area = exact_auroc(reading, holds)
        doc = (self._doc if by_token else np.arange(self._rows.n_docs))[valid]
        active = np.flatnonzero(reading)
        draws = auroc_draws(reading[active], active, doc, holds, self._weights)
        lo, hi = middle(draws).tolist()
        n_docs = [len(np.unique(doc[side])) for side in (holds, ~holds)]
        if not hi - lo > 1e-9 or min(n_docs) <= FEW:
            wide = auroc_interval(np.array([area]), n_docs[0], n_docs[1])
            lo, hi = float(np.fmin(lo, wide[0][0])), float(np.fmax(hi, wide[1][0]))
        matched = [
            exact_auroc(self._reading(other, by_token)[valid], holds)
            for other in self._of_like_density(feature)
        ]
        return support.score("auroc", area, (lo, hi), larger_mean([0.5], matched))

    def _reading(self, feature: int, by_token: bool) -> Float[np.ndarray, " unit"]:
        row, value = self._test.of(feature)
        unit = row if by_token else self._doc[row]
        largest = np.zeros(len(self._rows) if by_token else self._rows.n_docs)
        np.maximum.at(largest, unit, value)
        return largest


def _support(n_pos: int, n_neg: int, has_hard: bool) -> Support:
    return Support(n_pos, n_neg, "half random, half hard" if has_hard else "random")


def _counts(masks: Iterable[Bool[np.ndarray, " some"]]) -> Int[np.ndarray, " mask"]:
    return np.array([np.count_nonzero(mask) for mask in masks])
