"""Concepts of one's own, told by their words: labels on tokens, contrast pairs, prompts.

A word counts whole and in any case. Knows texts and character offsets; no model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from pipelines.params import ConceptParams

WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’]?\s+|\n+")
LONGEST_SENTENCE = 300
"""Characters; longer ones are lists and tables rather than sentences."""


@dataclass(frozen=True)
class Lexicon:
    """The words of one concept, ready to be looked up."""

    concept: ConceptParams

    @cached_property
    def words(self) -> frozenset[str]:
        """Lower-case words that show the concept."""
        return frozenset(word.lower() for word in self.concept.words)

    @cached_property
    def against(self) -> frozenset[str]:
        """Lower-case words that show its opposite."""
        return frozenset(word.lower() for word in self.concept.against)

    @cached_property
    def opposite(self) -> Mapping[str, str]:
        """Each word of the concept with a counterpart, and that counterpart."""
        pairs = zip(self.concept.words, self.concept.against, strict=False)
        return {word.lower(): other.lower() for word, other in pairs}

    @cached_property
    def counterpart(self) -> Mapping[str, str]:
        """Each opposite word, and the first word of the concept that it stands against."""
        return {other: word for word, other in reversed(list(self.opposite.items()))}

    def spans(self, text: str) -> Iterator[tuple[int, int, bool]]:
        """Characters of each word that shows the concept (True) or its opposite (False)."""
        for match in WORD.finditer(text):
            word = match[0].lower()
            if word in self.words or word in self.against:
                yield match.start(), match.end(), word in self.words

    def mentions(self, text: str) -> bool:
        """Whether any word for or against the concept occurs."""
        return any(True for _ in self.spans(text))

    def is_open(self, text: str) -> bool:
        """Whether a prompt leaves something to steer: no word for the concept, some against it.

        Where no word speaks against the concept, silence is enough.
        """
        said = {is_for for _, _, is_for in self.spans(text)}
        return said == ({False} if self.against else set())

    def swapped(self, sentence: str) -> tuple[str, str] | None:
        """The sentence with the concept throughout, and with its opposite throughout.

        None where no word of it can be swapped, or one of its words has no counterpart.
        """
        found = {sentence[start:end].lower() for start, end, _ in self.spans(sentence)}
        if not found or not found <= set(self.opposite) | set(self.counterpart):
            return None
        positive = _replaced(sentence, {w: w for w in self.opposite} | dict(self.counterpart))
        negative = _replaced(sentence, {w: w for w in self.counterpart} | dict(self.opposite))
        return (positive, negative) if positive != negative else None


def pairs(lexicon: Lexicon, texts: Iterable[str], n: int) -> list[tuple[str, str]]:
    """Up to `n` pairs of a sentence that has the concept and one that has not.

    With words against it, both are one sentence with its words swapped. Without, a sentence
    that has a word stands beside the next sentence that has none.
    """
    made: dict[tuple[str, str], None] = {}
    waiting: list[str] = []
    for sentence in _sentences(texts):
        if len(made) >= n:
            break
        if lexicon.concept.against:
            if (pair := lexicon.swapped(sentence)) is not None:
                made[pair] = None
        elif lexicon.mentions(sentence):
            waiting.append(sentence)
        elif waiting:
            made[waiting.pop(0), sentence] = None
    return list(made)


def first_words(text: str, offsets: Sequence[tuple[int, int]], n_tokens: int) -> str:
    """The start of a text, at most `n_tokens` tokens and half of them all, cut at a word's end."""
    limit = min(n_tokens, len(offsets) // 2)
    if limit < 1:
        return ""
    end = offsets[limit - 1][1]
    if end < len(text) and not text[end].isspace() and not text[end - 1 : end].isspace():
        inside = re.search(r"\s\S*$", text[:end])
        end = inside.start() if inside else 0
    return text[:end].rstrip()


def _sentences(texts: Iterable[str]) -> Iterator[str]:
    seen: set[str] = set()
    for text in texts:
        for sentence in _SENTENCE_END.split(text):
            found = sentence.strip()
            if 0 < len(found) <= LONGEST_SENTENCE and found not in seen:
                seen.add(found)
                yield found


def _replaced(sentence: str, words: Mapping[str, str]) -> str:
    def other(match: re.Match[str]) -> str:
        word = match[0]
        found = words.get(word.lower())
        if found is None or found == word.lower():
            return word
        if word.isupper() and len(word) > 1:
            return found.upper()
        return found[:1].upper() + found[1:] if word[:1].isupper() else found

    return WORD.sub(other, sentence)
