"""Pairs of rules are counted as they are executed, and the best is not lost to a bound."""

from __future__ import annotations

import numpy as np
import pytest

from features.auroc import read_concepts
from features.candidates import Candidate, CandidateMaker
from features.judge import Judge, Slate, Standing
from features.pairs import best_pairs, tried_pairs
from features.rules import Either, fires
from tests.features.planted import AFTER_THE, NUMBER, SEA, evidence_of, make_world

LABEL, SCORE = evidence_of(make_world(), "label", "score")
HOME, JUDGE = Judge(LABEL), Judge(SCORE)
MAKER = CandidateMaker(LABEL, read_concepts(LABEL))


def standings(feature: int) -> tuple[Slate, Standing, Standing, np.ndarray]:
    slate = Slate(MAKER.propose(feature))
    everything = np.arange(len(slate.candidates))
    return slate, Standing(HOME, feature, slate), Standing(JUDGE, feature, slate), everything


@pytest.mark.parametrize("feature", [SEA, AFTER_THE, NUMBER])
def test_hits_are_those_of_the_executed_pair_and_no_f1_exceeds_its_bound(feature: int) -> None:
    slate, at_home, outside, everything = standings(feature)
    rows, row = SCORE.documents.rows, SCORE.of(feature)[0]
    joins: list[type] = []
    for tried in tried_pairs(slate, at_home, everything):
        pairs = [
            tried.join(slate.rules[one], slate.rules[other])
            for one, other in zip(tried.left, tried.right, strict=True)
        ]
        hits = [np.count_nonzero(fires(pair, rows)[row]) for pair in pairs]
        f1 = np.array([JUDGE.consider(feature, Candidate(pair)).f1 for pair in pairs])
        joins += [tried.join] * len(pairs)
        np.testing.assert_array_equal(tried.hits(outside), hits)
        assert (tried.most(outside) >= f1).all()
    assert Either in joins


@pytest.mark.parametrize("feature", [SEA, AFTER_THE, NUMBER])
def test_the_best_pair_of_each_kind_is_the_first_with_the_largest_f1(feature: int) -> None:
    slate, at_home, outside, everything = standings(feature)
    best = []
    for tried in tried_pairs(slate, at_home, everything):
        pairs = [
            Candidate(tried.join(slate.rules[one], slate.rules[other]))
            for one, other in zip(tried.left, tried.right, strict=True)
        ]
        if pairs:
            best.append(max(pairs, key=lambda pair: HOME.consider(feature, pair).f1))
    found = best_pairs(slate, at_home, outside, everything, enough=-1.0)
    assert found == best
    assert len(found) > 0


def test_no_pair_is_proposed_where_none_can_reach_the_skill() -> None:
    slate, at_home, outside, everything = standings(SEA)
    assert best_pairs(slate, at_home, outside, everything, enough=1.01) == []
