"""Counts and look-ups of a rule agree with the rule executed on every token."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from features.rules import (
    Both,
    ConceptRule,
    Either,
    NGram,
    PositionRange,
    Repetition,
    Rule,
    TextLanguage,
    TokenClass,
    TokenSet,
    TopicWords,
    fires,
)
from features.tally import Tally
from tests.features.planted import NUMBERS, SHIP, THE, A, documents_of, make_world

PLAIN = documents_of(make_world(), "label").rows
ROWS = replace(PLAIN, languages=tuple(("es", "en", None)[i % 3] for i in range(PLAIN.n_docs)))
TALLY = Tally(ROWS)
RULES = (
    TokenSet((SHIP,)),
    TokenSet((SHIP, THE, SHIP), -1),
    TokenSet((THE, A), 1),
    NGram(((A, SHIP), (THE,))),
    NGram(((A, SHIP), (SHIP,))),
    NGram(((A, SHIP), (THE, A)), ahead=1),
    NGram(((999, 999, 999),)),
    TokenClass("digit"),
    TokenClass("punctuation", -1),
    PositionRange(3),
    PositionRange(0, 5),
    PositionRange(900, 950),
    Repetition(),
    TopicWords((SHIP, *NUMBERS), 2),
    TextLanguage("es"),
    TextLanguage("fr"),
    ConceptRule("sea", "document"),
    ConceptRule("number", "token"),
    Both(TokenSet((SHIP,)), PositionRange(0, 9)),
    Either(TokenSet((SHIP,)), TokenClass("digit")),
)


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_is_counted_and_looked_up_as_it_is_executed(rule: Rule) -> None:
    where = fires(rule, ROWS) & ~ROWS.is_special
    row = np.flatnonzero(~ROWS.is_special)[::3]
    assert TALLY.said(rule) == np.count_nonzero(where)
    np.testing.assert_array_equal(TALLY.holds_at(rule, row), where[row])
    np.testing.assert_array_equal(TALLY.mask(rule), where)


def test_documents_of_a_topic_are_those_with_a_token_where_the_rule_holds() -> None:
    rule = TopicWords((SHIP,), 3)
    held = np.bincount(ROWS.doc[ROWS.token_id == SHIP], minlength=ROWS.n_docs)
    assert 0 < TALLY.docs((rule,)).sum() < ROWS.n_docs
    np.testing.assert_array_equal(TALLY.docs((rule,))[0], held >= 3)


@pytest.mark.parametrize("left", RULES)
@pytest.mark.parametrize("right", RULES[::2])
def test_two_rules_at_once_are_counted_as_they_are_executed(left: Rule, right: Rule) -> None:
    both = fires(left, ROWS) & fires(right, ROWS) & ~ROWS.is_special
    assert TALLY.said_by_both(left, right) == np.count_nonzero(both)
