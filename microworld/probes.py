"""Prompts that reveal all but one thing, and pairs of texts that differ in one thing."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace

from microworld.categories import categories
from microworld.concepts import ATTRIBUTES, attribute_of
from microworld.errors import UnknownAttribute, UnknownConcept
from microworld.grammar import draw_latents, pick, write
from microworld.world import Plan, Slot, hiddens, plans, role_parts

__all__ = ["Prompt", "pairs", "prompts"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """The beginning of a story, without a space at its end."""

    text: str
    latents: Mapping[str, str]
    """Public attribute -> value, for those that the text reveals."""


def _openings(neutral_to: str) -> list[tuple[str | Slot, ...]]:
    """Openings cut before the attribute shows; only those that tell most of the others."""
    hidden = {name for name, known in hiddens().items() if neutral_to in known.reveals[0]}
    cut: list[tuple[int, tuple[str | Slot, ...]]] = []
    for parts in role_parts()["opening"]:
        governing = [
            categories()[part.category].hidden if isinstance(part, Slot) else None for part in parts
        ]
        first = next((n for n, name in enumerate(governing) if name in hidden), len(parts))
        if first:
            cut.append((len(set(governing[:first]) - {None}), parts[:first]))
    most = max(told for told, _ in cut)
    return [parts for told, parts in cut if told == most]


def prompts(n: int, seed: int, neutral_to: str = "topic") -> list[Prompt]:
    """`n` beginnings of stories that say nothing of an attribute, nor of the emotion.

    Neutral to the topic: "One sunny day, Tom and his dog went to the". Neutral to something else:
    cut before it shows, or a whole opening sentence that never mentions it; of all openings, those
    are taken that reveal most. Texts are distinct as long as there are new ones to be found.

    Raises:
        UnknownAttribute: stories have no such attribute.
    """
    if not any(neutral_to in hiddens()[name].reveals[0] for name in _story().priors):
        known = ", ".join(sorted({a for h in _story().priors for a in hiddens()[h].reveals[0]}))
        raise UnknownAttribute(
            f"stories have no attribute {neutral_to!r}; expected one of: {known}; pick one of these"
        )
    openings = _openings(neutral_to)
    rng = random.Random(f"prompts/{seed}")
    found: dict[str, Prompt] = {}
    spare: list[Prompt] = []
    tries = 0
    while len(found) + len(spare) < n:
        parts = openings[int(rng.random() * len(openings))]
        prompt = _begin(parts, draw_latents(_story(), rng), rng)
        tries += 1
        if prompt.text not in found:
            found[prompt.text] = prompt
        elif tries > 20 * n:
            spare.append(prompt)
    return [*found.values(), *spare]


def _story() -> Plan:
    return next(plan for plan in plans() if plan.kind == "story")


def _begin(parts: tuple[str | Slot, ...], latents: Mapping[str, str], rng: random.Random) -> Prompt:
    text = ""
    told: dict[str, str] = {}
    for part in parts:
        if isinstance(part, str):
            text += part
            continue
        category = categories()[part.category]
        words = category.words[latents[category.hidden] if category.hidden else ""]
        text += words[int(rng.random() * len(words))]
        if category.hidden:
            hidden = hiddens()[category.hidden]
            told |= hidden.reveals[hidden.values.index(latents[category.hidden])]
    # Openings name the weather, which is drawn together with a season that they do not name.
    told.pop("season", None)
    return Prompt(text.rstrip(), {"kind": "story", **told})


def pairs(concept: str, n: int, seed: int) -> list[tuple[str, str]]:
    """`n` pairs of texts, the first with the concept and the second without.

    Both texts of a pair are written with the same random numbers, so that templates and all other
    choices match; a topic holds through the whole of its story. Of `harmful` and `jailbreak` the
    request alone is given, up to "Assistant:"; the reply is there for `refusal`, where the same
    harmful request is refused in one text and, behind the jailbreak phrase, helped in the other.

    Raises:
        UnknownConcept: no such concept, or one of tokens, which has no second text.
    """
    meaning = attribute_of(concept)
    if meaning is None:
        raise UnknownConcept(
            f"{concept!r} is a concept of tokens and has no pairs; expected one of documents; "
            "use Document.token_spans to tell its tokens from others"
        )
    attribute, value = meaning
    both = _by_plan if attribute in _DECIDED_BY_PLAN else _by_latent
    return [both(attribute, value, f"pairs/{seed}/{index}") for index in range(n)]


_DECIDED_BY_PLAN = ("kind", "harm", "jailbreak", "reply")


def _by_plan(attribute: str, value: str, seed: str) -> tuple[str, str]:
    if attribute == "kind":
        rng = random.Random(seed)
        this = [plan for plan in plans() if plan.kind == value]
        other = [plan for plan in plans() if plan.kind != value]
        chance, after = rng.random(), rng.random()
        return _whole(_any_of(this, chance), after), _whole(_any_of(other, chance), after)
    request = {harm: _turn(harm, "request", seed) for harm in ATTRIBUTES["harm"]}
    phrase, asked = _turn("harmful", "jailbreak", seed), request["harmful"]
    if attribute == "harm":
        pair = asked, request["harmless"]
    elif attribute == "jailbreak":
        pair = f"{phrase} {asked}", asked
    else:
        refused, helped = (_turn("harmful", role, seed) for role in ("refuse", "help"))
        pair = f"{asked} {refused}", f"{phrase} {asked} {helped}"
    wanted = value in ("harmful", "jailbreak", "refusal")
    return pair if wanted else pair[::-1]


def _any_of(known: list[Plan], chance: float) -> Plan:
    return known[pick(tuple(plan.weight for plan in known), chance)]


def _whole(plan: Plan, seed: float) -> str:
    rng = random.Random(seed)
    return write(plan, draw_latents(plan, rng), rng).text


def _turn(harm: str, role: str, seed: str) -> str:
    """One sentence of a conversation about a task, by role."""
    plan = next(plan for plan in plans() if plan.fixed.get("harm") == harm)
    latents = draw_latents(plan, random.Random(seed))
    return write(replace(plan, steps=((role, 0),)), latents, random.Random(f"{seed}/{role}")).text


def _by_latent(attribute: str, value: str, seed: str) -> tuple[str, str]:
    rng = random.Random(seed)
    name, hidden = next(
        (n, h)
        for n, h in hiddens().items()
        if any(seen.get(attribute) == value for seen in h.reveals)
    )
    has = [seen.get(attribute) == value for seen in hidden.reveals]
    fit = [plan for plan in plans() if {True, False} <= _possible(plan, name, has)]
    plan = _any_of(fit, rng.random())
    latents, chance, after = draw_latents(plan, rng), rng.random(), rng.random()
    prior = plan.priors[name]
    first = pick(tuple(p * h for p, h in zip(prior, has, strict=True)), chance)
    likeness = [
        sum(seen[a] == hidden.reveals[first][a] for a in seen if a != attribute)
        for seen in hidden.reveals
    ]
    nearest = max(k for k, p, h in zip(likeness, prior, has, strict=True) if p and not h)
    others = tuple(
        p * (not h and k == nearest) for p, h, k in zip(prior, has, likeness, strict=True)
    )
    texts = []
    for index in (first, pick(others, chance)):
        drawn = latents | {name: hidden.values[index]}
        if name == "scene":
            drawn["scene2"] = drawn["scene"]
        texts.append(write(plan, drawn, random.Random(after)).text)
    return texts[0], texts[1]


def _possible(plan: Plan, name: str, has: list[bool]) -> set[bool]:
    return {h for h, p in zip(has, plan.priors.get(name, ()), strict=False) if p}
