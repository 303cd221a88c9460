"""The microworld as a corpus: its documents, and what its grammar knows to be true of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any

from microworld import CONCEPTS, Prompt, pairs, prompts, sample
from microworld import Document as WorldDocument
from microworld.concepts import Concept
from pipelines.corpora.labels import Concepts, Labels, Place
from pipelines.corpora.pieces import Document
from pipelines.params import Params

CORPUS_SEEDS = 1000
"""Added to the seed, so that no corpus is what the shipped model was trained on (seeds 1 to 4)."""
OF_ANY_STORY = frozenset({"weather", "season", "gender", "animal", "tense"})
"""Attributes that the prompts for any concept may reveal, so that these need their own."""


def world_documents(seed: int) -> Iterator[WorldDocument]:
    """The endless corpus of a seed."""
    return (sample(CORPUS_SEEDS + seed, index) for index in count())


def world_concepts(params: Params, documents: Sequence[Document]) -> Concepts:
    """All that the grammar knows of these documents, and its own prompts and pairs."""
    labels = Labels()
    for place in Place.each(documents):
        _label(labels, place)
    return Concepts(
        [
            {"concept_id": i, "name": concept.name, "kind": concept.kind, "source": "grammar"}
            for i, concept in enumerate(CONCEPTS)
        ],
        labels,
        _prompts(params),
        [
            {"concept": concept.name, "pair_id": i, "positive": positive, "negative": negative}
            for concept in CONCEPTS
            if concept.means is not None
            for i, (positive, negative) in enumerate(
                pairs(concept.name, params.corpus.pairs, CORPUS_SEEDS + params.seed)
            )
        ],
        {"judge": "microworld", "lexicon": []},
    )


def _label(labels: Labels, place: Place) -> None:
    """A concept is true or false of documents that have its attribute, and else undefined.

    The kind of document is an attribute of them all, so there only what is true is listed.
    """
    world: WorldDocument = place.document.world
    spans: dict[str, list[tuple[int, int, bool]]] = {}
    for span in world.token_spans:
        shift = place.document.start
        spans.setdefault(span.concept, []).append((span.start - shift, span.end - shift, True))
    for concept_id, concept in enumerate(CONCEPTS):
        if concept.means is None:
            labels.add_spans(concept_id, place, spans.get(concept.name, []))
        elif concept.name in world.concepts:
            labels.add(concept_id, place.doc_id, None, y=True)
        elif concept.means[0] != "kind" and concept.means[0] in world.latents:
            labels.add(concept_id, place.doc_id, None, y=False)


def _prompts(params: Params) -> list[dict[str, Any]]:
    """Prompts for any concept, which tell neither scene nor emotion, and for each attribute that
    they do tell, prompts that leave it open."""
    n, seed = params.corpus.prompts, CORPUS_SEEDS + params.seed
    rows = _halves(None, prompts(n, seed))
    own: dict[str, list[Prompt]] = {}
    for concept in CONCEPTS:
        attribute = _attribute(concept)
        if attribute in OF_ANY_STORY:
            if attribute not in own:
                own[attribute] = prompts(n, seed, neutral_to=attribute)
            rows += _halves(concept.name, own[attribute])
    return [row | {"prompt_id": i} for i, row in enumerate(rows)]


def _attribute(concept: Concept) -> str:
    return concept.means[0] if concept.means is not None else ""


def _halves(concept: str | None, found: Sequence[Prompt]) -> list[dict[str, Any]]:
    distinct: Mapping[str, Prompt] = {prompt.text: prompt for prompt in found}
    half = len(distinct) // 2
    return [
        {
            "prompt_set": "neutral",
            "concept": concept,
            "text": text,
            "split": "calibrate" if i < half else "test",
            "latents": dict(prompt.latents),
        }
        for i, (text, prompt) in enumerate(distinct.items())
    ]
