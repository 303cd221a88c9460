"""How the small world writes: latent values first, then sentences whose words they choose.

Every random choice depends on at most one hidden attribute (a verb's form depends on the tense as
well), so the probability of a text given its latents is a product, and the judge can invert it
exactly. This file knows nothing about models or tokens.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from bisect import bisect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import accumulate

from microworld import templates
from microworld.categories import categories
from microworld.concepts import CONCEPTS, TOKEN_CONCEPT_OF
from microworld.world import SAME_TOPIC, Plan, hiddens, plans, role_parts, second_prior

__all__ = ["ConceptSpan", "Document", "Span", "documents", "grammar_hash", "sample"]


@dataclass(frozen=True, slots=True)
class Span:
    """Characters whose choice one attribute's value governed."""

    start: int
    end: int
    attribute: str
    value: str


@dataclass(frozen=True, slots=True)
class ConceptSpan:
    """Characters that are an instance of a token-level concept."""

    concept: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Document:
    """A text with everything that is true of it."""

    text: str
    kind: str
    latents: Mapping[str, str]
    """Public attribute -> value; a story also has `second_topic` and `second_subtopic`."""
    spans: tuple[Span, ...]
    concepts: frozenset[str]
    """Document-level concepts that hold; a topic holds if it governs either half."""
    token_spans: tuple[ConceptSpan, ...]


@cache
def _plan_steps() -> tuple[float, ...]:
    return tuple(accumulate(plan.weight for plan in plans()))


@cache
def _cumulative(weights: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(accumulate(weights))


def pick(weights: tuple[float, ...], chance: float) -> int:
    """The index that `chance` in [0, 1) falls on, in proportion to `weights`."""
    steps = _cumulative(weights)
    return bisect(steps, chance * steps[-1], hi=len(steps) - 1)


def draw_latents(plan: Plan, rng: random.Random) -> dict[str, str]:
    """Hidden attribute -> value for one document of `plan`; `scene2` for stories."""
    hidden = hiddens()
    drawn = {
        name: hidden[name].values[pick(prior, rng.random())] for name, prior in plan.priors.items()
    }
    if "scene" in drawn:
        scenes = hidden["scene"].values
        drawn["scene2"] = scenes[pick(second_prior(scenes.index(drawn["scene"])), rng.random())]
    return drawn


def write(plan: Plan, latents: Mapping[str, str], rng: random.Random) -> Document:
    """The document that `rng` writes when the hidden values are `latents`.

    Each choice takes one number from `rng`, so equal generators give sentences that differ only
    where a latent differs.
    """
    every_category, every_role, tags = categories(), role_parts(), TOKEN_CONCEPT_OF
    text: list[str] = []
    at = 0
    governed: list[tuple[int, int, str, str]] = []
    tokens: list[ConceptSpan] = []
    form = 0 if latents.get("tense") == "past" else 1
    for number, (role, half) in enumerate(plan.steps):
        if number:
            text.append(plan.separator)
            at += len(plan.separator)
        choices = every_role[role]
        filled: dict[str, str] = {}
        for part in choices[int(rng.random() * len(choices))]:
            if isinstance(part, str):
                text.append(part)
                at += len(part)
                continue
            category = every_category[part.category]
            hidden = "scene2" if half and category.hidden == "scene" else category.hidden
            word = filled.get(part.alias)
            if word is None:
                words = category.words[latents[hidden] if hidden else ""]
                word = words[int(rng.random() * len(words))]
                if category.inflected:
                    word = word.split("/")[form]
                filled[part.alias] = word
            end = at + len(word)
            if hidden:
                governed.append((at, end, hidden, latents[hidden]))
                if category.inflected:
                    governed.append((at, end, "tense", latents["tense"]))
            if part.category in tags:
                # Without the article of "el bosque", which is no part of the noun.
                tokens.append(ConceptSpan(tags[part.category], at + word.rfind(" ") + 1, end))
            text.append(word)
            at = end
    whole = "".join(text)
    public = reveal(plan, latents)
    return Document(
        whole,
        plan.kind,
        public,
        tuple(_spans(governed)),
        concepts_of(public),
        tuple(sorted((*tokens, *_literal_concepts(whole, plan.kind)), key=lambda span: span.start)),
    )


def _spans(governed: list[tuple[int, int, str, str]]) -> Iterator[Span]:
    for start, end, hidden, value in governed:
        for attribute, shown in _reveals(hidden, value).items():
            yield Span(start, end, attribute, shown)


@cache
def _reveals(hidden: str, value: str) -> Mapping[str, str]:
    known = hiddens()["scene" if hidden == "scene2" else hidden]
    return known.reveals[known.values.index(value)]


def _literal_concepts(text: str, kind: str) -> Iterator[ConceptSpan]:
    if kind == "code":
        for found in re.finditer(r"\b(?:def|return|for|in|if|else|while)\b", text):
            yield ConceptSpan("keyword", *found.span())
    elif kind == "fact":
        for found in re.finditer(r"(?<=Answer: )(?:True|False)", text):
            yield ConceptSpan(f"{found[0].lower()}_answer", *found.span())


def reveal(plan: Plan, latents: Mapping[str, str]) -> dict[str, str]:
    """Public attribute -> value of a document with these hidden values."""
    public = {"kind": plan.kind, **plan.fixed}
    for name, value in latents.items():
        shown = _reveals(name, value)
        public |= {f"second_{k}": v for k, v in shown.items()} if name == "scene2" else shown
    return public


@cache
def _concept_named() -> Mapping[tuple[str, str], str]:
    return {concept.means: concept.name for concept in CONCEPTS if concept.means is not None}


def concepts_of(public: Mapping[str, str]) -> frozenset[str]:
    """Document-level concepts that hold of these public values."""
    named = _concept_named()
    pairs = ((attribute.removeprefix("second_"), value) for attribute, value in public.items())
    return frozenset(named[pair] for pair in pairs if pair in named)


def plan_of(seed: int, index: int) -> tuple[Plan, random.Random]:
    """(plan of a document of corpus `seed`, the generator that goes on to write it)."""
    rng = random.Random(f"{seed}/{index}")
    return plans()[min(bisect(_plan_steps(), rng.random()), len(plans()) - 1)], rng


def sample(seed: int, index: int) -> Document:
    """Document number `index` of the endless corpus `seed`; the same one every time."""
    plan, rng = plan_of(seed, index)
    return write(plan, draw_latents(plan, rng), rng)


def documents(n: int, seed: int) -> Iterator[Document]:
    """The first `n` documents of corpus `seed`."""
    return (sample(seed, index) for index in range(n))


@cache
def grammar_hash() -> str:
    """Sixteen hex digits that change whenever the distribution of texts changes."""
    definition = {
        "categories": [
            [c.name, c.hidden, dict(c.words), c.inflected] for c in categories().values()
        ],
        "hiddens": [[h.name, h.values, h.prior] for h in hiddens().values()],
        "plans": [[p.weight, p.steps, dict(p.priors), p.separator] for p in plans()],
        "same_topic": SAME_TOPIC,
        "templates": dict(templates.TEMPLATES),
    }
    written = json.dumps(definition, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(written.encode()).hexdigest()[:16]
