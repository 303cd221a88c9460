"""Which derivations could have written a text: roles, templates, and the filling of every slot.

The structure only. Whether the fillings agree with one another is the judge's business, so a story
whose pronouns contradict each other still has a derivation here.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt

from microworld.categories import Category, categories
from microworld.world import Slot, hiddens, plans, role_parts

__all__ = ["Derivation", "Filling", "Found", "Sentence", "derivations", "sentences_at"]

Log = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Filling:
    """What one filling, or one sum of fillings, says: log-probabilities in nats."""

    scalar: float
    """Where no hidden attribute governs the slot."""
    factors: tuple[tuple[str, Log, Log], ...]
    """(hidden attribute, log P(filling | each value), the same smoothed so that none is -inf)."""


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """A filled slot: where it starts, and what its filling says."""

    start: int
    filling: Filling


@dataclass(frozen=True, slots=True, eq=False)
class Sentence:
    """One sentence of a derivation, finished or cut short by the end of the text."""

    role: str
    half: int
    start: int
    end: int
    slots: tuple[Found, ...]
    log_weight: float
    """Minus the log of the number of templates that the role has."""


@dataclass(frozen=True, slots=True, eq=False)
class Derivation:
    """Sentences that spell the text, and the plans that could go on (or stop) like this."""

    plans: tuple[int, ...]
    sentences: tuple[Sentence, ...]
    is_complete: bool
    """The text is the whole document, and not only the beginning of one."""
    plan_logs: Log | None = None
    """Log-factor of every plan, where the derivation itself does not rule plans out."""


SMOOTHING = 0.01
"""Share of a slot's filling that is drawn from all of its category's words, when smoothed."""


def _log(values: Log) -> Log:
    with np.errstate(divide="ignore"):
        return np.log(values)


def _factor(hidden: str, chances: Log, words: int) -> tuple[str, Log, Log]:
    smooth = (1 - SMOOTHING) * chances + SMOOTHING / words
    return hidden, _log(chances), _log(smooth)


@cache
def chances(name: str) -> Mapping[str, tuple[Log, int | None]]:
    """Filling -> (P(filling's lexeme | each value), index of the tense it shows or None)."""
    category = categories()[name]
    values = hiddens()[category.hidden].values if category.hidden else ("",)
    found: dict[str, tuple[Log, int | None]] = {}
    for number, value in enumerate(values):
        words = category.words[value]
        for word in words:
            forms: Iterable[tuple[str, int | None]] = (
                zip(word.split("/"), (0, 1), strict=True) if category.inflected else ((word, None),)
            )
            for form, tense in forms:
                shares = found.setdefault(form, (np.zeros(len(values)), tense))[0]
                shares[number] += 1 / len(words)
    return found


def _filling(category: Category, forms: Iterable[str]) -> Iterator[Filling]:
    """The sum over `forms`, apart for each tense: within one, the attributes are independent."""
    known = chances(category.name)
    sums: dict[int | None, Log] = {}
    for form in forms:
        shares, tense = known[form]
        sums[tense] = sums[tense] + shares if tense in sums else shares
    words = len(known)
    for tense, shares in sums.items():
        if category.hidden is None:
            yield Filling(float(np.log(shares[0])), ())
            continue
        factors = [_factor(category.hidden, shares, words)]
        if tense is not None:
            factors.append(_factor("tense", np.eye(2)[tense], 2))
        yield Filling(0.0, tuple(factors))


@cache
def fillings(name: str) -> Mapping[str, Filling]:
    """Every whole filling of a category, with what it says."""
    category = categories()[name]
    return {form: next(_filling(category, [form])) for form in chances(name)}


@lru_cache(maxsize=4096)
def _begun(name: str, beginning: str) -> tuple[Filling, ...]:
    longer = [w for w in chances(name) if w.startswith(beginning) and w != beginning]
    return tuple(_filling(categories()[name], longer)) if longer else ()


def _pattern(name: str) -> str:
    words = list(chances(name))
    for shape in (r"\w+", r"\w+ \w+"):
        if all(re.fullmatch(shape, word) for word in words):
            return shape
    if all(len(word) == 1 for word in words):
        return "[" + re.escape("".join(words)) + "]"
    return r"[^.:?\n]+?"


@cache
def _compiled(role: str) -> tuple[tuple[re.Pattern[str], tuple[str, ...]], ...]:
    compiled = []
    for parts in role_parts()[role]:
        groups: dict[str, int] = {}
        names: list[str] = []
        source = ""
        for part in parts:
            if isinstance(part, str):
                source += re.escape(part)
            elif part.alias in groups:
                source += rf"(?:\{groups[part.alias]})"
            else:
                groups[part.alias] = len(groups) + 1
                names.append(part.category)
                source += f"({_pattern(part.category)})"
        compiled.append((re.compile(source), tuple(names)))
    return tuple(compiled)


@cache
def longest(role: str) -> int:
    """Characters in the longest sentence of a role."""
    widths = (
        sum(len(p) if isinstance(p, str) else max(map(len, chances(p.category))) for p in parts)
        for parts in role_parts()[role]
    )
    return max(widths)


def sentences_at(role: str, half: int, text: str, start: int) -> Iterator[Sentence]:
    """Finished sentences of `role` that begin at `start`."""
    compiled = _compiled(role)
    for pattern, names in compiled:
        match = pattern.match(text, start)
        if match is None:
            continue
        found = []
        for group, name in enumerate(names, 1):
            filling = fillings(name).get(match[group])
            if filling is None:
                break
            found.append(Found(match.start(group), _in_half(filling, half)))
        else:
            yield Sentence(
                role, half, start, match.end(), tuple(found), -float(np.log(len(compiled)))
            )


@lru_cache(maxsize=8192)
def _in_half(filling: Filling, half: int) -> Filling:
    if not half or not any(hidden == "scene" for hidden, _, _ in filling.factors):
        return filling
    renamed = tuple(
        ("scene2" if hidden == "scene" else hidden, exact, smooth)
        for hidden, exact, smooth in filling.factors
    )
    return Filling(filling.scalar, renamed)


def beginnings_at(role: str, half: int, text: str, start: int) -> Iterator[Sentence]:
    """Unfinished sentences of `role` that begin at `start` and run into the end of the text."""
    if len(text) - start > longest(role):
        return
    every = role_parts()[role]
    weight = -float(np.log(len(every)))
    for parts in every:
        for found in _walk(parts, half, text, start, {}):
            yield Sentence(role, half, start, len(text), tuple(found), weight)


def _walk(
    parts: tuple[str | Slot, ...], half: int, text: str, at: int, filled: dict[str, str]
) -> Iterator[list[Found]]:
    """Slots found when `text[at:]` is a proper beginning of `parts`."""
    if not parts:
        return
    head, rest = parts[0], parts[1:]
    literal = head if isinstance(head, str) else filled.get(head.alias)
    left = len(text) - at
    if literal is not None:
        if len(literal) > left:
            if literal.startswith(text[at:]):
                yield []
        elif text.startswith(literal, at):
            yield from _walk(rest, half, text, at + len(literal), filled)
        return
    if not isinstance(head, Slot):
        raise TypeError(f"{head!r} is neither a literal nor a slot")
    if not left:
        yield []
        return
    for filling in _begun(head.category, text[at:]):
        yield [Found(at, _in_half(filling, half))]
    for word, filling in fillings(head.category).items():
        if text.startswith(word, at):
            here = Found(at, _in_half(filling, half))
            for found in _walk(rest, half, text, at + len(word), {**filled, head.alias: word}):
                yield [here, *found]


def derivations(text: str) -> list[Derivation]:
    """Every derivation of which the text is the whole or the beginning; [] where there is none."""
    found: list[Derivation] = []
    _extend(text, 0, tuple(range(len(plans()))), (), found)
    return found


def _extend(
    text: str,
    at: int,
    alive: tuple[int, ...],
    before: tuple[Sentence, ...],
    found: list[Derivation],
) -> None:
    if at == len(text):
        found.append(Derivation(alive, before, is_complete=False))
        return
    every, step = plans(), len(before)
    groups: dict[tuple[str, int, str], list[int]] = defaultdict(list)
    for plan in alive:
        groups[(*every[plan].steps[step], every[plan].separator)].append(plan)
    for (role, half, separator), members in groups.items():
        for sentence in sentences_at(role, half, text, at):
            so_far = (*before, sentence)
            ended = tuple(p for p in members if len(every[p].steps) == step + 1)
            going = tuple(p for p in members if len(every[p].steps) > step + 1)
            if sentence.end == len(text):
                if ended:
                    found.append(Derivation(ended, so_far, is_complete=True))
                if going:
                    found.append(Derivation(going, so_far, is_complete=False))
            elif going and text.startswith(separator, sentence.end):
                _extend(text, sentence.end + len(separator), going, so_far, found)
        for begun in beginnings_at(role, half, text, at):
            found.append(Derivation(tuple(members), (*before, begun), is_complete=False))
