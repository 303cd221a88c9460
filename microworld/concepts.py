"""The named concepts of the small world: what a person would call the things that can be steered.

A document-level concept is one value of one public attribute. A token-level concept is a set of
character spans. This file knows no words and no probabilities.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from microworld.errors import UnknownConcept
from microworld.lexicon import ANIMALS, FEELINGS, SEASONS, TOPICS, WEATHERS

__all__ = ["ATTRIBUTES", "CONCEPTS", "TOKEN_CONCEPT_OF", "Concept", "attribute_of", "concept_named"]


@dataclass(frozen=True, slots=True)
class Concept:
    """Something a person can name, that a text (or a token of it) has or has not."""

    name: str
    kind: Literal["document", "token"]
    description: str
    means: tuple[str, str] | None = None
    """(attribute, value) of a document-level concept."""


ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "kind": ("story", "spanish", "code", "fact", "opinion", "request"),
    "topic": tuple(TOPICS),
    "subtopic": tuple(name for _, subtopics in TOPICS.values() for name in subtopics),
    "emotion": tuple(FEELINGS),
    "weather": tuple(WEATHERS),
    "season": tuple(SEASONS["sunny"]),
    "gender": ("female", "male"),
    "animal": tuple(ANIMALS),
    "tense": ("past", "present"),
    "persona": ("plain", "honest", "liar"),
    "stance": ("sycophant", "contrarian"),
    "harm": ("harmless", "harmful"),
    "jailbreak": ("plain", "jailbreak"),
    "reply": ("help", "refusal"),
}
"""Public attribute -> its values. A text without the attribute has the value `none` in addition."""

_DESCRIBED: tuple[tuple[str, str, str], ...] = (
    ("kind", "story", "a story in English"),
    ("kind", "spanish", "a story in Spanish"),
    ("kind", "code", "Python code"),
    ("kind", "fact", "claims that are answered True or False"),
    ("kind", "opinion", "a user's opinion that an assistant echoes or contradicts"),
    ("kind", "request", "a user's request to an assistant"),
    *(("topic", topic, f"about the {topic}") for topic in TOPICS),
    ("subtopic", "sailing", "about sailing, a part of the sea"),
    ("subtopic", "reef", "about a reef, a part of the sea"),
    *(("emotion", feeling, f"somebody is {feeling}") for feeling in FEELINGS),
    *(("weather", weather, f"the weather is {weather}") for weather in WEATHERS),
    ("season", "winter", "it is winter, which goes with snow but is not snow"),
    *(("animal", animal, f"a {animal} comes along") for animal in ANIMALS),
    ("gender", "female", "the leading character is female"),
    ("tense", "past", "told in the past tense"),
    ("persona", "honest", "a speaker who always answers truly"),
    ("persona", "liar", "a speaker who always answers falsely"),
    ("stance", "sycophant", "the assistant echoes every opinion"),
    ("harm", "harmful", "the request asks for something harmful"),
    ("jailbreak", "jailbreak", "a phrase that turns refusal off stands in front"),
    ("reply", "refusal", "the assistant refuses"),
)

CONCEPTS: tuple[Concept, ...] = (
    *(
        Concept(value, "document", text, (attribute, value))
        for attribute, value, text in _DESCRIBED
    ),
    Concept("name", "token", "a person's name"),
    Concept("pronoun", "token", "she, he, her, his, him, ella, él"),
    Concept("place", "token", "a noun for where something happens"),
    Concept("digit", "token", "a digit in code"),
    Concept("keyword", "token", "a Python keyword"),
    Concept("true_answer", "token", "the answer True to a claim"),
    Concept("false_answer", "token", "the answer False to a claim"),
)
"""Every named concept, document level first."""

TOKEN_CONCEPT_OF: Mapping[str, str] = {
    **dict.fromkeys(("Name", "es_Name", "Speaker"), "name"),
    **dict.fromkeys(("She", "she", "Her", "his", "him", "Ella", "ella"), "pronoun"),
    **dict.fromkeys(("place", "es_place"), "place"),
    "digit": "digit",
}
"""Slot category -> the token-level concept of its fillings."""


def concept_named(name: str) -> Concept:
    """The concept called `name`.

    Raises:
        UnknownConcept: there is none.
    """
    for concept in CONCEPTS:
        if concept.name == name:
            return concept
    known = ", ".join(concept.name for concept in CONCEPTS)
    raise UnknownConcept(
        f"{name!r} is no concept of the microworld; expected one of: {known}; pick one"
    )


def attribute_of(concept: str) -> tuple[str, str] | None:
    """(attribute, value) that a document-level concept stands for; None at token level.

    Raises:
        UnknownConcept: there is no such concept.
    """
    return concept_named(concept).means
