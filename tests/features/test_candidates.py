"""Makers propose the rule that was planted, among others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.auroc import read_concepts
from features.candidates import MAX_PIECES, CandidateMaker, cut_by_lift, is_about_documents
from features.rules import (
    ConceptRule,
    NGram,
    PositionRange,
    Rule,
    TextLanguage,
    TokenSet,
    TopicWords,
    pieces_of,
)
from features.trie import context_patterns
from tests.features.planted import (
    A_SHIP,
    AFTER_THE,
    DEAD,
    ON_SHIP,
    SEA,
    SEA_WORDS,
    SHIP,
    START,
    THE,
    A,
    evidence_of,
    make_world,
)

(EVIDENCE,) = evidence_of(make_world(), "label")
MAKER = CandidateMaker(EVIDENCE, read_concepts(EVIDENCE))


def rules_for(feature: int) -> list[Rule]:
    return [candidate.rule for candidate in MAKER.propose(feature)]


@pytest.mark.parametrize(
    ("feature", "rule"),
    [
        (ON_SHIP, TokenSet((SHIP,))),
        (AFTER_THE, TokenSet((THE,), -1)),
        (START, PositionRange(1, 2)),
        (SEA, ConceptRule("sea", "document")),
    ],
)
def test_the_planted_rule_is_proposed(feature: int, rule: Rule) -> None:
    assert rule in rules_for(feature)


def test_words_of_a_topic_are_proposed_for_its_feature() -> None:
    topics = [rule for rule in rules_for(SEA) if isinstance(rule, TopicWords)]
    assert any(set(rule.token_ids) <= set(SEA_WORDS) for rule in topics)


def spoken_for(languages: tuple[str | None, ...], feature: int) -> set[TextLanguage]:
    """The languages proposed for a feature where documents are in these, by their number."""
    documents = EVIDENCE.documents
    spoken = tuple(languages[doc % len(languages)] for doc in documents.doc_ids.tolist())
    rows = replace(documents.rows, languages=spoken)
    maker = CandidateMaker(replace(EVIDENCE, documents=replace(documents, rows=rows)), ())
    rules = [candidate.rule for candidate in maker.propose(feature)]
    return {rule for rule in rules if isinstance(rule, TextLanguage)}


def test_the_language_of_the_documents_where_a_feature_fires_is_proposed() -> None:
    assert spoken_for(("es", "en", None), SEA) == {TextLanguage("es")}
    assert spoken_for(("en", "es", None), SEA) == {TextLanguage("en")}


def test_a_language_of_all_documents_is_proposed_for_none() -> None:
    assert spoken_for(("en",), SEA) == set()
    assert spoken_for((None,), SEA) == set()
    assert not any(isinstance(rule, TextLanguage) for rule in rules_for(SEA))


def test_a_run_is_told_apart_from_its_last_piece() -> None:
    row, _ = EVIDENCE.of(A_SHIP)
    (left, *_) = context_patterns(EVIDENCE.documents.rows, row)
    assert left == NGram(((A, SHIP),))


def test_no_run_is_grown_where_the_last_piece_says_it_all() -> None:
    row, _ = EVIDENCE.of(ON_SHIP)
    rules = list(context_patterns(EVIDENCE.documents.rows, row))
    assert all(rule.ahead == 1 for rule in rules)


def test_a_silent_feature_has_no_candidates() -> None:
    assert MAKER.propose(DEAD) == ()


def test_no_candidate_is_given_twice_and_none_is_long() -> None:
    for feature in range(EVIDENCE.d_sae):
        proposed = MAKER.propose(feature)
        plain = [c for c in proposed if not is_about_documents(c)]
        assert len(set(plain)) == len(plain)
        assert all(len(pieces_of(c.rule)) <= 3 * MAX_PIECES for c in proposed)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 20), st.integers(0, 20)), min_size=1, max_size=8))
def test_the_cut_is_the_best_prefix_by_lift(pieces: list[tuple[int, int]]) -> None:
    fired = np.array([k for k, _ in pieces])
    total = np.array([k + more for k, more in pieces])
    order, size = cut_by_lift(fired, total, int(fired.sum()))

    def f1(n: int) -> float:
        kept = order[:n]
        return float(2 * fired[kept].sum() / (total[kept].sum() + fired.sum()))

    assert f1(size) == pytest.approx(max(f1(n) for n in range(1, len(pieces) + 1)))
    assert sorted(order.tolist()) == list(range(len(pieces)))
