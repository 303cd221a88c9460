"""Prompts reveal all but one thing; pairs differ in one thing."""

from __future__ import annotations

import difflib

import pytest

from microworld import CONCEPTS, pairs, posterior, probability, prompts
from microworld.errors import UnknownAttribute, UnknownConcept
from microworld.world import hiddens, plans

DOCUMENT_CONCEPTS = [concept.name for concept in CONCEPTS if concept.kind == "document"]


def prior_of(attribute: str) -> dict[str, float]:
    story = next(plan for plan in plans() if plan.kind == "story")
    name = next(n for n in story.priors if attribute in hiddens()[n].reveals[0])
    found: dict[str, float] = {}
    for chance, shown in zip(story.priors[name], hiddens()[name].reveals, strict=True):
        found[shown[attribute]] = found.get(shown[attribute], 0) + chance
    return found


@pytest.mark.parametrize("neutral_to", ["topic", "emotion", "weather", "animal", "gender", "tense"])
def test_prompts_say_nothing_of_what_they_are_neutral_to(neutral_to: str) -> None:
    for prompt in prompts(20, 0, neutral_to):
        judged = posterior(prompt.text)
        assert judged.is_grammatical
        assert neutral_to not in prompt.latents
        for attribute in {neutral_to, "emotion"}:
            for value, chance in prior_of(attribute).items():
                assert judged.attributes[attribute][value] == pytest.approx(chance)


def test_prompts_are_distinct_end_without_a_space_and_reveal_the_rest() -> None:
    found = prompts(200, 5)
    assert len({prompt.text for prompt in found}) == 200
    for prompt in found:
        assert prompt.text == prompt.text.strip()
        assert {"weather", "gender", "animal", "tense"} <= set(prompt.latents)
        attributes = posterior(prompt.text).attributes
        assert all(attributes[a][v] > 0.9 for a, v in prompt.latents.items())


def test_prompts_are_a_function_of_the_seed() -> None:
    assert prompts(5, 1) == prompts(5, 1) != prompts(5, 2)


def test_more_prompts_than_texts_repeat() -> None:
    assert len(prompts(300, 0, "gender")) == 300


def test_prompts_refuse_what_stories_have_not() -> None:
    with pytest.raises(UnknownAttribute, match="persona"):
        prompts(1, 0, "persona")


@pytest.mark.parametrize("concept", DOCUMENT_CONCEPTS)
def test_the_first_of_a_pair_has_the_concept_and_the_second_has_not(concept: str) -> None:
    found = pairs(concept, 20, 3)
    assert sum(probability(one, concept) > 0.9 for one, _ in found) >= 17
    assert sum(probability(other, concept) < 0.1 for _, other in found) >= 17


@pytest.mark.parametrize(
    "concept", ["sea", "sad", "rainy", "dog", "past", "female", "liar", "sailing"]
)
def test_the_two_of_a_pair_are_alike_but_for_the_concept(concept: str) -> None:
    for one, other in pairs(concept, 10, 4):
        assert difflib.SequenceMatcher(None, one.split(), other.split()).ratio() > 0.5
        assert one.count(".") == other.count(".")


def test_pairs_are_a_function_of_the_seed() -> None:
    assert pairs("sad", 3, 1) == pairs("sad", 3, 1) != pairs("sad", 3, 2)


def test_a_harmful_pair_is_two_requests_without_a_reply() -> None:
    for text in (text for pair in pairs("harmful", 5, 0) for text in pair):
        assert text.endswith("Assistant:")


def test_a_refusal_pair_asks_for_the_same() -> None:
    for refused, helped in pairs("refusal", 5, 0):
        request = refused[: refused.index("Assistant:")]
        assert request in helped
        assert "Sorry" in refused
        assert "Sure" in helped


@pytest.mark.parametrize("concept", ["digit", "name", "weasel"])
def test_a_concept_without_pairs_is_refused(concept: str) -> None:
    with pytest.raises(UnknownConcept, match=concept):
        pairs(concept, 1, 0)
