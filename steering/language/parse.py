"""A line of text to a program, with errors that point at the character."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from typing import Any, cast

from lark import Lark, Token, Transformer, UnexpectedInput
from lark.exceptions import UnexpectedCharacters, UnexpectedToken, VisitError

from steering.direction import Unit
from steering.errors import LanguageError, PositionError, SteeringError
from steering.gate import Over
from steering.language.syntax import (
    Amount,
    Bound,
    Budget,
    Condition,
    Every,
    Exceeds,
    Group,
    Hold,
    Keep,
    Multiply,
    No,
    Off,
    Operation,
    Price,
    Program,
    Push,
    Said,
    Some,
    Statement,
    Swap,
    Term,
    Turn,
    Where,
    Without,
)
from steering.positions import (
    ALWAYS,
    EVERYWHERE,
    Decay,
    Everywhere,
    Except,
    FirstN,
    Generation,
    Places,
    Prompt,
    Schedule,
    Tokens,
    WarmUp,
    Window,
)

EXAMPLE = "sea:+0.5norm@generation & sad:set 0 when story>0.3"


def parse(line: str) -> Program:
    """The program that a line says.

    Raises:
        LanguageError: the line cannot be read; the message names the character.
        SteeringError: it can, and asks for something that cannot be, such as an empty window.
    """
    if not line.strip():
        raise LanguageError(f"an empty line; expected statements; write for example {EXAMPLE}")
    try:
        return cast(Program, _Reader().transform(_parser().parse(line)))
    except UnexpectedInput as error:
        raise LanguageError(_where(line, error)) from None
    except VisitError as error:
        if isinstance(error.orig_exc, SteeringError):
            raise error.orig_exc from None
        raise
    except RecursionError:
        raise LanguageError(
            f"a line of {len(line)} characters, nested too deep to read; expected conditions "
            "within a few brackets; join them by & and |"
        ) from None


@cache
def _parser() -> Lark:
    grammar = resources.files("steering.language").joinpath("grammar.lark")
    return Lark(grammar.read_text(encoding="utf-8"), parser="lalr", maybe_placeholders=False)


_WORDS = {
    "NAME": "a name", "QUOTED": "a quoted name", "NUMBER": "a number", "UNIT": "a unit",
    "PLUS": "+", "MINUS": "-", "TILDE": "~", "AND": "&", "NOT": "!", "LPAR": "(", "RPAR": ")",
    "COLON": ":", "AT": "@", "STAR": "*", "COMMA": ",", "VBAR": "|", "DOTS": "..",
    "ABOVE_OR_BELOW": "> or <", "PRICE": "dce or kl", "BOUND": "set, min or max",
    "SPAN": "everywhere, prompt or generation", "TIME": "first, decay or warmup",
    "OVER": "token, mean, max or last", "_NEXT": "another statement", "_KEEP": "keep norm",
    "_SPECIAL": "+special", "PROMPT_ONLY": "+prompt_only", "$END": "the end",
}  # fmt: skip


def _where(line: str, error: UnexpectedInput) -> str:
    """Which character cannot stand there, and what can."""
    place: int
    wanted: set[str]
    match error:
        case UnexpectedToken(token=token, accepts=accepts, expected=expected):
            place = len(line) if token.type == "$END" else int(token.start_pos or 0)
            wanted = set(accepts or expected)
        case UnexpectedCharacters(pos_in_stream=found, allowed=allowed):
            place, wanted = found or 0, set(allowed or ())
        case _:
            place, wanted = int(error.pos_in_stream or 0), set()
    place = len(line) if place < 0 else place
    shown = f"{line[place]!r}" if place < len(line) else "the end of the line"
    likely = sorted({_WORDS.get(name, name.lower().strip("_")) for name in wanted})
    return (
        f"character {place + 1} of {line!r}: found {shown}; expected "
        f"{' or '.join(likely) or 'something else'}; write for example {EXAMPLE}"
    )


class _Reader(Transformer[Token, Any]):
    """The values that the parts of a line stand for, from the inside out."""

    def start(self, lines: list[Any]) -> Program:
        return tuple(lines)

    def statement(self, parts: list[Any]) -> Statement:
        target, does, *rest = parts
        return Statement(
            cast(Group, target),
            cast(Operation, does),
            _first(rest, _WHERE, EVERYWHERE),
            _first(rest, _SCHEDULE, ALWAYS),
            _first(rest, _CONDITION, None),
        )

    def keep(self, parts: list[Any]) -> Keep:
        return Keep(
            _first(parts, float, None),
            _first(parts, _WHERE, EVERYWHERE),
            _first(parts, _CONDITION, None),
        )

    def target(self, parts: list[Any]) -> Group:
        terms: list[Term] = []
        sign = 1.0
        for part in parts:
            if isinstance(part, Term):
                terms.append(Term(part.name, sign * part.weight))
            else:
                sign = part
        return tuple(terms)

    def signed(self, parts: list[Any]) -> Term:
        term: Term = parts[-1]
        return Term(term.name, (parts[0] if len(parts) > 1 else 1.0) * term.weight)

    def term(self, parts: list[Any]) -> Term:
        return Term(parts[-1], parts[0] if len(parts) > 1 else 1.0)

    def sign(self, parts: list[Token]) -> float:
        return -1.0 if parts[0] == "-" else 1.0

    def name(self, parts: list[Token]) -> str:
        return _unquoted(parts[0]) if parts[0].type == "QUOTED" else str(parts[0])

    def push(self, parts: list[Any]) -> Push:
        sign, by = -1.0 if parts[0] == "-" else 1.0, parts[1]
        if isinstance(by, Budget):
            return Push(Budget(by.price, sign * by.nats))
        return Push(Amount(sign * by[0], by[1] or "norm"))

    def budget(self, parts: list[Any]) -> Budget:
        return Budget(cast(Price, str(parts[0])), parts[1])

    def hold(self, parts: list[Any]) -> Hold:
        return Hold(cast(Bound, str(parts[0])), parts[1])

    def multiply(self, parts: list[Any]) -> Multiply:
        return Multiply(parts[0])

    def off(self, parts: list[Any]) -> Off:
        return Off(*parts)

    def without(self, _parts: list[Any]) -> Without:
        return Without()

    def turn(self, parts: list[Any]) -> Turn:
        return Turn(parts[-1], parts[0] if len(parts) > 1 else None)

    def swap(self, parts: list[Any]) -> Swap:
        return Swap(*parts)

    def amount(self, parts: list[Any]) -> tuple[float, Unit | None]:
        return parts[0], _unit(parts[1:])

    def signed_amount(self, parts: list[Any]) -> Amount:
        numbers = [part for part in parts if isinstance(part, float)]
        number = numbers[-1] * (numbers[0] if len(numbers) > 1 else 1.0)
        return Amount(number, _unit(parts[len(numbers) :]) or "max_act")

    def signed_number(self, parts: list[float]) -> float:
        return parts[-1] * (parts[0] if len(parts) > 1 else 1.0)

    def number(self, parts: list[Token]) -> float:
        return float(parts[0])

    def where(self, parts: list[Any]) -> Where:
        is_negated = isinstance(parts[0], Token)
        has_special = isinstance(parts[-1], _Special)
        place = next(part for part in parts if not isinstance(part, Token | _Special))
        return _chosen(place, is_negated=is_negated, has_special=has_special)

    def special(self, _parts: list[Any]) -> _Special:
        return _Special()

    def span(self, parts: list[Token]) -> str:
        return str(parts[0])

    def places(self, parts: list[Any]) -> tuple[int | Token, ...]:
        return tuple(parts)

    def window(self, parts: list[Any]) -> _Range:
        dots = next(i for i, part in enumerate(parts) if isinstance(part, Token))
        return _Range(*parts[:dots] or [None], *parts[dots + 1 :] or [None])

    def tokens(self, parts: list[Any]) -> Said | list[int]:
        if isinstance(parts[0], Token):
            return Said(_unquoted(parts[0]))
        return list(parts)

    def integer(self, parts: list[Token]) -> int:
        if not parts[-1].isdecimal():
            raise PositionError(
                f"place {parts[-1]} at character {(parts[-1].start_pos or 0) + 1}; expected a "
                "whole number; count tokens from 0, or from the end of the prompt with a minus"
            )
        return -int(parts[-1]) if len(parts) > 1 else int(parts[-1])

    def schedule(self, parts: list[Any]) -> Schedule:
        kind, number = parts
        if kind == "decay":
            return Decay(number)
        whole = int(number)
        if whole != number:
            raise PositionError(
                f"{kind} {number:g}; expected a whole number of generated tokens; round it"
            )
        return FirstN(whole) if kind == "first" else WarmUp(whole)

    def when(self, parts: list[Condition]) -> Condition:
        return parts[0]

    def some(self, parts: list[Condition]) -> Condition:
        return parts[0] if len(parts) == 1 else Some(tuple(parts))

    def every(self, parts: list[Any]) -> Condition:
        held = tuple(part for part in parts if not isinstance(part, Token))
        return held[0] if len(held) == 1 else Every(held)

    def inverse(self, parts: list[Any]) -> Condition:
        return No(parts[-1])

    def comparison(self, parts: list[Any]) -> Condition:
        over, target = parts[0]
        amount = parts[2] if len(parts) > 1 else Amount(0.0, "max_act")
        exceeds = Exceeds(target, amount, over)
        return No(exceeds) if len(parts) > 1 and parts[1] == "<" else exceeds

    def reading(self, parts: list[Any]) -> tuple[Over, Group]:
        if len(parts) == 1:
            return "token", parts[0]
        return cast(Over, str(parts[0])), parts[1]

    def target_name(self, parts: list[str]) -> Group:
        return (Term(parts[0]),)


class _Special:
    """That special tokens and position 0 are meant too."""


class _Range:
    """Two places with two dots between them; either may be missing."""

    def __init__(self, start: int | None, stop: int | None) -> None:
        self.start, self.stop = start, stop


_WHERE = (Everywhere, Prompt, Generation, Places, Window, Tokens, Except, Said)
_SCHEDULE = (FirstN, Decay, WarmUp)
_CONDITION = (Exceeds, No, Every, Some)


def _first(parts: list[Any], kinds: Any, default: Any) -> Any:
    """The one part of these kinds, if the line has it."""
    return next((part for part in parts if isinstance(part, kinds)), default)


def _unquoted(token: Token) -> str:
    return re.sub(r"\\(.)", r"\1", token[1:-1])


def _unit(parts: list[Any]) -> Unit | None:
    if not parts:
        return None
    return "max_act" if parts[0] == "max" else cast(Unit, str(parts[0]))


def _chosen(place: Any, *, is_negated: bool, has_special: bool) -> Where:
    match place:
        case Said():
            if is_negated or has_special:
                raise PositionError(
                    f"tokens('{place.text}') with ! or +special; expected the text alone; "
                    "give token ids instead"
                )
            return place
        case "everywhere":
            chosen: Any = Everywhere(has_special)
        case "prompt":
            chosen = Prompt(has_special)
        case "generation":
            chosen = Generation(has_special)
        case tuple():
            numbers = tuple(number for number in place if isinstance(number, int))
            chosen = Places(numbers, len(numbers) < len(place), has_special or is_negated)
        case list():
            chosen = Tokens(tuple(place), has_special or is_negated)
        case _Range(start=start, stop=stop):
            chosen = Window(0 if start is None else start, stop, has_special)
        case _:
            raise AssertionError(place)
    return Except(chosen, has_special) if is_negated else chosen
