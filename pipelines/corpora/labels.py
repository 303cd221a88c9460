"""Tables under construction: which concept holds of which document or token.

Knows character offsets and token numbers, and nothing of where a concept comes from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines.corpora.pieces import Document


@dataclass(frozen=True, slots=True)
class Place:
    """A document and where it stands in the corpus."""

    doc_id: int
    tok_start: int
    document: Document

    @classmethod
    def each(cls, documents: Sequence[Document]) -> Iterator[Place]:
        """Every document with its place."""
        tok_start = 0
        for doc_id, document in enumerate(documents):
            yield cls(doc_id, tok_start, document)
            tok_start += len(document.encoded.ids)


@dataclass(frozen=True, slots=True)
class Labels:
    """Rows of the table `concept_label`, by column."""

    concept_id: list[int] = field(default_factory=list)
    doc_id: list[int] = field(default_factory=list)
    tok: list[int | None] = field(default_factory=list)
    y: list[bool] = field(default_factory=list)

    def add(self, concept_id: int, doc_id: int, tok: int | None, *, y: bool) -> None:
        """Whether a concept holds of a document, or of one of its tokens."""
        self.concept_id.append(concept_id)
        self.doc_id.append(doc_id)
        self.tok.append(tok)
        self.y.append(y)

    def add_spans(
        self, concept_id: int, place: Place, spans: Sequence[tuple[int, int, bool]]
    ) -> None:
        """A row for each token that shares a character with a span.

        Args:
            spans: first character, one past the last, and whether the concept holds there;
                ascending and apart.
        """
        waiting = iter(spans)
        span = next(waiting, None)
        for offset, (start, end) in enumerate(place.document.encoded.offsets):
            while span is not None and span[1] <= start:
                span = next(waiting, None)
            if span is None:
                return
            if start < end and span[0] < end:
                self.add(concept_id, place.doc_id, place.tok_start + offset, y=span[2])


@dataclass(frozen=True, slots=True)
class Concepts:
    """The tables that say what is true of the documents, and how to steer by it."""

    concept: list[dict[str, Any]]
    labels: Labels
    prompt: list[dict[str, Any]]
    pair: list[dict[str, Any]]
    judge: dict[str, Any]
    """`judge`, and what the judge has to know."""
