"""Rules as JSON: what the store keeps of them, and the way back."""

from __future__ import annotations

from typing import Any

from features.errors import LabelError
from features.language_names import LANGUAGES
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
from features.vocab import PIECE_CLASSES

_KINDS: dict[str, type[Rule]] = {
    "token_set": TokenSet,
    "ngram": NGram,
    "token_class": TokenClass,
    "position": PositionRange,
    "repetition": Repetition,
    "topic_words": TopicWords,
    "language": TextLanguage,
    "concept": ConceptRule,
    "promoted_tokens": PromotedTokens,
    "both": Both,
    "either": Either,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}


def kind_of(rule: Rule) -> str:
    """The rule's kind as the store writes it, for example `token_set`."""
    return _NAMES[type(rule)]


def to_json(rule: Rule) -> dict[str, Any]:
    """The rule as plain JSON values; `from_json` is its inverse."""
    values = {name: getattr(rule, name) for name in type(rule).__dataclass_fields__}
    plain = {
        name: to_json(value) if isinstance(value, Rule) else _lists(value)
        for name, value in values.items()
    }
    return {"kind": kind_of(rule), **plain}


def from_json(data: dict[str, Any]) -> Rule:
    """The rule that `to_json` wrote.

    Raises:
        LabelError: the kind or a field is unknown.
    """
    given = dict(data)
    kind = _KINDS.get(given.pop("kind", ""))
    if kind is None or set(given) != set(kind.__dataclass_fields__):
        raise LabelError(
            f"{data!r} is no rule; expected a kind of {', '.join(_KINDS)} with its fields; "
            "label again with `dvc repro label`"
        )
    values: dict[str, Any] = {
        name: from_json(value) if isinstance(value, dict) else _tuples(value)
        for name, value in given.items()
    }
    if kind is TokenClass and values["piece_class"] not in PIECE_CLASSES:
        raise LabelError(
            f"{values['piece_class']!r} is no class of pieces; expected one of "
            f"{', '.join(PIECE_CLASSES)}; correct the rule"
        )
    if kind is TextLanguage and values["language"] not in LANGUAGES:
        raise LabelError(
            f"{values['language']!r} is no language of a text; expected a code of ISO 639 such as "
            "es, or code; correct the rule"
        )
    rule: Rule = kind(**values)
    return rule


def _lists(value: Any) -> Any:
    return [_lists(item) for item in value] if isinstance(value, tuple) else value


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
