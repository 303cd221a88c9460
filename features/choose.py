"""Which of the candidates says best when a feature fires, by documents they were not made from.

Candidates come from the `label` split (or `train`, for features too rare to be seen there)
and are chosen by F1 on the `score` split, less a price for length. Evidence of the `test`
split is refused at the door.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float

from features.auroc import Reading, read_concepts
from features.candidates import CandidateMaker, is_about_documents
from features.documents import Evidence
from features.emphasis import strongest_first
from features.errors import LabelError
from features.judge import Considered, Judge, Slate, Standing
from features.pairs import best_pairs
from features.rules import Rule, complexity, names_concept

PAIR_GAIN = 0.05
"""Skill that a rule made of two must add to the better of single ones."""
DOCUMENT_GAIN = 0.15
"""Skill that a rule about documents must add to one about tokens, which says more."""
ENOUGH_FIRINGS = 10
"""Below this many in the `label` split, candidates are made from `train`."""
LISTED = 5
"""Candidates that a choice lists."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The rule chosen for a feature, and the runners-up."""

    feature: int
    best: Considered
    considered: tuple[Considered, ...]
    """The best few, the chosen one first."""
    made_from: str
    chosen_on: str
    """`score`, or the split the candidates came from where the feature is silent in `score`."""

    @property
    def rule(self) -> Rule:
        """The chosen rule."""
        return self.best.candidate.rule


class Chooser:
    """Makes and chooses rules, with and without concepts."""

    def __init__(
        self, label: Evidence, train: Evidence, score: Evidence, *, complexity_penalty: float
    ) -> None:
        for evidence in (label, train, score):
            if evidence.documents.split == "test":
                raise LabelError(
                    "the test split was given to the choice of labels; expected label, train and "
                    "score; keep test for the final scores"
                )
        self._penalty = complexity_penalty
        self._label, self._train = label, train
        self._is_common = (label.n_act >= ENOUGH_FIRINGS) | (train.n_act == 0)
        self.score = Judge(score)

    @cached_property
    def _from_label(self) -> tuple[CandidateMaker, Judge]:
        readings = _read_some(self._label, self._is_common & (self._label.n_act > 0))
        return CandidateMaker(self._label, readings), Judge(self._label)

    @cached_property
    def _from_train(self) -> tuple[CandidateMaker, Judge]:
        readings = _read_some(self._train, ~self._is_common)
        return CandidateMaker(self._train, readings), Judge(self._train)

    def choose(self, feature: int, *, with_concepts: Sequence[bool]) -> tuple[Choice, ...]:
        """One choice for each entry: with the corpus's concepts, or as if there were none.

        Raises:
            LabelError: the feature fires in none of the three splits.
        """
        maker, home = self._from_label if self._is_common[feature] else self._from_train
        singles = maker.propose(feature)
        if not singles:
            raise LabelError(
                f"feature {feature} fires in no document that rules are made from; expected one "
                "firing in label or train; raise label.min_firings"
            )
        slate = Slate(singles)
        at_home = Standing(home, feature, slate)
        is_silent = self.score.evidence.n_act[feature] == 0
        outside = at_home if is_silent else Standing(self.score, feature, slate)
        judge = home if is_silent else self.score
        needs_concept = np.array([names_concept(rule) for rule in slate.rules])[slate.rule_of]
        net = self._nets(slate, outside)
        choices: dict[bool, Choice] = {}
        # A feature that no concept is proposed for has the same choice with concepts.
        for concepts in {concepts and bool(needs_concept.any()) for concepts in with_concepts}:
            usable = np.flatnonzero(~needs_concept | concepts)
            first = usable[np.argsort(-net[usable], kind="stable")][:LISTED]
            ranked = [outside.considered(i) for i in first.tolist()]
            enough = _enough(ranked)
            pairs = [
                judge.consider(feature, pair)
                for pair in best_pairs(slate, at_home, outside, usable, enough)
            ]
            ranked = self._rank(ranked, pairs, enough)
            ranked[0] = _emphasised(ranked[0], maker.evidence, feature)
            choices[concepts] = Choice(
                feature,
                ranked[0],
                tuple(ranked[:LISTED]),
                made_from=maker.evidence.documents.split,
                chosen_on=judge.evidence.documents.split,
            )
        return tuple(choices[asked and bool(needs_concept.any())] for asked in with_concepts)

    def _nets(self, slate: Slate, standing: Standing) -> Float[np.ndarray, " candidate"]:
        """What `_net` gives each candidate of a slate."""
        skill = np.where(np.isfinite(standing.skill), standing.skill, -1.0)
        is_above = slate.thresholds[slate.threshold_of] > 0
        elements = slate.complexity[slate.rule_of] + is_above - 1
        gain = np.where(slate.is_about_documents[slate.rule_of], DOCUMENT_GAIN, 0.0)
        net: np.ndarray = skill - gain - self._penalty * elements
        return net

    def _net(self, considered: Considered) -> float:
        skill = considered.skill if np.isfinite(considered.skill) else -1.0
        candidate = considered.candidate
        elements = complexity(candidate.rule) + (candidate.threshold > 0) - 1
        gain = DOCUMENT_GAIN if is_about_documents(candidate) else 0.0
        return skill - gain - self._penalty * elements

    def _rank(
        self, ranked: list[Considered], pairs: Iterable[Considered], enough: float
    ) -> list[Considered]:
        """Best first; a pair stands before single rules only if it adds PAIR_GAIN of skill."""
        for pair in sorted(pairs, key=self._net, reverse=True)[:1]:
            if pair.skill >= enough and self._net(pair) > self._net(ranked[0]):
                return [pair, *ranked]
        return ranked


def _read_some(evidence: Evidence, kept: Bool[np.ndarray, " feature"]) -> tuple[Reading, ...]:
    """What `read_concepts` says of the features that are kept, NaN of the others."""
    start = np.concatenate([[0], np.cumsum(evidence.n_act[kept])])
    here = np.repeat(kept, evidence.n_act)
    some = Evidence(evidence.documents, start, evidence.row[here], evidence.value[here])

    def spread(figures: Float[np.ndarray, " kept"]) -> Float[np.ndarray, " feature"]:
        everywhere = np.full(len(kept), np.nan)
        everywhere[kept] = figures
        return everywhere

    return tuple(
        replace(
            reading,
            auroc=spread(reading.auroc),
            best_f1=spread(reading.best_f1),
            threshold=spread(reading.threshold),
        )
        for reading in read_concepts(some)
    )


def _emphasised(considered: Considered, evidence: Evidence, feature: int) -> Considered:
    """The same rule with what the feature fires most strongly on named first."""
    row, value = evidence.of(feature)
    rule = strongest_first(considered.candidate.rule, evidence.documents.rows, row, value)
    return replace(considered, candidate=replace(considered.candidate, rule=rule))


def _enough(ranked: Sequence[Considered]) -> float:
    """The skill from which on a pair may stand before single rules."""
    return max(one.skill for one in ranked[:3]) + PAIR_GAIN


def best_by_concept(
    readings: Sequence[Reading], alive: Bool[np.ndarray, " feature"], *, least_auroc: float
) -> dict[str, int]:
    """The feature that reads each concept best, every feature at most once.

    Best is the largest mean of AUROC and best F1; the concept that is read best chooses
    first. A concept that no living feature reads with AUROC `least_auroc` has no feature.
    """
    offers = []
    for number, reading in enumerate(readings):
        worth = _worth(reading, alive, least_auroc)
        for feature in np.argsort(-worth, kind="stable")[:16]:
            if np.isfinite(worth[feature]):
                offers.append((-float(worth[feature]), number, int(feature)))
    taken: dict[int, int] = {}
    for _, number, feature in sorted(offers):
        if number not in taken and feature not in taken.values():
            taken[number] = feature
    return {readings[number].truth.name: feature for number, feature in sorted(taken.items())}


def _worth(
    reading: Reading, alive: Bool[np.ndarray, " feature"], least_auroc: float
) -> Float[np.ndarray, " feature"]:
    good = alive & np.nan_to_num(reading.auroc >= least_auroc)
    worth: np.ndarray = np.where(good, (reading.auroc + reading.best_f1) / 2, -np.inf)
    return worth
