"""Programs as plain values for JSON and YAML, back again, and the hash of what they say."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from types import UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from steering import positions
from steering.errors import LanguageError, SteeringError
from steering.language import syntax
from steering.language.syntax import Keep, Program, Statement

_KINDS: Mapping[str, type] = {
    kind.__name__: kind
    for kind in (
        *(syntax.Statement, syntax.Keep, syntax.Term, syntax.Amount, syntax.Budget),
        *(syntax.Push, syntax.Hold, syntax.Multiply, syntax.Off, syntax.Without),
        *(syntax.Turn, syntax.Swap, syntax.Said),
        *(syntax.Exceeds, syntax.No, syntax.Every, syntax.Some),
        *(positions.Everywhere, positions.Prompt, positions.Generation, positions.Places),
        *(positions.Window, positions.Tokens, positions.Except),
        *(positions.Constant, positions.FirstN, positions.Decay, positions.WarmUp),
    )
}


MOST_NESTED = 64
"""Values within values, of which a gate is made of gates."""


def to_plain(program: Program) -> list[dict[str, Any]]:
    """The program as lists, dictionaries, numbers and strings, for `json` or `yaml`."""
    return [cast(dict[str, Any], _plain(part)) for part in program]


def from_plain(data: Any) -> Program:
    """The program that `to_plain` gave.

    Raises:
        LanguageError: the data is of another form; the message names the field.
        SteeringError: it asks for something that cannot be.
    """
    if not isinstance(data, list) or not data:
        raise LanguageError(
            f"a program of type {type(data).__name__}; expected a list of statements; "
            "write it with to_plain"
        )
    parts = tuple(_value(item, f"[{number}]", 0) for number, item in enumerate(data))
    for number, part in enumerate(parts):
        if not isinstance(part, Statement | Keep):
            raise LanguageError(
                f"field [{number}] is a {type(part).__name__}; expected Statement or Keep; "
                "write it with to_plain"
            )
    return cast(Program, parts)


def content_hash(program: Program) -> str:
    """The sha256, in hex, of what the program says, however it was spelled."""
    said = json.dumps(to_plain(program), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(said.encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if dataclasses.is_dataclass(value):
        fields = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"kind": type(value).__name__, **fields}
    return value


def _value(data: Any, field: str, depth: int) -> Any:
    if depth > MOST_NESTED:
        raise LanguageError(
            f"field {field[:80]}... lies in {depth} others; expected at most {MOST_NESTED}; join "
            "conditions by & and | instead of nesting them"
        )
    if isinstance(data, list):
        items = enumerate(data)
        return tuple(_value(item, f"{field}[{number}]", depth + 1) for number, item in items)
    if not isinstance(data, dict):
        return data
    kind = _KINDS.get(str(data.get("kind")))
    if kind is None:
        raise LanguageError(
            f"field {field} is of kind {data.get('kind')!r}; expected one of "
            f"{', '.join(sorted(_KINDS))}; correct it"
        )
    known = {f.name for f in dataclasses.fields(kind)}
    if unknown := sorted(set(data) - known - {"kind"}):
        raise LanguageError(
            f"field {field} has {unknown}; expected only {sorted(known)}; correct it"
        )
    given = {
        name: _value(item, f"{field}.{name}", depth + 1)
        for name, item in data.items()
        if name != "kind"
    }
    checked = _checked(kind, given, field)
    try:
        return kind(**checked)
    except TypeError as error:
        raise LanguageError(
            f"field {field} does not read as {kind.__name__} ({error}); expected its fields "
            f"{sorted(known)} of their types; correct it"
        ) from error
    except SteeringError as error:
        raise type(error)(f"field {field}: {error}") from error


def _checked(kind: type, given: Mapping[str, Any], field: str) -> dict[str, Any]:
    """The fields, with whole numbers as floats where those are meant, and no value astray."""
    hints = get_type_hints(kind)
    made = {}
    for name, item in given.items():
        is_whole = isinstance(item, int) and not isinstance(item, bool)
        value = float(item) if is_whole and not _may_hold(hints[name], int) else item
        if not _may_hold(hints[name], type(value)):
            wanted = getattr(hints[name], "__name__", str(hints[name]))
            raise LanguageError(f"field {field}.{name} is {item!r}; expected {wanted}; correct it")
        made[name] = value
    return made


def _may_hold(hint: Any, kind: type) -> bool:
    """Whether a field of this annotation may hold a value of the type; tuples check their own."""
    if get_origin(hint) in {Union, UnionType}:
        return any(_may_hold(part, kind) for part in get_args(hint))
    if get_origin(hint) is Literal:
        return kind is str
    return kind is (get_origin(hint) or hint)
