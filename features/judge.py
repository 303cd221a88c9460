"""What candidates score on one split: F1, and how far that is from saying nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int

from features.candidates import Candidate
from features.counts import together
from features.documents import Evidence
from features.piece_sets import PieceSets
from features.rules import Rule, TokenSet, TopicWords, complexity, level_of
from features.shared_rules import is_shared
from features.tally import Tally
from features.units import Units


@dataclass(frozen=True, slots=True)
class Considered:
    """A candidate with what it scored on documents it was not made from."""

    candidate: Candidate
    f1: float
    skill: float
    """F1 moved and stretched so that the rule 'always' has 0 and a perfect one 1."""


class Kinds:
    """Rules by how they are looked up, each with its number in a list."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        sets: dict[int, dict[int, TokenSet]] = {}
        self.topics: dict[int, TopicWords] = {}
        self.shared: dict[int, Rule] = {}
        self.others: dict[int, Rule] = {}
        for i, rule in enumerate(rules):
            if isinstance(rule, TokenSet):
                sets.setdefault(rule.offset, {})[i] = rule
            elif isinstance(rule, TopicWords):
                self.topics[i] = rule
            else:
                (self.shared if is_shared(rule) else self.others)[i] = rule
        self.sets = [(list(own), PieceSets(list(own.values()))) for own in sets.values()]


class Slate:
    """The candidates of one feature, each as the number of a rule and of a threshold."""

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self.candidates = tuple(candidates)
        rules: dict[Rule, int] = {}
        thresholds: dict[float, int] = {}
        # Candidates share their rules, so that few of these need to be compared.
        given = {id(c.rule): c.rule for c in candidates}
        place = {key: rules.setdefault(rule, len(rules)) for key, rule in given.items()}
        self.rule_of = np.array([place[id(c.rule)] for c in candidates])
        self.threshold_of = np.array(
            [thresholds.setdefault(c.threshold, len(thresholds)) for c in candidates]
        )
        self.rules = tuple(rules)
        self.thresholds = np.array(tuple(thresholds))
        self.is_about_documents = np.array([level_of(rule) == "document" for rule in rules])
        self.complexity = np.array([complexity(rule) for rule in rules])
        self.kinds = Kinds(self.rules)


class Standing:
    """One feature's candidates on one split: where rules hold, and what candidates score."""

    def __init__(self, judge: Judge, feature: int, slate: Slate) -> None:
        self._judge, self._slate = judge, slate
        self._row, self._value = judge.evidence.of(feature)
        self._masks: dict[int, np.ndarray] = {}
        tally, kinds = judge.tally, slate.kinds
        self._shared = tally.shared.places(tuple(kinds.shared.values()))
        self._topics = tally.docs(tuple(kinds.topics.values()))

    @property
    def n_act(self) -> int:
        """Tokens on which the feature fires."""
        return len(self._row)

    @property
    def n_real(self) -> int:
        """Tokens of the split, special ones left out."""
        return self._judge.tally.n_real

    @cached_property
    def holds(self) -> Bool[np.ndarray, "rule act"]:
        """Whether each rule holds where the feature fires."""
        tally, row, kinds = self._judge.tally, self._row, self._slate.kinds
        holds = np.empty((len(self._slate.rules), len(row)), dtype=bool)
        for own, sets in kinds.sets:
            holds[own] = sets.holding(tally.rows.piece_at(sets.offset)[row])
        holds[list(kinds.shared)] = tally.shared.holding(self._shared, row)
        holds[list(kinds.topics)] = self._topics[:, tally.rows.doc[row]]
        for i, rule in kinds.others.items():
            holds[i] = tally.holds_at(rule, row)
        return holds

    @cached_property
    def hits(self) -> Int[np.ndarray, " rule"]:
        """How often each rule holds where the feature fires."""
        hits: np.ndarray = np.count_nonzero(self.holds, axis=1)
        return hits

    @cached_property
    def both_hold(self) -> Int[np.ndarray, "rule rule"]:
        """How often two rules hold at once where the feature fires."""
        return together(self.holds, self.holds)

    @cached_property
    def said(self) -> Int[np.ndarray, " rule"]:
        """Tokens on which each rule holds."""
        tally, kinds = self._judge.tally, self._slate.kinds
        said = np.empty(len(self._slate.rules), dtype=np.int64)
        for own, sets in kinds.sets:
            said[own] = sets.said(tally.total(sets.offset))
        said[list(kinds.shared)] = tally.shared.said(self._shared)
        said[list(kinds.topics)] = tally.said_in(self._topics)
        for i, rule in kinds.others.items():
            said[i] = tally.said(rule)
        return said

    def said_by_both(self, one: int, other: int) -> int:
        """Tokens on which two rules hold; the masks of those that are not sets are kept."""
        rules, tally = self._slate.rules, self._judge.tally
        if isinstance(rules[one], TokenSet) or isinstance(rules[other], TokenSet):
            return tally.said_by_both(rules[one], rules[other])
        for i in (one, other):
            if i not in self._masks:
                self._masks[i] = tally.mask(rules[i])
        return int(np.count_nonzero(self._masks[one] & self._masks[other]))

    @cached_property
    def f1(self) -> Float[np.ndarray, " candidate"]:
        """F1 of each candidate, on tokens or on documents; NaN where nothing is to be said."""
        return self._scores[0]

    @cached_property
    def skill(self) -> Float[np.ndarray, " candidate"]:
        """F1 moved and stretched so that the rule 'always' has 0 and a perfect one 1."""
        return self._scores[1]

    def considered(self, candidate: int) -> Considered:
        """One candidate with its scores."""
        f1, skill = float(self.f1[candidate]), float(self.skill[candidate])
        return Considered(self._slate.candidates[candidate], f1, skill)

    @cached_property
    def _scores(self) -> tuple[np.ndarray, np.ndarray]:
        slate, tally = self._slate, self._judge.tally
        by_document = slate.is_about_documents
        right = np.zeros((len(slate.rules), len(slate.thresholds)), dtype=np.int64)
        said = self.said.copy()
        above = self._above
        right[~by_document] = together(self.holds[~by_document], above)
        yes = np.repeat(above.sum(axis=1)[None], len(slate.rules), axis=0)
        n = np.where(by_document, self._judge.documents.n, tally.n_real)
        if by_document.any():
            says, fired = self._says, self._fired
            right[by_document] = together(says, fired)
            said[by_document] = says.sum(axis=1)
            yes[by_document] = fired.sum(axis=1)
        rule, threshold = slate.rule_of, slate.threshold_of
        return scores_of(right[rule, threshold], said[rule], yes[rule, threshold], n[rule])

    @cached_property
    def _above(self) -> Bool[np.ndarray, "threshold act"]:
        """Firings that count. Thresholds are compared in the precision of the values."""
        least = self._slate.thresholds[:, None]
        above: np.ndarray = (self._value > least.astype(self._value.dtype)) | (least <= 0)
        return above

    @property
    def _fired(self) -> Bool[np.ndarray, "threshold doc"]:
        """Documents with a firing that counts."""
        largest = np.full(self._judge.documents.n, -np.inf, dtype=self._value.dtype)
        np.maximum.at(largest, self._judge.tally.rows.doc[self._row], self._value)
        fired: np.ndarray = largest > self._slate.thresholds.astype(largest.dtype)[:, None]
        return fired

    @property
    def _says(self) -> Bool[np.ndarray, "rule doc"]:
        """Documents that hold a token on which a rule about documents holds."""
        slate, topics = self._slate, self._slate.kinds.topics
        says = np.empty((len(slate.rules), self._judge.documents.n), dtype=bool)
        says[list(topics)] = self._topics
        for i in np.flatnonzero(slate.is_about_documents).tolist():
            if i not in topics:
                says[i] = self._judge.docs(slate.rules[i])
        return np.asarray(says[slate.is_about_documents])


class Judge:
    """Scores candidates on one split."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self.tally = Tally(evidence.documents.rows)
        doc = evidence.documents.rows.doc
        self.documents = Units(doc, doc)
        self._docs: dict[Rule, np.ndarray] = {}

    def consider(self, feature: int, candidate: Candidate) -> Considered:
        """F1 and skill of a candidate; NaN where the feature does not fire here."""
        return Standing(self, feature, Slate((candidate,))).considered(0)

    def docs(self, rule: Rule) -> Bool[np.ndarray, " doc"]:
        """Documents that hold a token on which the rule holds."""
        if rule in self._docs:
            return self._docs[rule]
        docs = self.documents.where(self.tally.mask(rule))
        if is_shared(rule):
            self._docs[rule] = docs
        return docs


def scores_of(
    right: Int[np.ndarray, " candidate"],
    said: Int[np.ndarray, " candidate"],
    yes: Int[np.ndarray, " candidate"],
    n: Int[np.ndarray, " candidate"],
) -> tuple[Float[np.ndarray, " candidate"], Float[np.ndarray, " candidate"]]:
    """F1 and skill by counts of units: rightly named, named, firing, all; NaN without firing."""
    with np.errstate(invalid="ignore", divide="ignore"):
        f1 = np.where(yes > 0, 2 * right / (said + yes), np.nan)
        always = 2 * yes / (n + yes)
        skill = np.where(always < 1, (f1 - always) / (1 - always), 0.0)
    return f1, np.where(yes > 0, skill, np.nan)


def skill_of(f1: float, yes: int, n: int) -> float:
    """F1 moved and stretched by that of the rule 'always'."""
    always = 2 * yes / (n + yes)
    return (f1 - always) / (1 - always) if always < 1 else 0.0
