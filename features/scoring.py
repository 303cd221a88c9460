"""What a chosen rule is worth on documents that nothing was chosen on.

Detection asks in which contexts the feature fires, fuzzing on which tokens; both are
balanced accuracies in which silence counts half at random and half where it is hard: on
the feature's own commonest pieces, and where its decoder neighbours fire. Every figure
but an AUROC comes with a bootstrap interval over documents, and each with its null: what the
rule scores once its places are shuffled (one half for an AUROC), or, of detection, fuzzing and
AUROC, what it scores on other features as dense, if that is more.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from features.auroc import auroc_interval
from features.candidates import Candidate, is_about_documents
from features.documents import Evidence
from features.rules import ConceptRule, fires
from features.scores import SILENT, Score, Support
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
        self._real = ~self._rows.is_special
        self._neighbours = neighbours
        rng = np.random.default_rng(seed)
        n_docs = self._rows.n_docs
        self._weights = rng.multinomial(n_docs, np.full(n_docs, 1 / n_docs), bootstrap)
        self._weights = self._weights.astype(np.float64)
        self._rolls = rng.integers(1, max(len(self._rows), 2), SHUFFLES)
        self._windows = Units(self._rows.window, self._rows.doc)
        self._documents = Units(self._rows.doc, self._rows.doc)
        self._tokens = Units(np.arange(len(self._rows)), self._rows.doc)
        self._orders = {
            id(units): [rng.permutation(units.n) for _ in range(SHUFFLES)]
            for units in (self._windows, self._documents)
        }
        self._scored: dict[tuple[int, Candidate], tuple[Score, ...]] = {}
        self._by_density = np.argsort(test.n_act, kind="stable")
        self._rank = np.argsort(self._by_density, kind="stable")

    def score(self, feature: int, candidate: Candidate) -> tuple[Score, ...]:
        """Detection, fuzzing, F1, coverage, purity; and AUROC where the rule is one concept."""
        if (feature, candidate) not in self._scored:
            self._scored[feature, candidate] = self._score(feature, candidate)
        return self._scored[feature, candidate]

    def _score(self, feature: int, candidate: Candidate) -> tuple[Score, ...]:
        says = fires(candidate.rule, self._rows) & self._real
        about_documents = is_about_documents(candidate)
        units = self._documents if about_documents else self._windows
        row, value = self._test.of(feature)
        own = row[value > candidate.threshold]
        scores = [
            self._balanced("detection", feature, own, says, units),
            self._balanced("fuzzing", feature, row if about_documents else own, says, self._tokens),
            self._f1(own, says, self._documents if about_documents else self._tokens),
            *self._mass(row, value, says),
        ]
        if isinstance(candidate.rule, ConceptRule):
            scores.append(self._auroc(feature, candidate.rule.name))
        return tuple(scores)

    def _balanced(
        self,
        metric: str,
        feature: int,
        row: Int[np.ndarray, " act"],
        says: Bool[np.ndarray, " token"],
        units: Units,
    ) -> Score:
        yes, said = units.holding(row), units.where(says)
        usable = units.where(self._real)
        hard = units.holding(self._hard_rows(feature, row)) & ~yes & usable
        silent = ~yes & usable
        negatives = "half random, half hard" if hard.any() else "random"
        support = Support(int(yes.sum()), int(silent.sum()), negatives)
        if not yes.any() or not silent.any():
            why = SILENT if not yes.any() else "no context is silent"
            return support.undefined(metric, why)
        columns = np.stack([yes, yes & said, silent, silent & said, hard, hard & said])
        by_doc = np.stack([units.by_doc(column) for column in columns])
        value = float(_balanced_accuracy(by_doc.sum(axis=1)))
        lo, hi = _interval(_balanced_accuracy((self._weights @ by_doc.T).T))
        shuffled = [
            float(_balanced_accuracy(self._sums(yes, silent, hard, moved)))
            for moved in self._shuffled(said, says, units)
        ]
        matched = [
            self._matched(other, said, usable, units) for other in self._of_like_density(feature)
        ]
        return support.score(metric, value, (lo, hi), _larger_mean(shuffled, matched))

    @staticmethod
    def _sums(
        yes: Bool[np.ndarray, " unit"],
        silent: Bool[np.ndarray, " unit"],
        hard: Bool[np.ndarray, " unit"],
        said: Bool[np.ndarray, " unit"],
    ) -> Float[np.ndarray, " column"]:
        parts = (yes, yes & said, silent, silent & said, hard, hard & said)
        return np.array([np.count_nonzero(part) for part in parts], dtype=np.float64)

    def _shuffled(
        self, said: Bool[np.ndarray, " unit"], says: Bool[np.ndarray, " token"], units: Units
    ) -> list[np.ndarray]:
        """What the rule would say of other places: contexts permuted, tokens turned round."""
        if units is self._tokens:
            return [np.roll(says, roll) & self._real for roll in self._rolls]
        return [said[order] for order in self._orders[id(units)]]

    def _matched(
        self,
        other: int,
        said: Bool[np.ndarray, " unit"],
        usable: Bool[np.ndarray, " unit"],
        units: Units,
    ) -> float:
        yes = units.holding(self._test.of(other)[0])
        none = np.zeros_like(yes)
        return float(_balanced_accuracy(self._sums(yes, ~yes & usable, none, said)))

    def _of_like_density(self, feature: int) -> list[int]:
        """The living features nearest in firings, neighbours left out."""
        near = set(self._neighbours[feature, :NEIGHBOURS].tolist()) | {feature}
        place = self._rank[feature]
        around = sorted(
            range(max(0, place - 2 * MATCHED), min(len(self._rank), place + 2 * MATCHED + 1)),
            key=lambda rank: (abs(rank - place), rank),
        )
        others = [int(self._by_density[rank]) for rank in around]
        return [o for o in others if o not in near and self._test.n_act[o] > 0][:MATCHED]

    def _hard_rows(self, feature: int, row: Int[np.ndarray, " act"]) -> Int[np.ndarray, " hard"]:
        """Rows with the feature's commonest pieces, and rows where its neighbours fire."""
        piece, count = np.unique(self._rows.token_id[row], return_counts=True)
        common = piece[np.argsort(-count, kind="stable")[:COMMON_PIECES]]
        same = np.flatnonzero(self._rows.has_piece(common, 0) & self._real)
        near = [
            self._test.of(int(other))[0]
            for other in self._neighbours[feature, :NEIGHBOURS]
            if other >= 0
        ]
        silent = np.ones(len(self._rows), dtype=bool)
        silent[row] = False
        rows = np.concatenate([same, *near])
        hard: np.ndarray = rows[silent[rows]]
        return hard

    def _f1(
        self, row: Int[np.ndarray, " act"], says: Bool[np.ndarray, " token"], units: Units
    ) -> Score:
        yes, said = units.holding(row), units.where(says)
        support = Support(int(yes.sum()), int((~yes).sum()))
        if not yes.any():
            return support.undefined("f1", SILENT)
        by_doc = np.stack([units.by_doc(column) for column in (yes & said, yes, said)])
        lo, hi = _interval(_f1((self._weights @ by_doc.T).T))
        moved = self._shuffled(said, says, units)
        null = [2 * float((yes & m).sum()) / float(yes.sum() + m.sum()) for m in moved]
        value = float(_f1(by_doc.sum(axis=1)))
        return support.score("f1", value, (lo, hi), float(np.mean(null)))

    def _mass(
        self,
        row: Int[np.ndarray, " act"],
        value: Float[np.ndarray, " act"],
        says: Bool[np.ndarray, " token"],
    ) -> list[Score]:
        """Coverage: activation mass where the rule holds. Purity: its share of the top tenth."""
        if len(row) == 0:
            return [Support(0, 0).undefined(name, SILENT) for name in ("coverage", "purity")]
        weights = {
            "coverage": value.astype(np.float64),
            "purity": (value >= np.percentile(value, 90)).astype(np.float64),
        }
        scores = []
        for name, weight in weights.items():
            doc = self._rows.doc[row]
            held = np.bincount(doc, weights=weight * says[row], minlength=self._rows.n_docs)
            whole = np.bincount(doc, weights=weight, minlength=self._rows.n_docs)
            with np.errstate(invalid="ignore"):
                resampled = (self._weights @ held) / (self._weights @ whole)
            lo, hi = _interval(resampled)
            null = [float(weight @ np.roll(says, r)[row]) / weight.sum() for r in self._rolls]
            share = float(held.sum() / whole.sum())
            support = Support(int(np.count_nonzero(weight)), 0)
            scores.append(support.score(name, share, (lo, hi), float(np.mean(null))))
        return scores

    def _auroc(self, feature: int, concept: str) -> Score:
        """Of the document's largest value, or of the token's, against where the concept holds."""
        truth = self._test.documents.truth[concept]
        valid = truth.is_defined & (self._real if truth.level == "token" else True)
        holds = truth.holds[valid]
        support = Support(int(holds.sum()), int((~holds).sum()))
        if support.n_pos == 0 or support.n_neg == 0:
            return support.undefined("auroc", f"one class of {concept!r} is empty here")
        area = exact_auroc(self._reading(feature, truth.level == "token")[valid], holds)
        lo, hi = auroc_interval(np.array([area]), support.n_pos, support.n_neg)
        matched = [
            exact_auroc(self._reading(other, truth.level == "token")[valid], holds)
            for other in self._of_like_density(feature)
        ]
        null = _larger_mean([0.5], matched)
        return support.score("auroc", area, (float(lo[0]), float(hi[0])), null)

    def _reading(self, feature: int, by_token: bool) -> Float[np.ndarray, " unit"]:
        row, value = self._test.of(feature)
        unit = row if by_token else self._rows.doc[row]
        largest = np.zeros(len(self._rows) if by_token else self._rows.n_docs)
        np.maximum.at(largest, unit, value)
        return largest


def _balanced_accuracy(sums: Float[np.ndarray, "column *draw"]) -> Float[np.ndarray, "*draw"]:
    """Half for firing places that the rule names, half for silent ones that it leaves out."""
    yes, right, silent, wrong, hard, hard_wrong = sums
    with np.errstate(invalid="ignore", divide="ignore"):
        at_random = 1 - wrong / silent
        where_hard = np.where(hard > 0, 1 - hard_wrong / hard, at_random)
        return np.asarray(right / yes / 2 + (at_random + where_hard) / 4)


def _f1(sums: Float[np.ndarray, "column *draw"]) -> Float[np.ndarray, "*draw"]:
    right, yes, said = sums
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(2 * right / (yes + said))


def _interval(draws: Float[np.ndarray, " draw"]) -> tuple[float | None, float | None]:
    """The middle 95 % of the draws that are defined."""
    defined = draws[np.isfinite(draws)]
    if len(defined) == 0:
        return None, None
    lo, hi = np.percentile(defined, [2.5, 97.5])
    return float(lo), float(hi)


def _larger_mean(*groups: Sequence[float]) -> float:
    """Figures that are undefined, such as those of a feature that never rests, are left out."""
    defined = [[figure for figure in group if np.isfinite(figure)] for group in groups]
    return max(float(np.mean(figures)) for figures in defined if figures)
