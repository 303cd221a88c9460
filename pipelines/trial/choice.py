"""Causal choice: which features bring a concept about, at equal cost, on the calibrate prompts.

Three rankings propose candidates, a dose-response at equal dCE ranks them, and the best few are
tried again on prompts that the first round has not seen. No test prompt is read.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Float

from pipelines.params import DirectionsParams, Params
from pipelines.trial.arms import heldout_documents, read_prompts
from pipelines.trial.bench import Bench
from pipelines.trial.judges import Judge
from pipelines.trial.response import bases_of, feature_direction, responses
from steering.budget import solve_alike
from steering.direction import Direction
from steering.gradient import fisher, probed, word_gradients
from steering.intervals import Interval, interval
from steering.intervention import Add
from steering.select import candidates, choose, concept_tokens, efficiency
from steering.tax import HeldOut, delta_ce, held_out

WORDS: Final = 24
"""Ids that stand for a concept in the gradient, at most."""
FISHER_DRAWS: Final = 6
TOLERANCE: Final = 0.15
"""Relative miss of a dose's cost: doses are compared, not reported."""
FIRST_ROUND: Final = 3
"""One prompt in so many is spent on all candidates, the others on the finalists."""
SECOND_SAMPLES: Final = 2
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Trial:
    """What one candidate feature did for one concept."""

    feature_id: int
    effect: float
    """Mean HM over doses and prompts less the unsteered HM; -inf where no dose was reached."""
    coefficients: tuple[float, ...]
    """Of each dose, in mean residual norms; NaN where the cost was not reached."""
    best_dose: int
    hm: Interval
    """At the best dose, over prompts."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """All candidates of a concept, the best first."""

    concept: str
    trials: tuple[Trial, ...]
    by_auroc: int
    """The feature that reads the concept best: what a label alone would choose."""
    auroc: float


def rank_features(
    bench: Bench, judge: Judge, differences: Mapping[str, Direction], params: Params
) -> dict[str, Ranking]:
    """For each concept its candidates by what they cause.

    Args:
        differences: each concept's mean difference, whose cosine is one of the rankings.
    """
    settings = params.directions
    documents = heldout_documents("calibrate", settings.heldout_tokens)
    signs = _signs(bench, documents, differences)
    alive = bench.max_values > 0
    proposed = {
        concept: candidates(list(signs[concept].values()), alive, settings.candidates)
        for concept in differences
    }
    features = sorted(set().union(*proposed.values()))
    texts = held_out(bench.lm, list(documents.values()), max(map(len, documents.values())))
    doses = _doses(bench, features, texts, settings)
    log.info("%d candidates for %d concepts", len(features), len(proposed))
    found = {}
    for concept, trials in _race(bench, judge, proposed, doses, params).items():
        auroc = signs[concept]["auroc"]
        best = int(np.nanargmax(np.where(alive, auroc, np.nan)))
        found[concept] = Ranking(concept, tuple(trials), best, float(auroc[best]))
    return found


def _race(
    bench: Bench,
    judge: Judge,
    proposed: Mapping[str, Sequence[int]],
    doses: Mapping[int, tuple[float, ...]],
    params: Params,
) -> dict[str, list[Trial]]:
    """Two rounds: all candidates on every third prompt, then the best few on the rest too."""
    settings = params.directions
    prompts = {
        c: read_prompts(bench.lm, c, "calibrate", settings.prompts, settings.max_new_tokens)
        for c in proposed
    }
    bases, unsteered = bases_of(bench, judge, prompts, params)
    asked = {c: (proposed[c], prompts[c][0::FIRST_ROUND]) for c in proposed}
    first = responses(bench, judge, bases, asked=asked, doses=doses, params=params)
    ranked = {c: _trials(proposed[c], first[c], unsteered[c], doses) for c in proposed}
    final = {c: [t.feature_id for t in ranked[c][: settings.finalists]] for c in proposed}
    rest = {c: [p for n, p in enumerate(prompts[c]) if n % FIRST_ROUND] for c in proposed}
    asked = {c: (final[c], rest[c]) for c in proposed}
    second = responses(
        bench, judge, bases, asked=asked, doses=doses, params=params, samples=SECOND_SAMPLES
    )
    found = {}
    for concept, finalists in final.items():
        places = [proposed[concept].index(feature) for feature in finalists]
        both = np.concatenate([first[concept][places], second[concept]], axis=2)
        best = _trials(finalists, both, unsteered[concept], doses)
        log.info(
            "%s: HM unsteered %.2f, finalists by dose %s",
            concept,
            float(np.nanmean(unsteered[concept])),
            np.round(np.nanmean(both, axis=(0, 2)), 3).tolist(),
        )
        found[concept] = best + ranked[concept][len(finalists) :]
    return found


def _signs(
    bench: Bench, documents: Mapping[int, Sequence[int]], differences: Mapping[str, Direction]
) -> dict[str, dict[str, Float[np.ndarray, " d_sae"]]]:
    """Each concept's rankings of all features."""
    words, neutral = {}, {}
    for concept in differences:
        ids = concept_tokens(*bench.token_counts(concept), WORDS)
        is_neutral = ~np.isin(list(documents), bench.positive_documents(concept))
        if len(ids) and is_neutral.any():
            words[concept] = torch.from_numpy(ids).to(bench.lm.device)
            neutral[concept] = torch.from_numpy(is_neutral).to(bench.lm.device)
    with probed(bench.lm, list(documents.values()), bench.hook_point) as run:
        gradients = word_gradients(run, words, neutral)
        metric = fisher(run, FISHER_DRAWS, seed=0)
    rows = bench.sae.W_dec.detach().float().cpu()
    signs = {}
    for concept, difference in differences.items():
        signs[concept] = {
            "auroc": bench.auroc(concept),
            "cosine": (rows @ difference.vector.cpu()).double().numpy(),
        }
        if concept in gradients:
            gain = efficiency(gradients[concept].float().cpu(), metric, rows)
            signs[concept]["gradient"] = gain.double().numpy()
    return signs


def _doses(
    bench: Bench,
    features: Sequence[int],
    texts: HeldOut,
    settings: DirectionsParams,
) -> dict[int, tuple[float, ...]]:
    """The coefficients at which each feature costs the doses' budgets."""
    directions = [feature_direction(bench, feature) for feature in features]

    def cost(which: np.ndarray, doses: np.ndarray) -> np.ndarray:
        pairs = zip(which, doses, strict=True)
        return delta_ce(bench.lm, texts, [[Add(directions[i], float(x))] for i, x in pairs])

    solved = solve_alike(cost, len(features), settings.budgets, tolerance=TOLERANCE)
    return {
        feature: tuple(solution.coefficient for solution in solutions)
        for feature, solutions in zip(features, solved, strict=True)
    }


def _trials(
    features: Sequence[int],
    scores: Float[np.ndarray, "candidate dose prompt"],
    unsteered: Float[np.ndarray, " sample"],
    doses: Mapping[int, tuple[float, ...]],
) -> list[Trial]:
    """The candidates, the best first."""
    choice = choose(scores, unsteered)
    return [
        Trial(
            feature_id=features[place],
            effect=effect,
            coefficients=doses[features[place]],
            best_dose=best,
            hm=interval(scores[place, best]),
        )
        for place, effect, best in zip(choice.order, choice.effect, choice.best_dose, strict=True)
    ]
