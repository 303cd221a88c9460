"""The judge against a slow oracle that knows only the grammar's data.

The oracle keeps the whole joint table of latent values, multiplies every slot into it, and sums
over every template and every plan. It shares no code with the parser.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest

from microworld.categories import categories
from microworld.concepts import ATTRIBUTES
from microworld.grammar import Document, documents
from microworld.judge import log_prob, posterior
from microworld.templates import TEMPLATES
from microworld.world import Plan, hiddens, plans, second_prior

Array = npt.NDArray[np.float64]


@dataclass
class Table:
    """A joint probability over the values still possible on each axis."""

    axes: tuple[str, ...]
    values: tuple[npt.NDArray[np.int64], ...]
    cells: Array

    def times(self, weights: Array, *axes: str) -> Table:
        """Multiply by an array over full axes, and drop values that have become impossible."""
        chosen = weights[np.ix_(*(self.values[self.axes.index(axis)] for axis in axes))]
        order = sorted(range(len(axes)), key=lambda n: self.axes.index(axes[n]))
        chosen = chosen.transpose(order)
        shape = [len(v) if a in axes else 1 for a, v in zip(self.axes, self.values, strict=True)]
        cells = self.cells * chosen.reshape(shape)
        kept = []
        for axis in range(cells.ndim):
            alive = np.flatnonzero(cells.any(axis=tuple(n for n in range(cells.ndim) if n != axis)))
            cells = cells.take(alive, axis=axis)
            kept.append(self.values[axis][alive])
        return Table(self.axes, tuple(kept), cells)

    def with_second_scene(self) -> Table:
        if "scene2" in self.axes or "scene" not in self.axes:
            return self
        move = np.array([second_prior(n) for n in range(len(hiddens()["scene"].values))])
        cells = np.repeat(self.cells[..., None], len(move), axis=-1)
        wide = Table((*self.axes, "scene2"), (*self.values, np.arange(len(move))), cells)
        return wide.times(move, "scene", "scene2")

    def marginal(self, axis: str) -> Array:
        at = self.axes.index(axis)
        name = "scene" if axis == "scene2" else axis
        full = np.zeros(len(hiddens()[name].values))
        full[self.values[at]] = self.cells.sum(
            axis=tuple(n for n in range(self.cells.ndim) if n != at)
        )
        return full


@cache
def prior_table(names: tuple[str, ...], priors: tuple[tuple[float, ...], ...]) -> Table:
    cells = np.ones(())
    for prior in priors:
        cells = np.multiply.outer(cells, np.array(prior))
    return Table(names, tuple(np.arange(len(prior)) for prior in priors), cells)


@cache
def pieces(sentence: str) -> tuple[str, ...]:
    return tuple(piece for piece in re.split(r"(\{[^}]+\})", sentence) if piece)


@cache
def choices(category: str) -> dict[str, Array]:
    """Filling -> P(filling | hidden value[, tense])."""
    known = categories()[category]
    keys = hiddens()[known.hidden].values if known.hidden else ("",)
    found: dict[str, Array] = {}
    for number, key in enumerate(keys):
        for word in known.words[key]:
            for tense, form in enumerate(word.split("/") if known.inflected else [word]):
                shape = (len(keys), 2) if known.inflected else (len(keys),)
                at = (number, tense) if known.inflected else (number,)
                found.setdefault(form, np.zeros(shape))[at] += 1 / len(known.words[key])
    return found


def multiplied(table: Table, category: str, weights: Array, half: int) -> Table:
    known = categories()[category]
    if known.hidden is None:
        return Table(table.axes, table.values, table.cells * weights[0])
    axis = "scene2" if half and known.hidden == "scene" else known.hidden
    return table.times(weights, axis, *(["tense"] if known.inflected else []))


def expand(
    parts: tuple[str, ...], text: str, half: int, table: Table, filled: dict[str, str]
) -> Iterator[tuple[Table, str | None]]:
    """(table, what is left of the text); None where the text ended first."""
    if not parts:
        yield table, text
        return
    head = parts[0]
    alias, _, category = head[1:-1].rpartition(":")
    if head.startswith("{") and (alias or category) not in filled:
        longer = [
            w for word, w in choices(category).items() if word.startswith(text) and word != text
        ]
        if longer:
            yield multiplied(table, category, np.sum(longer, axis=0), half), None
        for word, weights in choices(category).items():
            if text.startswith(word):
                known = {**filled, (alias or category): word}
                more = multiplied(table, category, weights, half)
                if more.cells.size:
                    yield from expand(parts[1:], text[len(word) :], half, more, known)
        return
    literal = filled[alias or category] if head.startswith("{") else head
    if text.startswith(literal):
        yield from expand(parts[1:], text[len(literal) :], half, table, filled)
    elif literal.startswith(text):
        yield table, None


def endings(plan: Plan, text: str) -> Iterator[tuple[Table, bool, frozenset[int]]]:
    """(table, the document is over, halves reached) for every way of writing the text."""
    table = prior_table(tuple(plan.priors), tuple(plan.priors.values()))
    yield from _steps(plan, 0, text, table, frozenset())


def _steps(
    plan: Plan, step: int, text: str, table: Table, halves: frozenset[int]
) -> Iterator[tuple[Table, bool, frozenset[int]]]:
    if not text:
        yield table, False, halves
        return
    role, half = plan.steps[step]
    if half:
        table = table.with_second_scene()
    share = Table(table.axes, table.values, table.cells / len(TEMPLATES[role]))
    for sentence in TEMPLATES[role]:
        for more, rest in expand(pieces(sentence), text, half, share, {}):
            last = step + 1 == len(plan.steps)
            if rest is None:
                yield more, False, halves | {half}
            elif last and not rest:
                yield more, True, halves | {half}
            elif not last and not rest:
                yield more, False, halves | {half}
            elif not last and rest.startswith(plan.separator):
                yield from _steps(
                    plan, step + 1, rest[len(plan.separator) :], more, halves | {half}
                )


def brute_force(text: str) -> tuple[float, float, dict[str, dict[str, float]]]:
    """(log P(document is text), log P(document begins with text), attributes)."""
    found = [
        (plan, plan.weight, *end)
        for plan in plans()
        for end in endings(plan, text)
        if end[0].cells.size
    ]
    mass = [weight * float(table.cells.sum()) for _, weight, table, _, _ in found]
    whole = sum(m for m, (_, _, _, over, _) in zip(mass, found, strict=True) if over)
    begun = sum(mass)
    if whole:
        found = [one for one in found if one[3]]
    sums = {a: dict.fromkeys(values, 0.0) for a, values in ATTRIBUTES.items()}
    total = sum(weight * float(table.cells.sum()) for _, weight, table, _, _ in found)
    for plan, weight, table, _, halves in found:
        drawn = {a for axis in table.axes if axis != "scene2" for a in hiddens()[axis].reveals[0]}
        for attribute, value in {"kind": plan.kind, **plan.fixed}.items():
            if attribute in drawn:
                continue
            sums[attribute][value] += weight * float(table.cells.sum()) / total
        for axis in table.axes:
            name = "scene" if axis == "scene2" else axis
            if name == "scene" and int(axis == "scene2") not in (halves or {0}):
                continue
            share = 1 / len(halves) if name == "scene" and halves else 1
            for chance, shown in zip(table.marginal(axis), hiddens()[name].reveals, strict=True):
                for attribute, value in shown.items():
                    sums[attribute][value] += share * weight * float(chance) / total
    return (math.log(whole) if whole else -math.inf), math.log(begun), sums


def assert_agrees(text: str) -> None:
    whole, begun, attributes = brute_force(text)
    judged = posterior(text)
    assert log_prob(text) == pytest.approx(whole, abs=1e-9)
    assert judged.log_prob == pytest.approx(whole if whole > -math.inf else begun, abs=1e-9)
    assert judged.is_grammatical
    assert judged.is_truncated == (whole == -math.inf)
    for attribute, chances in attributes.items():
        for value, chance in chances.items():
            assert judged.attributes[attribute][value] == pytest.approx(chance, abs=1e-9), attribute


def few_stories(seed: int, stories: int) -> list[Document]:
    """Mostly other kinds: the joint table of a story's latents is a thousand times larger."""
    every = list(documents(700, seed))
    chosen = [document for document in every if document.kind == "story"][:stories]
    return chosen + [document for document in every if document.kind != "story"][:270]


def test_whole_documents_have_the_oracle_s_probability_and_posterior() -> None:
    for document in few_stories(900, 15):
        assert_agrees(document.text)


def test_beginnings_cut_anywhere_have_the_oracle_s_probability_and_posterior() -> None:
    rng = random.Random(7)
    for document in few_stories(901, 15):
        assert_agrees(document.text[: rng.randrange(0, min(140, len(document.text)))])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "One",
        "One sunny day, Tom went to the",
        "One sunny day, Tom went to the ba",
        "One sunny day, Sam went to the beach. ",
        "One sunny day, Sam went to the beach. Sam sw",
        "User: How do I steal the gold? Assistant: S",
        "Claim: a whale lives in the sea. Answer:",
        "if a < 3:\n    print(a)\nel",
    ],
)
def test_beginnings_that_leave_much_open_agree_too(text: str) -> None:
    assert_agrees(text)
