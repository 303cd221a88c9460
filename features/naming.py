"""Names for rules: a sentence to read, a few words to say, and slugs that are unique.

Everything comes from the rule and the vocabulary by template, so equal rules get equal
words.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import assert_never

from features.language_names import CODE, LANGUAGES
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
from features.vocab import PieceClass, Vocab

_LONGEST_SLUG = 40
UNNAMED = "unnamed"
"""The slug of what has no letter and no mark with a name."""
_MARKS = {
    ".": "period", ",": "comma", "!": "exclamation", "?": "question", ":": "colon",
    ";": "semicolon", "'": "apostrophe", '"': "quote", "(": "bracket", ")": "bracket-close",
    "[": "square", "]": "square-close", "{": "brace", "}": "brace-close", "-": "dash",
    "_": "underscore", "=": "equals", "+": "plus", "*": "star", "/": "slash", "<": "less",
    ">": "greater", "#": "hash", "@": "at", "%": "percent", "&": "ampersand", "$": "dollar",
    "|": "bar", "\\": "backslash", "~": "tilde", "^": "caret", "`": "backtick",
}  # fmt: skip
_CLASS_WORDS: dict[PieceClass, str] = {
    "digit": "a number",
    "capital": "a piece with a capital letter",
    "punctuation": "punctuation",
    "code_mark": "a mark of code",
    "newline": "a new line",
    "word_start": "the start of a word",
    "word_middle": "the inside of a word",
    "letters": "letters",
    "other_letters": "letters that English has not",
}


def describe(rule: Rule, vocab: Vocab) -> str:  # noqa: PLR0911, PLR0912  (one return a variant)
    """The rule as the end of the sentence 'fires on …'."""
    match rule:
        case TokenSet(token_ids, offset):
            return f"{_place(offset)}{_listed(token_ids, vocab)}"
        case NGram(patterns, ahead):
            runs = [" ".join(vocab.word(piece) for piece in run) for run in patterns]
            end = "the first piece of" if ahead else "the end of"
            return f"{end} {_quoted(runs)}"
        case TokenClass(piece_class, offset):
            return f"{_place(offset)}{_CLASS_WORDS[piece_class]}"
        case PositionRange(first, None):
            return f"tokens from position {first} on"
        case PositionRange(first, last):
            return f"tokens at positions {first} to {last}"
        case Repetition():
            return "a piece that has occurred before in the document"
        case TopicWords(token_ids, at_least):
            times = "" if at_least == 1 else f"at least {at_least} times "
            return f"documents that hold {times}{_listed(token_ids, vocab)}"
        case TextLanguage(language):
            return LANGUAGES[language] if language == CODE else f"text in {LANGUAGES[language]}"
        case ConceptRule(name, "document"):
            return f"documents with the concept {name}"
        case ConceptRule(name, _):
            return f"tokens with the concept {name}"
        case PromotedTokens(token_ids):
            return f"the token before {_listed(token_ids, vocab)}"
        case Both(left, right):
            return f"{describe(left, vocab)}, and only {describe(right, vocab)}"
        case Either(left, right):
            return f"{describe(left, vocab)}, or {describe(right, vocab)}"
        case _:
            assert_never(rule)


def short_name(rule: Rule, vocab: Vocab) -> str:  # noqa: PLR0911, PLR0912  (one return a variant)
    """A few words that can be said, the base of the slug."""
    match rule:
        case TokenSet(token_ids, offset):
            words = "-".join(_words(token_ids, vocab, 2))
            return {0: words, 1: f"before-{words}", -1: f"after-{words}"}.get(
                offset, f"near-{words}"
            )
        case NGram(patterns):
            return "-".join(_in_order(patterns[0], vocab, 3))
        case TokenClass(piece_class, offset):
            return f"{'after-' if offset else ''}{piece_class.replace('_', '-')}"
        case PositionRange(first, None):
            return f"from-position-{first}"
        case PositionRange(first, last):
            return f"position-{first}" if first == last else f"positions-{first}-{last}"
        case Repetition():
            return "repeated"
        case TopicWords(token_ids):
            return f"topic-{'-'.join(_words(token_ids, vocab, 2))}"
        case TextLanguage(language):
            return LANGUAGES[language] if language == CODE else f"{LANGUAGES[language]} text"
        case ConceptRule(name):
            return name
        case PromotedTokens(token_ids):
            return f"says-{'-'.join(_words(token_ids, vocab, 2))}"
        case Both(left, right):
            return f"{short_name(left, vocab)}-with-{short_name(right, vocab)}"
        case Either(left, right):
            return f"{short_name(left, vocab)}-or-{short_name(right, vocab)}"
        case _:
            assert_never(rule)


@lru_cache(maxsize=65_536)
def slugify(words: str) -> str:
    """Lower case, letters and digits of any script joined by dashes; never a bare number."""
    spelled = "".join(f"-{_MARKS[c]}-" if c in _MARKS and c not in "-_" else c for c in words)
    slug = re.sub(r"[^\w]+", "-", spelled.lower()).strip("-")[:_LONGEST_SLUG].strip("-")
    if not slug:
        return UNNAMED
    return f"number-{slug}" if re.fullmatch(r"[\d-]+", slug) else slug


def unique_slugs(bases: Sequence[str], reserved: Collection[str]) -> list[str]:
    """Each base once as it is, then with -2, -3 …, first come first served.

    A base in `reserved` is never given bare.
    """
    taken = set(reserved)
    next_number: dict[str, int] = {}
    slugs = []
    for base in bases:
        slug = base
        while slug in taken:
            next_number[base] = next_number.get(base, 1) + 1
            slug = f"{base}-{next_number[base]}"
        taken.add(slug)
        slugs.append(slug)
    return slugs


def _words(token_ids: Sequence[int], vocab: Vocab, most: int) -> list[str]:
    """The first distinct words of the pieces, whole words first, marks spelled out."""
    words_first = sorted(token_ids, key=lambda piece: not vocab.is_wordlike(piece))
    return _in_order(words_first, vocab, most)


def _in_order(token_ids: Sequence[int], vocab: Vocab, most: int) -> list[str]:
    """The first distinct words of the pieces; what has no name is left out if anything has."""
    words: dict[str, None] = {}
    for piece in token_ids:
        word = vocab.word(piece)
        words[slugify(_MARKS.get(word, word))] = None
        if len(words.keys() - {UNNAMED}) == most:
            break
    return [word for word in words if word != UNNAMED] or [f"piece-{token_ids[0]}"]


def _listed(token_ids: Sequence[int], vocab: Vocab) -> str:
    return _quoted([vocab.word(piece) for piece in token_ids])


def _quoted(words: Sequence[str]) -> str:
    shown = ", ".join(f"'{word}'" for word in list(dict.fromkeys(words))[:6])
    more = len(dict.fromkeys(words)) - 6
    return f"{shown} and {more} more" if more > 0 else shown


def _place(offset: int) -> str:
    names = {0: "", -1: "the token after ", 1: "the token before "}
    return names.get(offset, f"the token {abs(offset)} after ")
