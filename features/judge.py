"""What a candidate scores on one split: F1, and how far that is from saying nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from features.candidates import Candidate, is_about_documents
from features.documents import Evidence
from features.rules import ConceptRule, Repetition, Rule, TokenClass, fires
from features.units import Units


@dataclass(frozen=True, slots=True)
class Considered:
    """A candidate with what it scored on documents it was not made from."""

    candidate: Candidate
    f1: float
    skill: float
    """F1 moved and stretched so that the rule 'always' has 0 and a perfect one 1."""


class Judge:
    """Scores candidates on one split."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self._real = ~evidence.documents.rows.is_special
        doc = evidence.documents.rows.doc
        self._documents = Units(doc, doc)
        self._n_tokens = int(self._real.sum())
        self._shared: dict[Rule, tuple[np.ndarray, int]] = {}
        self._of_feature: dict[Rule, tuple[np.ndarray, int]] = {}
        self._feature = -1

    def where(self, rule: Rule) -> Bool[np.ndarray, " token"]:
        """Tokens on which the rule holds, special ones left out."""
        return self._found(rule)[0]

    def share(self, rule: Rule) -> float:
        """Share of the tokens on which the rule holds."""
        return self._said(rule) / max(self._n_tokens, 1)

    def _said(self, rule: Rule) -> int:
        return self._found(rule)[1]

    def _found(self, rule: Rule) -> tuple[np.ndarray, int]:
        shared = isinstance(rule, TokenClass | Repetition | ConceptRule)
        kept = self._shared if shared else self._of_feature
        if rule not in kept:
            where = fires(rule, self.evidence.documents.rows) & self._real
            kept[rule] = (where, int(np.count_nonzero(where)))
        return kept[rule]

    def consider(self, feature: int, candidate: Candidate) -> Considered:
        """F1 and skill of a candidate; NaN where the feature does not fire here."""
        if feature != self._feature:
            self._feature, self._of_feature = feature, {}
        row, value = self.evidence.of(feature)
        where = self.where(candidate.rule)
        if is_about_documents(candidate):
            says = self._documents.where(where)
            yes = self._documents.holding(row[value > candidate.threshold])
            right = np.count_nonzero(says & yes)
            counts = (right, np.count_nonzero(says), np.count_nonzero(yes))
            return _considered(candidate, *counts, self._documents.n)
        own = row[value > candidate.threshold] if candidate.threshold > 0 else row
        right = np.count_nonzero(where.take(own))
        return _considered(candidate, right, self._said(candidate.rule), len(own), self._n_tokens)


def _considered(
    candidate: Candidate, right: np.intp | int, said: np.intp | int, yes: np.intp | int, n: int
) -> Considered:
    if yes == 0:
        return Considered(candidate, float("nan"), float("nan"))
    f1 = 2 * right / (said + yes)
    always = 2 * yes / (n + yes)
    return Considered(
        candidate, float(f1), float((f1 - always) / (1 - always)) if always < 1 else 0.0
    )
