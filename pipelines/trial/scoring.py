"""C, P, F and their harmonic mean of generated texts, row by row, against unsteered ones.

The same function scores the dose-response of `directions` and the final texts of `evaluate`, so
that what a feature was chosen by is what it is judged by, on other prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from pipelines.trial.judges import Judge
from steering.evaluate import HELD, harmonic_mean, preservation
from steering.fluency import FluencyReference, fluency, mean_nats


@dataclass(frozen=True, slots=True, eq=False)
class Texts:
    """Generated texts of one concept, as parallel columns."""

    prompt_ids: Int[np.ndarray, " row"]
    seeds: Int[np.ndarray, " row"]
    prompts: Sequence[str]
    texts: Sequence[str]
    """Prompt and continuation."""
    ids: Sequence[Int[np.ndarray, " _"]]
    """Generated ids."""
    nats: Sequence[Float32[np.ndarray, " _"]]
    """Of each generated id under the unsteered model."""

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True, slots=True, eq=False)
class Baseline:
    """What the unsteered model does with a concept's prompts."""

    concept: str
    prompt_ids: Int[np.ndarray, " prompt"]
    """Ascending."""
    held: Bool[np.ndarray, "prompt column"]
    """What each prompt fixes and steering should keep; the target's slot left out."""
    unsteered: Float[np.ndarray, "prompt column"]
    """The judge's mean over each prompt's unsteered continuations."""
    reference: FluencyReference


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """One number a text; preservation is NaN where the prompt holds nothing else."""

    concept: Float[np.ndarray, " row"]
    preservation: Float[np.ndarray, " row"]
    fluency: Float[np.ndarray, " row"]
    hm: Float[np.ndarray, " row"]
    judged: Float[np.ndarray, "row column"]


def judged(judge: Judge, texts: Texts) -> Float[np.ndarray, "row column"]:
    """The judge's probabilities given each continuation alone."""
    return judge.probabilities(texts.texts, [len(prompt) for prompt in texts.prompts])


def baseline(
    judge: Judge,
    concept: str,
    texts: Texts,
    reference: FluencyReference,
    probabilities: Float[np.ndarray, "row column"],
) -> Baseline:
    """The baseline of a concept.

    Args:
        texts: unsteered continuations of its prompts.
        probabilities: the judge's, of those texts.
    """
    ids, first, place = np.unique(texts.prompt_ids, return_index=True, return_inverse=True)
    total = np.zeros((len(ids), probabilities.shape[1]))
    np.add.at(total, place, probabilities)
    in_prompt = judge.probabilities([texts.prompts[row] for row in first], [0] * len(first))
    held = (in_prompt >= HELD) & ~judge.rivals(concept)
    return Baseline(concept, ids, held, total / np.bincount(place)[:, None], reference)


def score(judge: Judge, base: Baseline, texts: Texts) -> Scores:
    """The scores of steered, or unsteered, continuations of the baseline's prompts."""
    return score_judged(judge, base, texts, judged(judge, texts))


def score_judged(
    judge: Judge, base: Baseline, texts: Texts, probabilities: Float[np.ndarray, "row column"]
) -> Scores:
    """The same from the judge's probabilities, where those are known already."""
    place = np.searchsorted(base.prompt_ids, texts.prompt_ids)
    concept = probabilities[:, judge.column(base.concept)]
    kept = preservation(probabilities, base.unsteered[place], base.held[place])
    fluent = fluency(mean_nats(texts.nats), texts.ids, base.reference)
    return Scores(concept, kept, fluent, harmonic_mean(concept, kept, fluent), probabilities)
