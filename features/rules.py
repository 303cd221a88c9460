"""Labels that can be executed: each rule says on which tokens a feature should fire.

A closed union of small frozen values. A rule is data; what it means lies in `fires`, how
long it is in `complexity`, and how it is written in features/rule_json.py. Rules know tokens
and concepts, never activations.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log2
from typing import Literal, assert_never

import numpy as np
from jaxtyping import Bool, Int

from features.errors import LabelError
from features.rows import Rows
from features.vocab import PieceClass

Level = Literal["document", "token"]


@dataclass(frozen=True, slots=True)
class TokenSet:
    """The piece at `offset` is one of these; the commonest comes first."""

    token_ids: tuple[int, ...]
    offset: int = 0
    """0 the token itself, −1 the one before it, +1 the one after."""


@dataclass(frozen=True, slots=True)
class NGram:
    """A run of pieces that ends `ahead` places after the token is one of these."""

    patterns: tuple[tuple[int, ...], ...]
    ahead: int = 0
    """0: left context, the run ends at the token; 1: it takes in the next token."""


@dataclass(frozen=True, slots=True)
class TokenClass:
    """The piece at `offset` belongs to a class."""

    piece_class: PieceClass
    offset: int = 0


@dataclass(frozen=True, slots=True)
class PositionRange:
    """The token's place in its document lies in [first, last]; no last: to the end."""

    first: int
    last: int | None = None


@dataclass(frozen=True, slots=True)
class Repetition:
    """The piece has occurred earlier in the document."""


@dataclass(frozen=True, slots=True)
class TopicWords:
    """The document holds at least so many of these pieces."""

    token_ids: tuple[int, ...]
    at_least: int = 1


@dataclass(frozen=True, slots=True)
class TextLanguage:
    """The whole document is in one language."""

    language: str
    """A key of `features.language_names.LANGUAGES`."""


@dataclass(frozen=True, slots=True)
class ConceptRule:
    """A concept of the corpus holds, of the document or of the token."""

    name: str
    level: Level


@dataclass(frozen=True, slots=True)
class PromotedTokens:
    """The next piece is one that the decoder row promotes; a claim about the output."""

    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Both:
    """Two rules hold at once."""

    left: Rule
    right: Rule


@dataclass(frozen=True, slots=True)
class Either:
    """One of two rules holds."""

    left: Rule
    right: Rule


Rule = (
    TokenSet
    | NGram
    | TokenClass
    | PositionRange
    | Repetition
    | TopicWords
    | TextLanguage
    | ConceptRule
    | PromotedTokens
    | Both
    | Either
)


def fires(  # noqa: PLR0911  (one return a variant)
    rule: Rule, rows: Rows
) -> Bool[np.ndarray, " token"]:
    """The tokens on which the rule holds.

    Raises:
        LabelError: the rule names a concept, or asks for a language, that the rows do not carry.
    """
    match rule:
        case TokenSet(token_ids, offset):
            return rows.has_piece(token_ids, offset)
        case NGram(patterns, ahead):
            return rows.ends_run(patterns, ahead)
        case TokenClass(piece_class, offset):
            return rows.has_piece(np.flatnonzero(rows.vocab.classes[piece_class]), offset)
        case PositionRange(first, last):
            return (rows.pos >= first) & (rows.pos <= (rows.pos if last is None else last))
        case Repetition():
            return rows.is_repeated
        case TopicWords(token_ids, at_least):
            held = rows.doc[rows.has_piece(token_ids, 0)]
            enough = np.bincount(held, minlength=rows.n_docs) >= at_least
            return enough.take(rows.doc)
        case TextLanguage(language):
            return rows.is_in_language(language)
        case ConceptRule(name):
            return _concept(rows, name)
        case PromotedTokens(token_ids):
            return rows.has_piece(token_ids, 1)
        case Both(left, right):
            return np.asarray(fires(left, rows) & fires(right, rows))
        case Either(left, right):
            return np.asarray(fires(left, rows) | fires(right, rows))
        case _:
            assert_never(rule)


def _concept(rows: Rows, name: str) -> Bool[np.ndarray, " token"]:
    if name not in rows.concepts:
        raise LabelError(
            f"concept {name!r} is not in this corpus; expected one of "
            f"{', '.join(sorted(rows.concepts)) or 'none'}; label again with `dvc repro label`"
        )
    return rows.concepts[name]


def complexity(rule: Rule) -> float:
    """Elements of a rule: 1 for a plain one; a set of n pieces counts 1 + log2 n."""
    match rule:
        case TokenSet(token_ids) | PromotedTokens(token_ids):
            return 1 + log2(len(token_ids))
        case NGram(patterns):
            return 1 + log2(sum(len(pattern) for pattern in patterns))
        case TopicWords(token_ids, at_least):
            return at_least + log2(len(token_ids))
        case TokenClass() | PositionRange() | Repetition() | TextLanguage() | ConceptRule():
            return 1.0
        case Both(left, right) | Either(left, right):
            return complexity(left) + complexity(right)
        case _:
            assert_never(rule)


def level_of(rule: Rule) -> Level:
    """Whether a rule speaks of whole documents or of tokens."""
    match rule:
        case TopicWords() | TextLanguage():
            return "document"
        case ConceptRule(_, level):
            return level
        case Both(left, right) | Either(left, right):
            both = level_of(left) == level_of(right) == "document"
            return "document" if both else "token"
        case _:
            return "token"


def pieces_of(rule: Rule) -> Int[np.ndarray, " piece"]:
    """Every token id that the rule names, in its order."""
    match rule:
        case TokenSet(token_ids) | TopicWords(token_ids) | PromotedTokens(token_ids):
            return np.array(token_ids, dtype=np.int64)
        case NGram(patterns):
            return np.array([piece for pattern in patterns for piece in pattern], dtype=np.int64)
        case Both(left, right) | Either(left, right):
            return np.concatenate([pieces_of(left), pieces_of(right)])
        case _:
            return np.zeros(0, dtype=np.int64)


def names_concept(rule: Rule) -> bool:
    """Whether a rule leans on the corpus's concepts anywhere."""
    match rule:
        case ConceptRule():
            return True
        case Both(left, right) | Either(left, right):
            return names_concept(left) or names_concept(right)
        case _:
            return False
