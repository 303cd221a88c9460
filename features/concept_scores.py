"""Which features read a concept of one's own best, asked of the store without a stage.

Features are ranked on the score split and their figures are of another one, so that the
best of thousands does not flatter. Activations are read in feature order, some at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int

from features.auroc import Reading, read_concepts
from features.concept_tables import concept_q_values, missing_class
from features.documents import ConceptTruth, Documents, gather, read_documents
from features.errors import ConceptError
from features.held_out import held_out
from features.measured import Measured, measure_concepts
from features.own_concepts import OwnConcepts
from features.statistics import Activations
from features.vocab import Vocab

Split = Literal["train", "heldout", "label", "score", "test"]
RANKED_ON: Split = "score"
ACTIVATIONS_AT_ONCE = 4_000_000
AnyReading = TypeVar("AnyReading", bound=Reading)


@dataclass(frozen=True, slots=True, eq=False)
class ConceptScore:
    """How well every feature reads one concept."""

    truth: ConceptTruth
    feature: Int[np.ndarray, " feature"]
    """Features that fire on the score split, the one that reads it best there first."""
    reading: Measured
    """Figures on the split that was asked for, by the place in `feature`; F1 is at the
    threshold that is best on the score split."""
    q_value: Float[np.ndarray, " feature"]
    """Over these features and all concepts asked for at once."""


def score_concepts(
    own: OwnConcepts,
    corpus_dir: Path,
    features: Iterable[Activations],
    *,
    split: Split = "test",
    at_once: int = ACTIVATIONS_AT_ONCE,
) -> tuple[ConceptScore, ...]:
    """Every feature against each of these concepts.

    Args:
        features: in feature order, as `store.activations.iter_features` gives them.
        split: whose figures to give.
        at_once: activations in memory at a time, or one feature's if those are more.

    Raises:
        ConceptError: on one of the two splits a concept holds nowhere, or everywhere.
    """
    vocab = Vocab.read(corpus_dir)
    names = dict.fromkeys((RANKED_ON, split))
    documents = [_own_documents(corpus_dir, name, vocab, own) for name in names]
    number: list[np.ndarray] = []
    alive: list[np.ndarray] = []
    chosen: list[tuple[Reading, ...]] = []
    shown: list[tuple[Measured, ...]] = []
    for ids, block in _blocks(features, at_once):
        evidence = gather(documents, block, len(ids))
        number.append(ids)
        alive.append(evidence[0].n_act > 0)
        if split == RANKED_ON:
            shown.append(measure_concepts(evidence[0]))
            chosen.append(shown[-1])
        else:
            chosen.append(read_concepts(evidence[0]))
            shown.append(held_out(chosen[-1], evidence[1]))
    if not number:
        raise ConceptError("no feature fires at all; expected activations; harvest again")
    on_score = [_joined(parts) for parts in zip(*chosen, strict=True)]
    on_split = [_joined(parts) for parts in zip(*shown, strict=True)]
    for reading in on_score:
        _check(reading, RANKED_ON)
    for reading in on_split:
        _check(reading, split)
    is_alive = np.concatenate(alive)
    q = concept_q_values(on_split, is_alive)
    every = np.concatenate(number)
    return tuple(
        _ranked(ranked_by, reading, q[i], every, is_alive)
        for i, (ranked_by, reading) in enumerate(zip(on_score, on_split, strict=True))
    )


def _own_documents(corpus_dir: Path, split: str, vocab: Vocab, own: OwnConcepts) -> Documents:
    documents = read_documents(corpus_dir, split, vocab, own)
    wanted = set(own.concept["concept_id"].to_pylist())
    kept = tuple(truth for truth in documents.truths if truth.concept_id in wanted)
    return replace(documents, truths=kept)


def _blocks(
    features: Iterable[Activations], at_once: int
) -> Iterator[tuple[Int[np.ndarray, " feature"], list[Activations]]]:
    """Features in blocks, numbered from 0 in each, with their own numbers beside."""
    ids: list[int] = []
    block: list[Activations] = []
    held = 0
    for feature, tok, value in features:
        if block and held + len(tok) > at_once:
            yield np.array(ids), block
            ids, block, held = [], [], 0
        block.append((len(ids), tok, value))
        ids.append(feature)
        held += len(tok)
    if block:
        yield np.array(ids), block


def _joined(parts: tuple[AnyReading, ...]) -> AnyReading:
    """Readings of one concept by blocks of features as one."""
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in _by_feature(parts[0])
    }
    return replace(parts[0], **columns)


def _by_feature(reading: Reading) -> list[str]:
    """The columns that have one figure a feature."""
    return [f.name for f in fields(reading) if isinstance(getattr(reading, f.name), np.ndarray)]


def _check(reading: Reading, split: str) -> None:
    if (why := missing_class(reading, split)) is not None:
        raise ConceptError(
            f"the concept {reading.truth.name!r} has {reading.n_pos} positives and "
            f"{reading.n_neg} negatives on {split} ({why}); expected both there; give it more "
            "places, or ask another split"
        )


def _ranked(
    ranked_by: Reading,
    reading: Measured,
    q: Float[np.ndarray, " feature"],
    every: Int[np.ndarray, " feature"],
    is_alive: Bool[np.ndarray, " feature"],
) -> ConceptScore:
    place = np.flatnonzero(is_alive)
    order = np.lexsort((every[place], -ranked_by.best_f1[place], -ranked_by.auroc[place]))
    best = place[order]
    columns: dict[str, Any] = {name: getattr(reading, name)[best] for name in _by_feature(reading)}
    return ConceptScore(reading.truth, every[best], replace(reading, **columns), q[best])
