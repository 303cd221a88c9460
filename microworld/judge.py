"""P(attribute | text) and log P(text), exactly, by inverting the grammar.

Three levels, tried in this order; each is a likelihood over the same hidden values:

1. *Exact.* The text, or a document that begins with it, has positive probability. Attributes are
   independent given a derivation, so the posterior is a mixture over derivations and plans of
   products (the two scenes of a story are summed jointly).
2. *Smoothed.* The sentences stand in an order that the grammar knows, but their words contradict
   one another. Every slot then has `(1 - 0.01) P(w | v) + 0.01 / |category|` in place of
   `P(w | v)`.
3. *Sentence by sentence.* Each sentence that some role could have written counts as in 2, in any
   order; a plan without that role pays a factor of 1/1000 (1/20 for a sentence of the context). Any
   other sentence counts as a bag of words:
   `0.95 count(w | v) / sum_w count(w | v) + 0.05 / |words of the attribute|` for every word that
   occurs in the attribute's word lists; a word that no sentence of a plan can hold costs the plan
   1/20 (a long bag as much as eight words). What the words say about an attribute moves the kind
   of document only through a plan's own priors.

With `start`, what lies before is context: it decides which sentence stands where, and is no
evidence. So a continuation is judged alone, and may contradict its prompt.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean, stdev
from types import MappingProxyType

from microworld.concepts import attribute_of
from microworld.errors import MicroworldError, UnknownConcept
from microworld.fallback import loose_derivation
from microworld.grammar import Document
from microworld.inference import masses_of, mixture, total_of
from microworld.parse import derivations

__all__ = ["Posterior", "entropy_floor", "log_prob", "posterior", "probability"]


@dataclass(frozen=True, slots=True)
class Posterior:
    """What a text says about every attribute."""

    attributes: Mapping[str, Mapping[str, float]]
    """Attribute -> value -> probability; with `none`, each adds up to 1. Of a story with two
    halves under judgement, `topic` and `subtopic` are the mean of both halves."""
    somewhere: Mapping[str, Mapping[str, float]]
    """`topic` and `subtopic` -> value -> P(it governs at least one judged half)."""
    log_prob: float
    """Nats; log P(text), or of beginning with it where it is cut short; -inf outside."""
    is_grammatical: bool
    """The whole text, from character 0, has positive probability."""
    is_truncated: bool
    """No whole document is this text."""
    n_sentences: int
    """Sentences that reach beyond `start`."""
    n_outside: int
    """Of those, finished sentences that no role could have written."""


@lru_cache(maxsize=2048)
def posterior(text: str, start: int = 0) -> Posterior:
    """What `text[start:]` says about every attribute, `text[:start]` being its context.

    Args:
        text: any text.
        start: characters of context; slots that begin before count for nothing.

    Raises:
        MicroworldError: `start` lies outside the text.
    """
    if not 0 <= start <= len(text):
        raise MicroworldError(
            f"start is {start}; expected 0 to {len(text)}, the length of the text; count characters"
        )
    found = derivations(text)
    whole = [derivation for derivation in found if derivation.is_complete]
    exact = masses_of(whole, 0, smooth=False)
    log_probability = total_of(exact)
    is_truncated = log_probability == -math.inf
    if is_truncated:
        exact = masses_of(found, 0, smooth=False)
        log_probability = total_of(exact)
    else:
        found = whole
    judged = exact if start == 0 else masses_of(found, start, smooth=False)
    n_outside = 0
    if total_of(judged) == -math.inf:
        if not found:
            loose, n_outside = loose_derivation(text, start)
            found = [loose]
        judged = masses_of(found, start, smooth=True)
    attributes, somewhere = mixture(judged)
    return Posterior(
        MappingProxyType(attributes),
        MappingProxyType(somewhere),
        log_probability,
        log_probability > -math.inf,
        is_truncated,
        sum(1 for sentence in found[0].sentences if sentence.end > start),
        n_outside,
    )


def probability(text: str, concept: str, start: int = 0) -> float:
    """P(a document-level concept holds | text).

    A topic or subtopic holds if it governs either of a story's halves that reach beyond `start`.

    Raises:
        UnknownConcept: no such concept, or one at token level.
    """
    meaning = attribute_of(concept)
    if meaning is None:
        raise UnknownConcept(
            f"{concept!r} is a concept of tokens; expected one of documents; "
            "look at Document.token_spans instead"
        )
    attribute, value = meaning
    judged = posterior(text, start)
    return (judged.somewhere if attribute in judged.somewhere else judged.attributes)[attribute][
        value
    ]


def log_prob(text: str) -> float:
    """log P(a document is `text`), nats; -inf where none is."""
    judged = posterior(text)
    return -math.inf if judged.is_truncated else judged.log_prob


def entropy_floor(documents: Iterable[Document]) -> tuple[float, float]:
    """(mean of -log P, its standard error) in nats a document.

    No model of these texts has a smaller expected loss. Compare a model's loss on the same
    documents, so that the spread between documents cancels.

    Raises:
        MicroworldError: fewer than two documents.
    """
    nats = [-log_prob(document.text) for document in documents]
    if len(nats) < 2:
        raise MicroworldError(
            f"{len(nats)} documents give no standard error; expected at least two; draw more"
        )
    return fmean(nats), stdev(nats) / math.sqrt(len(nats))
