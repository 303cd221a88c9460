"""What is true of the corpus's documents: concepts, their labels, prompts and contrast pairs.

The microworld's come from its grammar, others' from lists of words. Writes no file.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from pipelines.corpora.labels import Concepts, Labels, Place
from pipelines.corpora.lexicon import Lexicon, first_words, pairs
from pipelines.corpora.pieces import Document
from pipelines.errors import CorpusError
from pipelines.params import Params

log = logging.getLogger("tiller.corpus")

HALVES = (("calibrate", "heldout"), ("test", "test"))
"""Each half of the prompts, and the split whose documents it is cut from."""


def concepts_of(params: Params, documents: Sequence[Document]) -> Concepts:
    """The concepts of a corpus: the grammar's own, and those that the parameters list by words.

    Raises:
        CorpusError: two concepts have one name.
    """
    lexicons = [Lexicon(concept) for concept in params.corpus.concepts]
    if params.corpus.source == "microworld":
        from pipelines.corpora.world import world_concepts

        found = world_concepts(params, documents)
    else:
        listed = [concept.model_dump(mode="json") for concept in params.corpus.concepts]
        found = Concepts([], Labels(), [], [], {"judge": "lexicon", "lexicon": listed})
        found.prompt.extend(_prompts(params, documents, lexicons))
    for lexicon in lexicons:
        _add_lexicon(found, lexicon, params, documents)
    return found


def _add_lexicon(
    found: Concepts, lexicon: Lexicon, params: Params, documents: Sequence[Document]
) -> None:
    name, concept_id = lexicon.concept.name, len(found.concept)
    if any(row["name"] == name for row in found.concept):
        raise CorpusError(
            f"two concepts are called {name!r}; expected each name once; rename one of "
            "corpus.concepts"
        )
    found.concept.append(
        {"concept_id": concept_id, "name": name, "kind": "token", "source": "lexicon"}
    )
    for place in Place.each(documents):
        found.labels.add_spans(concept_id, place, list(lexicon.spans(place.document.text)))
    texts = (document.text for document in documents if document.split == "train")
    made = pairs(lexicon, texts, params.corpus.pairs)
    if len(made) < params.corpus.pairs:
        log.warning("%s: %d contrast pairs of %d wanted", name, len(made), params.corpus.pairs)
    for pair_id, (positive, negative) in enumerate(made):
        found.pair.append(
            {"concept": name, "pair_id": pair_id, "positive": positive, "negative": negative}
        )


def _prompts(
    params: Params, documents: Sequence[Document], lexicons: Sequence[Lexicon]
) -> list[dict[str, Any]]:
    """Starts of documents that lean away from a concept, for each concept; without any, for all."""
    wanted = params.corpus.prompts // 2
    rows: list[dict[str, Any]] = []
    for lexicon in lexicons or (None,):
        name = None if lexicon is None else lexicon.concept.name
        leaning = "against" if lexicon is not None and lexicon.against else "neutral"
        for half, split in HALVES:
            texts = _starts(params, documents, split, lexicon)[:wanted]
            if len(texts) < wanted:
                log.warning("%s: %d prompts to %s of %d wanted", name, len(texts), half, wanted)
            rows += [
                {"prompt_set": leaning, "concept": name, "text": text, "split": half}
                for text in texts
            ]
    return [row | {"prompt_id": i, "latents": None} for i, row in enumerate(rows)]


def _starts(
    params: Params, documents: Sequence[Document], split: str, lexicon: Lexicon | None
) -> list[str]:
    found: dict[str, None] = {}
    for document in documents:
        if document.split == split:
            offsets = [span for span in document.encoded.offsets if span[0] < span[1]]
            text = first_words(document.text, offsets, params.corpus.prompt_tokens)
            if text and (lexicon is None or lexicon.is_open(text)):
                found[text] = None
    return list(found)
