"""Who says what a text is about: the small world's exact posterior, or a list of words.

`data/corpus/corpus.json` names the judge. A judge gives a probability for every column, a column
being one value of one attribute; it sees the continuation, never which method wrote it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from jaxtyping import Bool, Float

from pipelines.errors import PipelineError, require
from pipelines.executor import map_in_order
from store.manifest import read_json

NESTED: Final = frozenset({"topic", "subtopic"})
"""Attributes of the small world of which one is a part of the other."""
CHUNK: Final = 512
"""Texts that one process judges at a time."""
WORD: Final = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


class Judge(Protocol):
    """Gives each text a probability of every attribute value that it knows."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the attribute values, in the order of the probabilities."""
        ...

    def probabilities(
        self, texts: Sequence[str], starts: Sequence[int]
    ) -> Float[np.ndarray, "text column"]:
        """P(value | the text from its start on), with the characters before `start` unread."""
        ...

    def column(self, concept: str) -> int:
        """Where a concept's own value stands."""
        ...

    def rivals(self, concept: str) -> Bool[np.ndarray, " column"]:
        """The concept and the values that must give way to it: others of its slot."""
        ...


def open_judge(corpus: Path, workers: int = 1) -> Judge:
    """The judge that the corpus was made for.

    Raises:
        PipelineError: the corpus names a judge that does not exist.
    """
    record: dict[str, Any] = read_json(require(corpus / "corpus.json", "corpus"))
    match record.get("judge"):
        case "microworld":
            return WorldJudge(workers)
        case "lexicon":
            return WordJudge.of(record.get("lexicon") or [])
        case other:
            raise PipelineError(
                f"{corpus / 'corpus.json'} names the judge {other!r}; expected 'microworld' or "
                "'lexicon'; run `tiller run --from corpus`"
            )


@dataclass(frozen=True)
class WordJudge:
    """A concept is its words: a share of the words that speak for it or against it.

    With words against it: for / (for + against), and 0 where neither occurs, since a text
    without a pronoun is not about a woman. Without: 1 where any of its words occurs, else 0.
    """

    lists: Mapping[str, tuple[frozenset[str], frozenset[str]]]
    """Concept -> (words for, words against), lower case."""

    @classmethod
    def of(cls, concepts: Sequence[Mapping[str, Any]]) -> WordJudge:
        """From the lexicon of a corpus's record: a list of {name, words, against}."""
        return cls(
            {
                item["name"]: (
                    frozenset(word.lower() for word in item["words"]),
                    frozenset(word.lower() for word in item.get("against") or ()),
                )
                for item in concepts
            }
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """The concepts that have words."""
        return tuple(self.lists)

    def probabilities(
        self, texts: Sequence[str], starts: Sequence[int]
    ) -> Float[np.ndarray, "text column"]:
        """The share of each concept in the words from the start on."""
        found = np.zeros((len(texts), len(self.lists)))
        for row, (text, start) in enumerate(zip(texts, starts, strict=True)):
            words = [word.lower() for word in WORD.findall(text, start)]
            for column, (own, against) in enumerate(self.lists.values()):
                hits = sum(word in own for word in words)
                misses = sum(word in against for word in words)
                found[row, column] = (hits / (hits + misses) if against else 1.0) if hits else 0.0
        return found

    def column(self, concept: str) -> int:
        """Where the concept stands.

        Raises:
            PipelineError: it has no list of words.
        """
        return _place(concept, self.columns)

    def rivals(self, concept: str) -> Bool[np.ndarray, " column"]:
        """The concept, and those whose words speak against it or it against them."""
        own, against = self.lists[self.columns[self.column(concept)]]
        return np.array(
            [
                name == concept or bool(words & against) or bool(others & own)
                for name, (words, others) in self.lists.items()
            ]
        )


@dataclass(frozen=True)
class WorldJudge:
    """The small world's own posterior: exact for grammatical text, a stated fallback otherwise."""

    workers: int = 1
    """Processes that judge; the probabilities are the same for any number."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Every value of every attribute, as `attribute=value`."""
        from microworld.concepts import ATTRIBUTES

        return tuple(f"{name}={value}" for name, values in ATTRIBUTES.items() for value in values)

    def probabilities(
        self, texts: Sequence[str], starts: Sequence[int]
    ) -> Float[np.ndarray, "text column"]:
        """The posterior given what lies behind each start; a topic holds if it governs any half."""
        items = list(zip(texts, starts, strict=True))
        chunks = [items[at : at + CHUNK] for at in range(0, len(items), CHUNK)]
        found = list(map_in_order(_world_rows, chunks, self.workers if len(chunks) > 1 else 1))
        return np.concatenate(found) if found else np.zeros((0, len(self.columns)))

    def column(self, concept: str) -> int:
        """Where the value that the concept stands for is.

        Raises:
            PipelineError: the concept is one of tokens, which no posterior judges.
        """
        from microworld.concepts import attribute_of

        meaning = attribute_of(concept)
        return _place("=".join(meaning) if meaning else concept, self.columns)

    def rivals(self, concept: str) -> Bool[np.ndarray, " column"]:
        """Values of the concept's attribute, and of the one nested in it."""
        attribute = self.columns[self.column(concept)].partition("=")[0]
        slot = NESTED if attribute in NESTED else {attribute}
        return np.array([column.partition("=")[0] in slot for column in self.columns])


def _world_rows(items: Sequence[tuple[str, int]]) -> Float[np.ndarray, "text column"]:
    """The posteriors of some texts as rows of `WorldJudge.columns`."""
    from microworld.concepts import ATTRIBUTES
    from microworld.judge import posterior

    rows = []
    for text, start in items:
        found = posterior(text, start)
        rows.append(
            [
                found.somewhere.get(name, found.attributes[name])[value]
                for name, values in ATTRIBUTES.items()
                for value in values
            ]
        )
    return np.array(rows)


def _place(concept: str, columns: Sequence[str]) -> int:
    if concept not in columns:
        raise PipelineError(
            f"the judge does not know {concept!r}; expected one of {', '.join(columns)}; "
            "correct directions.concepts"
        )
    return columns.index(concept)
