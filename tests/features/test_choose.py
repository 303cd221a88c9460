"""The planted rule is chosen, by documents it was not made from, and never by test documents."""

from __future__ import annotations

import numpy as np
import pytest

from features.auroc import Reading, read_concepts
from features.candidates import Candidate
from features.choose import Chooser, best_by_concept
from features.documents import ConceptTruth
from features.errors import LabelError
from features.judge import Judge
from features.rule_json import kind_of
from features.rules import (
    Both,
    ConceptRule,
    NGram,
    PositionRange,
    Rule,
    TokenClass,
    TokenSet,
    names_concept,
)
from tests.features.planted import (
    A_SHIP,
    AFTER_THE,
    DEAD,
    FARM,
    NUMBER,
    ON_SHIP,
    RARE,
    SEA,
    SHIP,
    START,
    THE,
    A,
    evidence_of,
    make_world,
)

LABEL, TRAIN, SCORE, TEST = evidence_of(make_world(), "label", "train", "score", "test")
CHOOSER = Chooser(LABEL, TRAIN, SCORE, complexity_penalty=0.01)


def chosen(feature: int, *, concepts: bool = True) -> Rule:
    (choice,) = CHOOSER.choose(feature, with_concepts=(concepts,))
    return choice.rule


@pytest.mark.parametrize(
    ("feature", "rule"),
    [
        (ON_SHIP, TokenSet((SHIP,))),
        (AFTER_THE, TokenSet((THE,), -1)),
        (START, PositionRange(1, 2)),
        (A_SHIP, NGram(((A, SHIP),))),
        (NUMBER, ConceptRule("number", "token")),
    ],
)
def test_the_planted_rule_is_chosen(feature: int, rule: Rule) -> None:
    assert chosen(feature) == rule


def test_without_concepts_a_number_is_a_class_or_its_pieces() -> None:
    rule = chosen(NUMBER, concepts=False)
    assert isinstance(rule, TokenSet | TokenClass)
    assert not names_concept(rule)


def test_without_concepts_a_topic_feature_still_gets_a_rule_about_the_topic() -> None:
    rule = chosen(SEA, concepts=False)
    assert not names_concept(rule)
    assert "topic_words" in (kind_of(rule), *(kind_of(r) for r in _parts(rule)))


def _parts(rule: Rule) -> tuple[Rule, ...]:
    return (rule.left, rule.right) if isinstance(rule, Both) else ()


def test_asking_for_both_at_once_gives_the_same_choices() -> None:
    both = CHOOSER.choose(SEA, with_concepts=(True, False))
    assert [choice.rule for choice in both] == [chosen(SEA), chosen(SEA, concepts=False)]


def test_a_choice_says_where_it_comes_from_and_lists_the_best_first() -> None:
    (choice,) = CHOOSER.choose(ON_SHIP, with_concepts=(True,))
    assert (choice.made_from, choice.chosen_on) == ("label", "score")
    assert choice.considered[0] == choice.best
    assert len(choice.considered) == 5


def test_a_rare_feature_is_labelled_from_the_train_split() -> None:
    (choice,) = CHOOSER.choose(RARE, with_concepts=(True,))
    assert choice.made_from == "train"
    assert choice.chosen_on == "train"
    assert np.isfinite(choice.best.f1)


def test_a_feature_that_fires_nowhere_cannot_be_labelled() -> None:
    with pytest.raises(LabelError, match=r"feature 5 fires in no document .*; expected one firing"):
        CHOOSER.choose(DEAD, with_concepts=(True,))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_test_split_is_refused_in_every_place(place: int) -> None:
    given = [LABEL, TRAIN, SCORE]
    given[place] = TEST
    with pytest.raises(LabelError, match="the test split was given to the choice of labels"):
        Chooser(*given, complexity_penalty=0.01)


def test_skill_puts_the_rule_always_at_zero_and_a_perfect_rule_at_one() -> None:
    judge = Judge(SCORE)
    always = judge.consider(ON_SHIP, Candidate(PositionRange(0)))
    perfect = judge.consider(ON_SHIP, Candidate(TokenSet((SHIP,))))
    assert always.skill == pytest.approx(0)
    assert always.f1 > 0
    assert perfect.skill == perfect.f1 == 1


def test_a_rule_about_documents_is_judged_on_documents() -> None:
    judge = Judge(SCORE)
    sea = judge.consider(SEA, Candidate(ConceptRule("sea", "document")))
    farm = judge.consider(SEA, Candidate(ConceptRule("farm", "document")))
    on_tokens = judge.consider(SEA, Candidate(ConceptRule("sea", "token")))
    assert sea.f1 == 1
    assert farm.f1 == 0
    assert 0.5 < on_tokens.f1 < 0.9


def test_a_silent_feature_has_no_f1() -> None:
    assert np.isnan(Judge(SCORE).consider(DEAD, Candidate(TokenSet((SHIP,)))).f1)


def test_a_threshold_counts_only_what_lies_above_it() -> None:
    judge = Judge(SCORE)
    row, value = SCORE.of(ON_SHIP)
    half = float(np.median(value))
    considered = judge.consider(ON_SHIP, Candidate(TokenSet((SHIP,)), half))
    n_above = int((value > half).sum())
    assert considered.f1 == pytest.approx(2 * n_above / (len(row) + n_above))


def test_each_concept_has_its_best_feature_and_no_feature_two_concepts() -> None:
    readings = read_concepts(SCORE)
    alive = SCORE.n_act > 0
    assert best_by_concept(readings, alive, least_auroc=0.7) == {
        "sea": SEA,
        "farm": FARM,
        "number": NUMBER,
    }
    alive[SEA] = False
    assert best_by_concept(readings, alive, least_auroc=0.7).get("sea") != SEA
    assert best_by_concept(readings, np.zeros_like(alive), least_auroc=0.7) == {}


def reading(name: str, auroc: list[float], best_f1: list[float]) -> Reading:
    """What features read of a concept, as far as the choice of a name looks at it."""
    each = np.zeros(len(auroc))
    truth = ConceptTruth(0, name, "document", np.ones(1, dtype=bool), np.ones(1, dtype=bool))
    return Reading(truth, np.array(auroc), np.array(best_f1), each, 1, 1)


def test_of_two_concepts_that_want_one_feature_the_better_read_gets_it() -> None:
    readings = (reading("reef", [0.9, 0.8], [0.9, 0.8]), reading("sea", [1.0, 0.7], [1.0, 0.7]))
    alive = np.ones(2, dtype=bool)
    assert best_by_concept(readings, alive, least_auroc=0.7) == {"reef": 1, "sea": 0}
    assert best_by_concept(readings, alive, least_auroc=0.85) == {"sea": 0}


def test_a_slightly_better_area_does_not_outweigh_firing_elsewhere() -> None:
    only = (reading("sea", [1.0, 0.95], [0.3, 0.9]),)
    assert best_by_concept(only, np.ones(2, dtype=bool), least_auroc=0.7) == {"sea": 1}
