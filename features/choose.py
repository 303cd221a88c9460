"""Which of the candidates says best when a feature fires, by documents they were not made from.

Candidates come from the `label` split (or `train`, for features too rare to be seen there)
and are chosen by F1 on the `score` split, less a price for length. Evidence of the `test`
split is refused at the door.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from features.auroc import Reading, read_concepts
from features.candidates import Candidate, CandidateMaker, is_about_documents
from features.documents import Evidence
from features.errors import LabelError
from features.judge import Considered, Judge
from features.rules import (
    Both,
    Either,
    Rule,
    complexity,
    level_of,
    names_concept,
)

PAIR_GAIN = 0.05
"""Skill that a rule made of two must add to the better of single ones."""
DOCUMENT_GAIN = 0.15
"""Skill that a rule about documents must add to one about tokens, which says more."""
ENOUGH_FIRINGS = 10
"""Below this many in the `label` split, candidates are made from `train`."""
_TRIED_IN_PAIRS = 6


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
        self._makers = tuple(CandidateMaker(e, read_concepts(e)) for e in (label, train))
        self._judges = tuple(Judge(evidence) for evidence in (label, train))
        self.score = Judge(score)

    def choose(self, feature: int, *, with_concepts: Sequence[bool]) -> tuple[Choice, ...]:
        """One choice for each entry: with the corpus's concepts, or as if there were none.

        Raises:
            LabelError: the feature fires in none of the three splits.
        """
        seen = self._makers[0].evidence.n_act[feature] >= ENOUGH_FIRINGS
        seen |= self._makers[1].evidence.n_act[feature] == 0
        maker, home = (
            (self._makers[0], self._judges[0])
            if seen
            else (
                self._makers[1],
                self._judges[1],
            )
        )
        singles = maker.propose(feature)
        if not singles:
            raise LabelError(
                f"feature {feature} fires in no document that rules are made from; expected one "
                "firing in label or train; raise label.min_firings"
            )
        at_home = [home.consider(feature, candidate) for candidate in singles]
        is_silent = self.score.evidence.n_act[feature] == 0
        judge = home if is_silent else self.score
        outside = at_home if is_silent else [judge.consider(feature, c) for c in singles]
        choices = []
        for concepts in with_concepts:
            usable = [i for i, c in enumerate(singles) if concepts or not names_concept(c.rule)]
            pairs = [
                judge.consider(feature, pair)
                for pair in _pairs(home, feature, [at_home[i] for i in usable])
            ]
            ranked = self._rank([outside[i] for i in usable], pairs)
            choices.append(
                Choice(
                    feature,
                    ranked[0],
                    tuple(ranked[:5]),
                    made_from=maker.evidence.documents.split,
                    chosen_on=judge.evidence.documents.split,
                )
            )
        return tuple(choices)

    def _net(self, considered: Considered) -> float:
        skill = considered.skill if np.isfinite(considered.skill) else -1.0
        candidate = considered.candidate
        elements = complexity(candidate.rule) + (candidate.threshold > 0) - 1
        gain = DOCUMENT_GAIN if is_about_documents(candidate) else 0.0
        return skill - gain - self._penalty * elements

    def _rank(self, singles: Iterable[Considered], pairs: Iterable[Considered]) -> list[Considered]:
        """Best first; a pair stands before single rules only if it adds PAIR_GAIN of skill."""
        ranked = sorted(singles, key=self._net, reverse=True)
        for pair in sorted(pairs, key=self._net, reverse=True)[:1]:
            enough = max(one.skill for one in ranked[:3]) + PAIR_GAIN
            if pair.skill >= enough and self._net(pair) > self._net(ranked[0]):
                return [pair, *ranked]
        return ranked


def _pairs(judge: Judge, feature: int, singles: Sequence[Considered]) -> list[Candidate]:
    """The best `A or B` and the best `A and B` on the split that the singles were made from."""
    row, _ = judge.evidence.of(feature)
    ranked = sorted(singles, key=lambda c: (-c.skill, complexity(c.candidate.rule)))
    ranked = list({c.candidate.rule: c for c in reversed(ranked)}.values())[::-1]
    tokens = [c for c in ranked if not is_about_documents(c.candidate)][:_TRIED_IN_PAIRS]
    recall = {c: np.count_nonzero(judge.where(c.candidate.rule)[row]) / len(row) for c in ranked}
    wide = sorted(ranked, key=lambda c: -recall[c])
    wide = [c for c in wide if recall[c] >= 0.6 and judge.share(c.candidate.rule) < 0.5]
    wide = [*dict.fromkeys([*tokens, *wide[: 2 * _TRIED_IN_PAIRS]])]
    wide = [c for c in wide if recall[c] >= 0.6]
    ors = [
        (a.candidate.rule, b.candidate.rule)
        for i, a in enumerate(tokens[:3])
        for b in tokens[i + 1 :]
    ]
    ands = [
        (a.candidate.rule, b.candidate.rule) for i, a in enumerate(wide[:3]) for b in wide[i + 1 :]
    ]
    found = []
    for pairs, join, combine in ((ors, Either, np.logical_or), (ands, Both, np.logical_and)):
        best: tuple[float, Rule] | None = None
        for left, right in pairs:
            if level_of(left) == level_of(right) == "document":
                continue
            where = combine(judge.where(left), judge.where(right))
            right_ones = np.count_nonzero(where[row])
            f1 = 2 * right_ones / (np.count_nonzero(where) + len(row))
            if best is None or f1 > best[0]:
                best = (f1, join(left, right))
        if best is not None:
            found.append(Candidate(best[1]))
    return found


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
