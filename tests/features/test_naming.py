"""Names can be said, slugs are unique, and equal rules get equal words."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.naming import describe, short_name, slugify, unique_slugs
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
)
from features.vocab import Vocab

TEXTS = ("<s>", " ship", " wave", ".", "s", "\n", " a", "7", "�")
VOCAB = Vocab(TEXTS, tuple(text.startswith(" ") for text in TEXTS))
SEA = ConceptRule("sea", "document")


@pytest.mark.parametrize(
    ("rule", "name", "text"),
    [
        (TokenSet((1, 2)), "ship-wave", "'ship', 'wave'"),
        (TokenSet((4, 1)), "ship-s", "'s', 'ship'"),
        (TokenSet((3,)), "period", "'.'"),
        (TokenSet((6,), -1), "after-a", "the token after 'a'"),
        (TokenSet((6,), -2), "near-a", "the token 2 after 'a'"),
        (TokenSet((6,), 1), "before-a", "the token before 'a'"),
        (TokenSet((8,)), "piece-8", "'�'"),
        (NGram(((6, 1),)), "a-ship", "the end of 'a ship'"),
        (NGram(((6, 1),), 1), "a-ship", "the first piece of 'a ship'"),
        (TokenClass("newline"), "newline", "a new line"),
        (TokenClass("digit", -1), "after-digit", "the token after a number"),
        (PositionRange(1, 1), "position-1", "tokens at positions 1 to 1"),
        (PositionRange(1, 3), "positions-1-3", "tokens at positions 1 to 3"),
        (PositionRange(9), "from-position-9", "tokens from position 9 on"),
        (Repetition(), "repeated", "a piece that has occurred before in the document"),
        (TopicWords((1,)), "topic-ship", "documents that hold 'ship'"),
        (TopicWords((1,), 2), "topic-ship", "documents that hold at least 2 times 'ship'"),
        (TextLanguage("es"), "Spanish text", "text in Spanish"),
        (TextLanguage("code"), "program code", "program code"),
        (SEA, "sea", "documents with the concept sea"),
        (ConceptRule("digit", "token"), "digit", "tokens with the concept digit"),
        (PromotedTokens((2,)), "says-wave", "the token before 'wave'"),
        (Both(TokenSet((3,)), SEA), "period-with-sea", "'.', and only " + describe(SEA, VOCAB)),
        (Either(TokenSet((3,)), Repetition()), "period-or-repeated", None),
    ],
)
def test_every_kind_of_rule_has_a_name_and_a_sentence(
    rule: Rule, name: str, text: str | None
) -> None:
    assert short_name(rule, VOCAB) == name
    assert text is None or describe(rule, VOCAB) == text


def test_a_long_list_is_cut_with_its_length() -> None:
    vocab = Vocab(tuple(f" w{i}" for i in range(20)), (True,) * 20)
    assert describe(TokenSet(tuple(range(9))), vocab).endswith("'w5' and 3 more")


@settings(deadline=None)
@given(st.text(max_size=60))
def test_a_slug_can_be_typed_and_is_never_a_bare_number(words: str) -> None:
    slug = slugify(words)
    assert slug
    assert re.fullmatch(r"[^\s=/]+", slug)
    assert not slug.isdecimal()
    assert len(slug) <= 48
    assert slugify(slug) == slug


@settings(deadline=None)
@given(st.lists(st.sampled_from(("sea", "sea-2", "ship", "a")), max_size=12))
def test_slugs_are_unique_and_the_first_comer_keeps_the_bare_name(bases: list[str]) -> None:
    slugs = unique_slugs(bases, {"ship"})
    assert len(set(slugs)) == len(slugs) == len(bases)
    assert "ship" not in slugs
    for base, slug in zip(bases, slugs, strict=True):
        assert slug.startswith(base)
    if "sea" in bases:
        assert slugs[bases.index("sea")] == "sea"


def test_numbers_count_up_per_name() -> None:
    assert unique_slugs(["sea", "sea", "sea"], set()) == ["sea", "sea-2", "sea-3"]
