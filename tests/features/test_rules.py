"""Rules mean what a slow reader would take them to mean, and survive JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import LabelError
from features.rows import Rows
from features.rule_json import from_json, kind_of, to_json
from features.rules import (
    Both,
    ConceptRule,
    Either,
    NGram,
    PositionRange,
    PromotedTokens,
    Repetition,
    Rule,
    TextLanguage,
    TokenClass,
    TokenSet,
    TopicWords,
    complexity,
    fires,
    level_of,
    names_concept,
    pieces_of,
)
from features.vocab import Vocab

VOCAB = Vocab(
    ("<s>", " a", " B", "7", ".", "\n", "c"), (False, True, True, False, False, False, False)
)
# Rules are drawn as JSON and made inside the tests: type checks of a container draw a random
# element, which a strategy may not do.
IDS = st.lists(st.integers(0, 6), min_size=1, max_size=4, unique=True)


def plain(kind: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"kind": st.just(kind), **fields})


PLAIN = st.one_of(
    plain("token_set", token_ids=IDS, offset=st.sampled_from((0, -1, -2, 1))),
    plain("ngram", patterns=st.lists(IDS, min_size=1, max_size=3), ahead=st.sampled_from((0, 1))),
    plain(
        "token_class",
        piece_class=st.sampled_from(("digit", "capital", "newline")),
        offset=st.sampled_from((0, -1)),
    ),
    plain("position", first=st.integers(0, 4), last=st.one_of(st.none(), st.integers(0, 9))),
    plain("repetition"),
    plain("topic_words", token_ids=IDS, at_least=st.integers(1, 3)),
    plain("language", language=st.sampled_from(("es", "en"))),
    plain("concept", name=st.just("sea"), level=st.sampled_from(("document", "token"))),
    plain("promoted_tokens", token_ids=IDS),
)
RULES = st.one_of(
    PLAIN, plain("both", left=PLAIN, right=PLAIN), plain("either", left=PLAIN, right=PLAIN)
)
TEXTS = st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=8), min_size=1, max_size=4)


def rows_of(texts: list[list[int]]) -> Rows:
    doc = np.concatenate([np.full(len(text), i) for i, text in enumerate(texts)])
    return Rows(
        doc=doc,
        pos=np.concatenate([np.arange(len(text)) for text in texts]),
        token_id=np.concatenate(texts).astype(np.int32),
        is_special=np.zeros(len(doc), dtype=bool),
        vocab=VOCAB,
        concepts={"sea": doc % 2 == 0},
        languages=tuple(("es", None)[i % 2] for i in range(len(texts))),
    )


def holds(rule: Rule, texts: list[list[int]], d: int, i: int) -> bool:
    """The rule read aloud, one token at a time."""
    text = texts[d]

    def piece(offset: int) -> int:
        return text[i + offset] if 0 <= i + offset < len(text) else -1

    match rule:
        case TokenSet(ids, offset):
            return piece(offset) in ids
        case NGram(patterns, ahead):
            end = i + ahead + 1
            ended = [tuple(text[end - len(p) : end]) for p in patterns if end - len(p) >= 0]
            return end <= len(text) and any(run in patterns for run in ended)
        case TokenClass(piece_class, offset):
            found = piece(offset)
            return found >= 0 and bool(VOCAB.classes[piece_class][found])
        case PositionRange(first, last):
            return first <= i and (last is None or i <= last)
        case Repetition():
            return text[i] in text[:i]
        case TopicWords(ids, at_least):
            return sum(each in ids for each in text) >= at_least
        case TextLanguage(language):
            return language == "es" and d % 2 == 0
        case ConceptRule():
            return d % 2 == 0
        case PromotedTokens(ids):
            return piece(1) in ids
        case Both(left, right):
            return holds(left, texts, d, i) and holds(right, texts, d, i)
        case Either(left, right):
            return holds(left, texts, d, i) or holds(right, texts, d, i)


@settings(deadline=None, max_examples=150)
@given(data=RULES, texts=TEXTS)
def test_a_rule_fires_exactly_where_reading_it_aloud_says(
    data: dict[str, Any], texts: list[list[int]]
) -> None:
    rule = from_json(data)
    expected = [holds(rule, texts, d, i) for d, text in enumerate(texts) for i in range(len(text))]
    assert fires(rule, rows_of(texts)).tolist() == expected


@settings(deadline=None)
@given(data=RULES)
def test_json_gives_every_rule_back(data: dict[str, Any]) -> None:
    rule = from_json(data)
    written = json.dumps(to_json(rule))
    assert from_json(json.loads(written)) == rule
    assert json.loads(written)["kind"] == kind_of(rule)


@settings(deadline=None)
@given(one=PLAIN, other=PLAIN)
def test_two_rules_are_as_complex_as_both_together(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    left, right = from_json(one), from_json(other)
    assert complexity(Either(left, right)) == complexity(left) + complexity(right)
    assert complexity(left) >= 1
    assert names_concept(Both(left, right)) == (names_concept(left) or names_concept(right))
    assert pieces_of(Either(left, right)).tolist() == [*pieces_of(left), *pieces_of(right)]


def test_longer_lists_are_more_complex() -> None:
    assert complexity(TokenSet((1,))) == 1
    assert complexity(TokenSet((1, 2, 3, 4))) == 3
    assert complexity(NGram(((1, 2), (3, 4)))) == 3


def test_a_rule_is_about_documents_only_if_all_of_it_is() -> None:
    topic, piece = TopicWords((1,)), TokenSet((1,))
    assert level_of(topic) == "document"
    assert level_of(TextLanguage("es")) == "document"
    assert level_of(ConceptRule("sea", "token")) == "token"
    assert level_of(Both(topic, ConceptRule("sea", "document"))) == "document"
    assert level_of(Both(topic, piece)) == "token"


def test_a_concept_that_the_corpus_lacks_is_an_error() -> None:
    with pytest.raises(LabelError, match=r"'moon' is not in this corpus; expected one of sea; "):
        fires(ConceptRule("moon", "token"), rows_of([[1]]))


def test_a_language_of_documents_whose_languages_nobody_asked_for_is_an_error() -> None:
    rows = replace(rows_of([[1]]), languages=None)
    with pytest.raises(LabelError, match=r"languages of these documents are not known; .*'es'; "):
        fires(TextLanguage("es"), rows)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"kind": "spell", "token_ids": [1]},
        {"kind": "token_set"},
        {"kind": "repetition", "times": 3},
        {"kind": "token_class", "class": "digit", "offset": 0},
    ],
)
def test_what_is_no_rule_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises(LabelError, match=r"is no rule; expected a kind of token_set, .*; label"):
        from_json(data)


def test_a_class_of_pieces_that_does_not_exist_is_refused() -> None:
    with pytest.raises(LabelError, match=r"'vowel' is no class of pieces; expected one of digit"):
        from_json({"kind": "token_class", "piece_class": "vowel", "offset": 0})


def test_a_language_that_no_text_is_said_to_be_in_is_refused() -> None:
    with pytest.raises(LabelError, match=r"'Klingon' is no language of a text; expected a code of"):
        from_json({"kind": "language", "language": "Klingon"})
