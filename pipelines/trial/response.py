"""The dose-response of features on the calibrate prompts: what each did, prompt by prompt.

Continuations of all concepts share batches, and are scored as the final texts are. Chooses nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float

from pipelines.params import Params
from pipelines.trial.arms import Prompt, continued, sample_seed
from pipelines.trial.bench import Bench
from pipelines.trial.judges import Judge
from pipelines.trial.scoring import Baseline, Texts, baseline, judged, score, score_judged
from steering.direction import Direction
from steering.fluency import mean_nats, reference
from steering.intervention import Add
from steering.sampling import Ask, sample
from steering.sources.decoder import decoder

UNSTEERED_SAMPLES: Final = 2
BATCH_ROWS: Final = 384


@dataclass(frozen=True, slots=True)
class Try:
    """One continuation to make."""

    concept: str
    feature_id: int | None
    dose: float
    """In mean residual norms."""
    prompt: Prompt
    sample: int


def feature_direction(bench: Bench, feature_id: int, concept: str | None = None) -> Direction:
    """What a latent writes, with its scales."""
    return decoder(
        bench.sae,
        feature_id,
        max_act=float(bench.max_values[feature_id]),
        mean_norm=bench.mean_norm,
        concept=concept,
        run_id=bench.slug,
    )


def bases_of(
    bench: Bench, judge: Judge, prompts: Mapping[str, Sequence[Prompt]], params: Params
) -> tuple[dict[str, Baseline], dict[str, Float[np.ndarray, " sample"]]]:
    """What the unsteered model does with each concept's prompts, and its HM there."""
    asked = {
        concept: [
            Try(concept, None, 0.0, prompt, sample)
            for prompt in mine
            for sample in range(UNSTEERED_SAMPLES)
        ]
        for concept, mine in prompts.items()
    }
    bases, unsteered = {}, {}
    for concept, texts in _texts(bench, asked, params).items():
        ref = reference(mean_nats(texts.nats), texts.ids)
        probabilities = judged(judge, texts)
        bases[concept] = baseline(judge, concept, texts, ref, probabilities)
        unsteered[concept] = score_judged(judge, bases[concept], texts, probabilities).hm
    return bases, unsteered


def responses(
    bench: Bench,
    judge: Judge,
    bases: Mapping[str, Baseline],
    *,
    asked: Mapping[str, tuple[Sequence[int], Sequence[Prompt]]],
    doses: Mapping[int, tuple[float, ...]],
    params: Params,
    samples: int = 1,
) -> dict[str, Float[np.ndarray, "candidate dose prompt"]]:
    """HM of every candidate at every dose on every prompt; NaN where a dose was not reached."""
    tries = {
        concept: [
            Try(concept, feature, dose, prompt, number)
            for feature in features
            for dose in doses[feature]
            for prompt in prompts
            for number in range(samples)
            if not math.isnan(dose)
        ]
        for concept, (features, prompts) in asked.items()
    }
    found = {}
    for concept, texts in _texts(bench, tries, params).items():
        features, prompts = asked[concept]
        shape = (len(features), len(params.directions.budgets), len(prompts))
        reached = np.array([doses[feature] for feature in features])
        hm = np.full(shape, np.nan)
        each = score(judge, bases[concept], texts).hm
        hm[~np.isnan(reached)] = each.reshape(-1, len(prompts), samples).mean(axis=2)
        found[concept] = hm
    return found


def _texts(bench: Bench, tries: Mapping[str, Sequence[Try]], params: Params) -> dict[str, Texts]:
    """Every try's text, of all concepts in shared batches."""
    lm, settings = bench.lm, params.directions
    flat = [one for mine in tries.values() for one in mine]
    pushes: dict[tuple[int, float], tuple[Add, ...]] = {}
    for one in flat:
        if one.feature_id is not None and (one.feature_id, one.dose) not in pushes:
            direction = feature_direction(bench, one.feature_id)
            pushes[one.feature_id, one.dose] = (Add(direction, one.dose),)
    asks = [
        Ask(
            one.prompt.ids,
            sample_seed(params.seed, one.prompt.prompt_id, one.sample),
            () if one.feature_id is None else pushes[one.feature_id, one.dose],
        )
        for one in flat
    ]
    answers = iter(
        sample(
            lm,
            asks,
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            batch_rows=BATCH_ROWS,
        )
    )
    found = {}
    for concept, mine in tries.items():
        own = [next(answers) for _ in mine]
        read = [continued(lm, t.prompt.ids, a.ids) for t, a in zip(mine, own, strict=True)]
        found[concept] = Texts(
            prompt_ids=np.array([one.prompt.prompt_id for one in mine], dtype=np.int64),
            seeds=np.array([one.sample for one in mine], dtype=np.int64),
            prompts=[prompt for prompt, _ in read],
            texts=[text for _, text in read],
            ids=[np.array(answer.ids, dtype=np.int64) for answer in own],
            nats=[answer.nats for answer in own],
        )
    return found
