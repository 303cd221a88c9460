"""Rules that all features try are executed once and looked up as they were executed."""

from __future__ import annotations

import numpy as np
import pytest

from features.rules import ConceptRule, Repetition, Rule, TokenClass, TokenSet, fires
from features.shared_rules import SharedRules, is_shared
from tests.features.planted import documents_of, make_world

ROWS = documents_of(make_world(), "label").rows
RULES: tuple[Rule, ...] = (Repetition(), TokenClass("digit"), ConceptRule("sea", "document"))


def test_rules_are_counted_and_looked_up_as_they_are_executed() -> None:
    shared = SharedRules(ROWS)
    row = np.flatnonzero(~ROWS.is_special)[::3]
    # The later rules come when the first has its place.
    place = np.concatenate([shared.places(RULES[:1]), shared.places(RULES)[1:]])
    executed = np.stack([fires(rule, ROWS) & ~ROWS.is_special for rule in RULES])
    assert len(set(place.tolist())) == len(RULES)
    np.testing.assert_array_equal(shared.said(place), executed.sum(axis=1))
    np.testing.assert_array_equal(shared.holding(place, row), executed[:, row])
    np.testing.assert_array_equal(shared.mask(RULES[2]), executed[2])


def test_a_rule_is_executed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = SharedRules(ROWS)
    before = shared.places(RULES)
    monkeypatch.setattr("features.shared_rules.fires", None)
    np.testing.assert_array_equal(shared.places(RULES), before)


def test_rules_of_one_feature_are_not_shared() -> None:
    assert all(is_shared(rule) for rule in RULES)
    assert not is_shared(TokenSet((1,)))
