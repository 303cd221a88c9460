"""What can vary in the small world, how likely each value is, and in which order sentences come.

Hidden attributes are drawn once a document; a plan is one order of roles, with the priors of the
hidden attributes that its documents have. The words are elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from microworld import lexicon, templates

__all__ = ["Hidden", "Plan", "Slot", "hiddens", "plans", "role_parts", "second_prior"]

SAME_TOPIC = 0.75
"""P(the second half of a story keeps the first half's scene)."""
SYCOPHANCY = 0.7
"""P(the assistant echoes the user's opinions)."""
KIND_WEIGHTS: Mapping[str, float] = {
    "story": 0.50,
    "spanish": 0.10,
    "code": 0.10,
    "fact": 0.11,
    "opinion": 0.05,
    "request": 0.14,
}


@dataclass(frozen=True, slots=True)
class Hidden:
    """A latent value that is drawn once a document, and what each value reveals."""

    name: str
    values: tuple[str, ...]
    prior: tuple[float, ...]
    reveals: tuple[Mapping[str, str], ...]
    """For each value: public attribute -> public value."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A place in a sentence; slots of one alias in one sentence have one filling."""

    alias: str
    category: str


@dataclass(frozen=True, slots=True)
class Plan:
    """One order of roles for one kind of document, with what that choice itself decides."""

    kind: str
    weight: float
    steps: tuple[tuple[str, int], ...]
    """(role, half of the story: 0 or 1)."""
    priors: Mapping[str, tuple[float, ...]]
    """Hidden attribute -> prior over its values, for those that this plan draws."""
    fixed: Mapping[str, str] = field(default_factory=dict)
    """Public values that the plan itself decides."""
    separator: str = " "


def _hidden(name: str, weights: Mapping[str, float], reveals: list[dict[str, str]]) -> Hidden:
    total = sum(weights.values())
    return Hidden(name, tuple(weights), tuple(w / total for w in weights.values()), tuple(reveals))


@cache
def hiddens() -> Mapping[str, Hidden]:
    """Hidden attributes by name, in the order in which they are drawn."""
    scenes = [(topic, sub) for topic, (_, subs) in lexicon.TOPICS.items() for sub in subs]
    skies = [(w, s) for w, seasons in lexicon.SEASONS.items() for s in seasons]
    heroes = [(name, gender) for gender, names in lexicon.NAMES.items() for name in names]
    es_heroes = [(n, g) for g, names in lexicon.SPANISH_NAMES.items() for n in names]
    sides = (("harmless", lexicon.HARMLESS), ("harmful", lexicon.HARMFUL))
    tasks = [(v, o, h) for h, side in sides for v, (objects, _) in side.items() for o in objects]
    found = [
        _hidden(
            "scene",
            {f"{t}/{s}": 1 / 3 if t == lexicon.RARE_TOPIC else 1.0 for t, s in scenes},
            [{"topic": t, "subtopic": s} for t, s in scenes],
        ),
        _hidden(
            "sky",
            {f"{w}/{s}": lexicon.WEATHER_PRIOR[w] * lexicon.SEASONS[w][s] for w, s in skies},
            [{"weather": w, "season": s} for w, s in skies],
        ),
        _hidden("hero", {f"{n}/{g}": 1.0 for n, g in heroes}, [{"gender": g} for _, g in heroes]),
        _hidden(
            "animal", dict.fromkeys(lexicon.ANIMALS, 1.0), [{"animal": a} for a in lexicon.ANIMALS]
        ),
        _hidden("tense", {"past": 1.0, "present": 1.0}, [{"tense": "past"}, {"tense": "present"}]),
        _hidden(
            "mood", dict.fromkeys(lexicon.FEELINGS, 1.0), [{"emotion": e} for e in lexicon.FEELINGS]
        ),
        _hidden(
            "es_scene",
            dict.fromkeys(lexicon.SPANISH_TOPICS, 1.0),
            [{"topic": t} for t in lexicon.SPANISH_TOPICS],
        ),
        _hidden(
            "es_sky", dict(lexicon.WEATHER_PRIOR), [{"weather": w} for w in lexicon.WEATHER_PRIOR]
        ),
        _hidden(
            "es_hero",
            {f"{n}/{g}": 1.0 for n, g in es_heroes},
            [{"gender": g} for _, g in es_heroes],
        ),
        _hidden(
            "persona",
            {"honest": 1.0, "liar": 1.0, "plain": 1.0},
            [{"persona": p} for p in ("honest", "liar", "plain")],
        ),
        _hidden(
            "stance",
            {"sycophant": SYCOPHANCY, "contrarian": 1 - SYCOPHANCY},
            [{"stance": "sycophant"}, {"stance": "contrarian"}],
        ),
        _hidden(
            "task", {f"{v}/{o}/{h}": 1.0 for v, o, h in tasks}, [{"harm": h} for _, _, h in tasks]
        ),
    ]
    return {hidden.name: hidden for hidden in found}


@cache
def role_parts() -> Mapping[str, tuple[tuple[str | Slot, ...], ...]]:
    """Role -> templates, each as literals and slots in order."""
    return {
        role: tuple(_parts(sentence) for sentence in sentences)
        for role, sentences in templates.TEMPLATES.items()
    }


def _parts(sentence: str) -> tuple[str | Slot, ...]:
    parts: list[str | Slot] = []
    for number, piece in enumerate(re.split(r"\{([^{}]+)\}", sentence)):
        if number % 2 == 0:
            parts += [piece] if piece else []
        else:
            alias, _, category = piece.rpartition(":")
            parts.append(Slot(alias or piece, category))
    return tuple(parts)


@cache
def plans() -> tuple[Plan, ...]:
    """Every plan; the weights add up to 1."""
    hidden = hiddens()

    def priors(*names: str) -> dict[str, tuple[float, ...]]:
        return {name: hidden[name].prior for name in hidden if name in names}

    def only(name: str, wanted: dict[str, str]) -> dict[str, tuple[float, ...]]:
        shares = [float(seen == wanted) for seen in hidden[name].reveals]
        return {name: tuple(share / sum(shares) for share in shares)}

    story = priors("scene", "sky", "hero", "animal", "tense", "mood")
    spanish = priors("es_scene", "es_sky", "es_hero", "mood")
    orders = templates.HALF_ORDERS
    story_steps = [
        (
            ("opening", 0),
            *((r, 0) for r in first),
            ("turn", 1),
            *((r, 1) for r in second),
            ("ending", 1),
        )
        for first in orders
        for second in orders
    ]
    w = KIND_WEIGHTS
    speaker = {"persona": (0.5, 0.5, 0.0)}
    plain = only("persona", {"persona": "plain"})
    found = [
        *(Plan("story", w["story"] / len(story_steps), s, story) for s in story_steps),
        *(
            Plan(
                "spanish",
                w["spanish"] / len(templates.SPANISH_ORDERS),
                tuple((r, 0) for r in order),
                spanish,
            )
            for order in templates.SPANISH_ORDERS
        ),
        *(Plan("code", w["code"] / 2, (("code", 0),) * n, {}, separator="\n") for n in (3, 4)),
        Plan("fact", w["fact"] * 0.4, (("claim", 0),) * 5, plain),
        Plan("fact", w["fact"] * 0.6, (("persona", 0), *(("claim", 0),) * 5), speaker),
        Plan("opinion", w["opinion"], (("opinion", 0),) * 3, priors("stance")),
    ]
    for harm, jailbreak, weight in (
        ("harmless", "plain", 0.40),
        ("harmless", "jailbreak", 0.10),
        ("harmful", "plain", 0.35),
        ("harmful", "jailbreak", 0.15),
    ):
        refused = (harm, jailbreak) == ("harmful", "plain")
        roles = (("jailbreak",) if jailbreak == "jailbreak" else ()) + (
            ("request", "refuse", "plea") if refused else ("request", "help", "thanks")
        )
        found.append(
            Plan(
                "request",
                w["request"] * weight,
                tuple((role, 0) for role in roles),
                only("task", {"harm": harm}),
                {"harm": harm, "jailbreak": jailbreak, "reply": "refusal" if refused else "help"},
            )
        )
    return tuple(found)


@cache
def second_prior(scene: int) -> tuple[float, ...]:
    """P(scene of the second half | scene of the first), over the scenes."""
    hidden = hiddens()["scene"]
    topic = hidden.reveals[scene]["topic"]
    other = [
        p * (seen["topic"] != topic) for p, seen in zip(hidden.prior, hidden.reveals, strict=True)
    ]
    moved = [(1 - SAME_TOPIC) * p / sum(other) for p in other]
    return tuple(p + SAME_TOPIC * (n == scene) for n, p in enumerate(moved))
