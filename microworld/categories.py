"""The fillings of every slot, for each value of the attribute that governs it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from microworld import lexicon, templates
from microworld.world import hiddens

__all__ = ["Category", "categories"]


@dataclass(frozen=True, slots=True)
class Category:
    """The fillings of a slot, equally likely, for each value of the hidden attribute."""

    name: str
    hidden: str | None
    words: Mapping[str, tuple[str, ...]]
    """Value of the hidden attribute ("" where there is none) -> fillings."""
    inflected: bool = False
    """Fillings are written `past/present`, and the tense picks."""


def _claims() -> tuple[tuple[str, ...], tuple[str, ...]]:
    true, false = [], []
    for sentence, values, table in lexicon.FACTS:
        for subject, right in table.items():
            true.append(sentence.format(subject, right))
            false += [sentence.format(subject, wrong) for wrong in values if wrong != right]
    return tuple(true), tuple(false)


def _scene_words(part: str) -> dict[str, tuple[str, ...]]:
    return {
        f"{topic}/{name}": tuple(dict.fromkeys((*getattr(shared, part), *getattr(own, part))))
        for topic, (shared, subtopics) in lexicon.TOPICS.items()
        for name, own in subtopics.items()
    }


def _story_categories() -> list[Category]:
    hidden = hiddens()
    names = {value: (value.split("/")[0],) for value in hidden["hero"].values}
    female = {value: value.endswith("/female") for value in hidden["hero"].values}
    weather = {value: lexicon.WEATHERS[value.split("/")[0]] for value in hidden["sky"].values}
    return [
        *(
            Category(slot, "scene", _scene_words(part), slot == "doing")
            for slot, part in (
                ("place", "places"),
                ("thing", "things"),
                ("person", "people"),
                ("doing", "doings"),
            )
        ),
        Category("Name", "hero", names),
        *(
            Category(slot, "hero", {v: (forms[0] if female[v] else forms[1],) for v in names})
            for slot, forms in lexicon.PRONOUNS.items()
        ),
        Category("animal", "animal", {a: (a,) for a in lexicon.ANIMALS}),
        Category("antic", "animal", dict(lexicon.ANIMALS), inflected=True),
        Category("feeling", "mood", {e: words for e, (words, _) in lexicon.FEELINGS.items()}),
        Category("reaction", "mood", {e: acts for e, (_, acts) in lexicon.FEELINGS.items()}, True),
        Category("W", "sky", {v: words[0] for v, words in weather.items()}),
        Category("sky", "sky", {v: words[1] for v, words in weather.items()}),
        Category("weathering", "sky", {v: words[2] for v, words in weather.items()}, True),
        Category("season", "sky", {v: (v.split("/")[1],) for v in weather}),
        Category("time", None, {"": lexicon.TIMES}),
    ]


def _spanish_categories() -> list[Category]:
    heroes = hiddens()["es_hero"].values
    forms = {"Ella": ("Ella", "Él"), "ella": ("ella", "él")}
    topics, skies = lexicon.SPANISH_TOPICS, lexicon.SPANISH_WEATHERS
    return [
        Category("es_place", "es_scene", {t: words[0] for t, words in topics.items()}),
        Category("es_thing", "es_scene", {t: words[1] for t, words in topics.items()}),
        Category("es_feeling", "mood", dict(lexicon.SPANISH_FEELINGS)),
        Category("es_W", "es_sky", {w: words[0] for w, words in skies.items()}),
        Category("es_Sky", "es_sky", {w: words[1] for w, words in skies.items()}),
        Category("es_Name", "es_hero", {v: (v.split("/")[0],) for v in heroes}),
        *(
            Category(
                slot,
                "es_hero",
                {v: (pair[0] if v.endswith("/female") else pair[1],) for v in heroes},
            )
            for slot, pair in forms.items()
        ),
    ]


def _talk_categories() -> list[Category]:
    true, false = _claims()
    tasks = {value: value.split("/") for value in hiddens()["task"].values}
    tools = {**lexicon.HARMLESS, **lexicon.HARMFUL}
    names = tuple(dict.fromkeys(name for side in lexicon.NAMES.values() for name in side))
    truthful = {"honest": ("True",), "liar": ("False",), "plain": ("True",)}
    untruthful = {"honest": ("False",), "liar": ("True",), "plain": ("False",)}
    return [
        Category("Speaker", None, {"": names}),
        Category("habit", "persona", {**templates.HABITS, "plain": ()}),
        Category("true_claim", None, {"": true}),
        Category("false_claim", None, {"": false}),
        Category("answer_to_true", "persona", truthful),
        Category("answer_to_false", "persona", untruthful),
        Category("verdict", "stance", dict(templates.VERDICTS)),
        Category("verb", "task", {value: (verb,) for value, (verb, _, _) in tasks.items()}),
        Category("object", "task", {value: (thing,) for value, (_, thing, _) in tasks.items()}),
        Category("tool", "task", {value: tools[verb][1] for value, (verb, _, _) in tasks.items()}),
        *(
            Category(slot, None, {"": words})
            for slot, words in (
                ("ask", templates.ASKS),
                ("manner", templates.MANNERS),
                ("wrong", templates.WRONGS),
                ("thanks", templates.THANKS),
                ("welcome", templates.WELCOMES),
                ("plea", templates.PLEAS),
            )
        ),
    ]


def _code_categories() -> list[Category]:
    return [
        Category(slot, None, {"": tuple(words)})
        for slot, words in (
            ("func", templates.FUNCTIONS),
            ("list", templates.LISTS),
            ("a", "abcn"),
            ("b", "xyzm"),
            ("i", "ijk"),
            ("v", "suvw"),
            ("op", "+-*"),
            ("cmp", "<>"),
            ("digit", "0123456789"),
        )
    ]


@cache
def categories() -> Mapping[str, Category]:
    """Slot categories by name, those of inline verbs (`went|goes`) included."""
    found = [*_story_categories(), *_spanish_categories(), *_talk_categories(), *_code_categories()]
    for sentence in (s for sentences in templates.TEMPLATES.values() for s in sentences):
        for past, present in re.findall(r"\{(\w+)\|(\w+)\}", sentence):
            verb = {"past": (past,), "present": (present,)}
            found.append(Category(f"{past}|{present}", "tense", verb))
    return {category.name: category for category in found}
