"""A reading of any text whatever: sentence by sentence, in any order, word by word at worst."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from functools import cache, lru_cache

import numpy as np

from microworld.categories import categories
from microworld.parse import (
    Derivation,
    Filling,
    Found,
    Log,
    Sentence,
    beginnings_at,
    chances,
    sentences_at,
)
from microworld.world import hiddens, plans, role_parts

__all__ = ["loose_derivation"]

FOREIGN_ROLE = -float(np.log(1000.0))
"""Log-factor of a plan for each judged sentence whose role it has not."""
FOREIGN_CONTEXT = -float(np.log(20.0))
"""The same for a sentence that is context only, and for a word that none of its sentences holds:
weaker, since a continuation may contradict its context."""
VOTES = 8
"""Words of a bag that count towards the kind of document, at most: a loop is no louder."""
BACKGROUND = 0.05
"""Share of a bag's words that is drawn from all of the attribute's words."""
_WORD = re.compile(r"\w+")
_SENTENCE_END = re.compile(r"[.?!](?=\s|$)|\n|$")


@cache
def _roles() -> tuple[str, ...]:
    return tuple(role_parts())


@cache
def _foreign(*roles: str) -> Log:
    """1 for each plan that has none of these roles, else 0."""
    return np.array([float(all(r not in roles for r, _ in plan.steps)) for plan in plans()])


def _begun_roles(text: str) -> tuple[str, ...]:
    """Roles of which some sentence begins like `text`."""
    return tuple(role for role in _roles() if any(beginnings_at(role, 0, text, 0)))


@cache
def _words_of_plans() -> Mapping[str, Log]:
    """Word -> log-factor of each plan: 0 where one of its sentences can hold the word."""
    of_role: dict[str, set[str]] = {}
    for role, sentences in role_parts().items():
        words: set[str] = set()
        for part in (part for parts in sentences for part in parts):
            for text in [part] if isinstance(part, str) else chances(part.category):
                words.update(_WORD.findall(text))
        of_role[role] = words
    bags = [set().union(*(of_role[role] for role, _ in plan.steps)) for plan in plans()]
    return {
        word: np.array([0.0 if word in bag else FOREIGN_CONTEXT for bag in bags])
        for word in sorted(set().union(*bags))
    }


@cache
def _words_of_attributes() -> Mapping[str, tuple[tuple[str, Log], ...]]:
    """Word -> (hidden attribute, log of its smoothed share among each value's words)."""
    counts: dict[str, list[Counter[str]]] = {
        n: [Counter() for _ in h.values] for n, h in hiddens().items()
    }
    for name, category in categories().items():
        for form, (shares, tense) in chances(name).items():
            last = _WORD.findall(form)[-1:]
            if category.hidden is None or not last:
                continue
            for value in np.flatnonzero(shares):
                counts[category.hidden][value][last[0]] += 1
            if tense is not None:
                counts["tense"][tense][last[0]] += 1
    found: dict[str, list[tuple[str, Log]]] = {}
    for hidden, bags in counts.items():
        every = sorted(set().union(*bags))
        totals = [max(1, bag.total()) for bag in bags]
        for word in every:
            shares = np.array([bag[word] / total for bag, total in zip(bags, totals, strict=True)])
            found.setdefault(word, []).append(
                (hidden, np.log((1 - BACKGROUND) * shares + BACKGROUND / len(every)))
            )
    return {word: tuple(pairs) for word, pairs in found.items()}


@lru_cache(maxsize=16384)
def _read(sentence: str, half: int) -> tuple[Sentence, ...]:
    """The longest reading of the beginning of `sentence` by any role, or nothing."""
    readings = [
        reading
        for role in _roles()
        for reading in sentences_at(role, half, sentence, 0)
        if reading.end == len(sentence) or sentence[reading.end] in " \n"
    ]
    return (max(readings, key=lambda reading: reading.end),) if readings else ()


def _moved(sentence: Sentence, by: int) -> Sentence:
    slots = tuple(Found(found.start + by, found.filling) for found in sentence.slots)
    return Sentence(
        sentence.role,
        sentence.half,
        sentence.start + by,
        sentence.end + by,
        slots,
        sentence.log_weight,
    )


def _bag(text: str, at: int, end: int, half: int) -> tuple[Sentence, Log]:
    """(the words of `text[at:end]` as slots, what they say about the plans)."""
    slots: list[Found] = []
    logs = np.zeros(len(plans()))
    for match in _WORD.finditer(text, at, end):
        factors = tuple(
            ("scene2" if half and hidden == "scene" else hidden, log, log)
            for hidden, log in _words_of_attributes().get(match[0], ())
        )
        if factors:
            slots.append(Found(match.start(), Filling(0.0, factors)))
        if match[0] in _words_of_plans():
            logs = logs + _words_of_plans()[match[0]]
    words = max(1, len(_WORD.findall(text, at, end)))
    return Sentence("", half, at, end, tuple(slots), 0.0), logs * min(1.0, VOTES / words)


def loose_derivation(text: str, start: int) -> tuple[Derivation, int]:
    """(a reading that every plan explains more or less well, sentences that no role explains).

    An unfinished last sentence is read as a bag of words; if some role's sentences begin like it,
    plans without such a role pay for that. It is not counted as outside.
    """
    sentences: list[Sentence] = []
    logs = np.zeros(len(plans()))
    at, half, n_outside = 0, 0, 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        half = 1 if any(sentences_at("turn", 1, text, at)) else half
        readings = _read(text[at : at + 240], half)
        if readings:
            sentence = _moved(readings[0], at)
            penalty = FOREIGN_ROLE if sentence.end > start else FOREIGN_CONTEXT
            logs = logs + penalty * _foreign(sentence.role)
        else:
            match = _SENTENCE_END.search(text, at)
            end = match.end() if match else len(text)
            sentence, said = _bag(text, at, end, half)
            is_finished = match is not None and match.end() > match.start()
            n_outside += int(is_finished and end > start)
            begun = () if is_finished else _begun_roles(text[at:])
            logs = logs + (FOREIGN_ROLE * _foreign(*begun) if begun else said)
        sentences.append(sentence)
        at = max(sentence.end, at + 1)
    return Derivation(tuple(range(len(plans()))), tuple(sentences), False, logs), n_outside
