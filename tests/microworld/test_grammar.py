"""Laws of the sampled documents and of the words they are made of."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from microworld import CONCEPTS, documents, grammar_hash, sample
from microworld.categories import categories
from microworld.concepts import ATTRIBUTES
from microworld.lexicon import RARE_TOPIC, TOPICS
from microworld.world import KIND_WEIGHTS, hiddens, plans, role_parts, second_prior

DOCUMENTS = list(documents(1500, seed=11))


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(-(2**40), 2**40), index=st.integers(0, 2**40))
def test_a_document_is_a_function_of_seed_and_index(seed: int, index: int) -> None:
    assert sample(seed, index) == sample(seed, index)


def test_the_corpus_is_its_documents_in_order() -> None:
    assert list(documents(5, seed=3)) == [sample(3, index) for index in range(5)]
    assert sample(3, 0) != sample(4, 0)


def test_another_process_draws_the_same_text_and_hash() -> None:
    code = (
        "import json, microworld as m; print(json.dumps([m.sample(1, 2).text, m.grammar_hash()]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [sample(1, 2).text, grammar_hash()]


def test_importing_the_package_loads_no_torch() -> None:
    code = (
        "import sys, microworld; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_kinds_come_as_often_as_written() -> None:
    counts = Counter(document.kind for document in DOCUMENTS)
    for kind, weight in KIND_WEIGHTS.items():
        assert abs(counts[kind] / len(DOCUMENTS) - weight) < 4 * (weight / len(DOCUMENTS)) ** 0.5


def test_every_document_level_concept_occurs_and_is_known() -> None:
    seen = set().union(*(document.concepts for document in DOCUMENTS))
    assert seen == {concept.name for concept in CONCEPTS if concept.kind == "document"}


def test_every_token_level_concept_occurs_and_is_known() -> None:
    seen = {span.concept for document in DOCUMENTS for span in document.token_spans}
    assert seen == {concept.name for concept in CONCEPTS if concept.kind == "token"}


def test_concept_names_are_unique_slugs_and_many() -> None:
    names = [concept.name for concept in CONCEPTS]
    assert len(set(names)) == len(names) >= 40
    assert all(re.fullmatch(r"[a-z][a-z_]*", name) for name in names)


def test_latents_are_values_of_attributes() -> None:
    for document in DOCUMENTS:
        for attribute, value in document.latents.items():
            assert value in ATTRIBUTES[attribute.removeprefix("second_")]


def test_spans_lie_in_the_text_and_name_a_value_that_governs_the_document() -> None:
    for document in DOCUMENTS:
        for span in document.spans:
            assert 0 <= span.start < span.end <= len(document.text)
            known = {
                document.latents[span.attribute],
                document.latents.get(f"second_{span.attribute}"),
            }
            assert span.value in known


def test_token_spans_hold_what_they_say() -> None:
    held = {"digit": r"\d", "true_answer": "True", "false_answer": "False", "keyword": r"[a-z]+"}
    for document in DOCUMENTS:
        for span in document.token_spans:
            text = document.text[span.start : span.end]
            assert text
            assert re.fullmatch(held.get(span.concept, r".+"), text)


def test_a_place_is_a_noun_without_its_article() -> None:
    said = {
        d.text[s.start : s.end] for d in DOCUMENTS for s in d.token_spans if s.concept == "place"
    }
    assert {"beach", "playa", "bosque"} <= said
    assert not any(" " in noun for noun in said)


def test_a_topic_has_many_words_and_at_least_eight_words_have_two_topics() -> None:
    owners: dict[str, set[str]] = {}
    for name in ("place", "thing", "person", "doing"):
        for scene, words in categories()[name].words.items():
            for word in words:
                owners.setdefault(word, set()).add(scene.split("/")[0])
    per_topic = Counter(topic for topics in owners.values() for topic in topics)
    assert len(TOPICS) >= 12
    assert min(per_topic.values()) >= 24
    assert sum(len(topics) > 1 for topics in owners.values()) >= 8
    assert owners["star"] == {"sea", "space"}


def test_the_rare_topic_is_a_third_as_likely_as_another() -> None:
    scenes = hiddens()["scene"]
    chances = Counter[str]()
    for chance, shown in zip(scenes.prior, scenes.reveals, strict=True):
        chances[shown["topic"]] += chance  # type: ignore[assignment]
    assert abs(chances[RARE_TOPIC] * 3 - chances["sea"]) < 1e-12


def test_probabilities_add_up_to_one() -> None:
    assert abs(sum(plan.weight for plan in plans()) - 1) < 1e-12
    for plan in plans():
        assert all(abs(sum(prior) - 1) < 1e-12 for prior in plan.priors.values())
    for scene in range(len(hiddens()["scene"].values)):
        assert abs(sum(second_prior(scene)) - 1) < 1e-12


def test_a_verb_s_two_forms_differ_and_nouns_fit_the_article_a() -> None:
    for category in categories().values():
        for word in (word for words in category.words.values() for word in words):
            if category.inflected:
                past, present = word.split("/")
                assert past != present
            if category.name in ("thing", "person"):
                assert word[0] not in "aeiou"


def test_every_slot_of_every_template_is_a_category() -> None:
    for templates in role_parts().values():
        for part in (part for parts in templates for part in parts):
            assert isinstance(part, str) or part.category in categories()


def test_stories_keep_one_name_one_animal_and_one_tense() -> None:
    for document in DOCUMENTS:
        if document.kind == "story":
            for concept in ("name",):
                words = {
                    document.text[s.start : s.end]
                    for s in document.token_spans
                    if s.concept == concept
                }
                assert len(words) == 1


def test_the_code_that_is_written_compiles() -> None:
    for document in DOCUMENTS:
        if document.kind == "code":
            compile(document.text, "sampled", "exec")


def test_a_liar_answers_the_other_way_round() -> None:
    truths = set(categories()["true_claim"].words[""])
    for document in DOCUMENTS:
        if document.kind == "fact":
            lies = document.latents["persona"] == "liar"
            for claim, answer in re.findall(r"Claim: ([^.]+)\. Answer: (\w+)\.", document.text):
                assert (answer == "True") == ((claim in truths) != lies)


def test_harmful_requests_are_refused_unless_the_phrase_stands_in_front() -> None:
    for document in DOCUMENTS:
        if document.kind == "request":
            refused = {"harmful"} == document.concepts & {"harmful", "jailbreak"}
            assert ("Sorry" in document.text) == refused == ("refusal" in document.concepts)


def test_a_topic_holds_if_it_governs_either_half() -> None:
    moved = [
        d for d in DOCUMENTS if d.latents.get("second_topic", "") != d.latents.get("topic", "")
    ]
    moved = [d for d in moved if d.kind == "story"]
    assert len(moved) > 50
    for document in moved:
        assert {document.latents["topic"], document.latents["second_topic"]} <= document.concepts
