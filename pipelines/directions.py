"""directions: one direction a concept and method, controls among them, at one hook point.

`label` is the feature that reads the concept best, `causal` the one that brings it about best on
the calibrate prompts, `causal3` several such weighted by effect; the rest come from contrast
pairs. Names only what a direction is made of, so equal inputs give equal bytes.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from pipelines.params import Params, load_params
from pipelines.stage import run_stage
from pipelines.trial.arms import CORPUS, direction_id
from pipelines.trial.bench import FEATURES, Bench
from pipelines.trial.choice import Ranking, Trial, rank_features
from pipelines.trial.judges import open_judge
from pipelines.trial.output_labels import output_labels
from pipelines.trial.response import feature_direction
from pipelines.trial.steerability import causal_rows
from steering.direction import Direction, Fact, save_directions
from steering.select import (
    weights_by_effect,
)
from steering.sources.actadd import actadd
from steering.sources.diff_mean import from_rows
from steering.sources.pca import lat
from steering.sources.random import matched_feature, random_direction
from steering.sources.reading import read_texts
from store.atomic import whole_dir
from store.schema import read_metadata_of_runs, write_table

OUT = Path("data/directions")
ACTADD_TOKENS = 12
"""Tokens of the one pair, at most."""
log = logging.getLogger(__name__)


def main() -> None:
    """Find every direction and write `data/directions`."""
    params = load_params()
    bench = Bench.open(params)
    judge = open_judge(CORPUS)
    for concept in params.directions.concepts:
        # Asked before any work, so that a missing label or an unknown concept costs seconds.
        judge.column(concept)
        bench.auroc(concept)
    directions: dict[str, Direction] = {}
    differences = {}
    for number, concept in enumerate(params.directions.concepts):
        directions |= paired(bench, concept)
        differences[concept] = directions[direction_id(concept, "diff_mean")]
        directions[direction_id(concept, "random")] = random_direction(
            bench.lm.d_model,
            hook_point=bench.hook_point,
            seed=_seed(params, number),
            mean_norm=bench.mean_norm,
        )
    rankings = rank_features(bench, judge, differences, params)
    for number, concept in enumerate(params.directions.concepts):
        directions |= chosen(bench, rankings[concept], _seed(params, number), params)
    directions = {name: one.for_model(bench.lm) for name, one in directions.items()}
    with whole_dir(OUT) as scratch:
        save_directions(scratch / "directions.safetensors", directions)
        metadata = {**read_metadata_of_runs(FEATURES, [bench.slug]), "stage": "directions"}
        rows = pa.Table.from_pylist(direction_rows(directions))
        write_table(scratch / "direction.parquet", "direction", rows, metadata)
        rows = pa.Table.from_pylist(causal_rows(bench, list(rankings.values()), params))
        write_table(scratch / "causal.parquet", "steerability", rows, metadata)
        if spoken := output_labels(bench, params):
            rows = pa.Table.from_pylist(spoken)
            write_table(scratch / "output_label.parquet", "output_label", rows, metadata)
    log.info("%d directions for %d concepts", len(directions), len(rankings))


def paired(bench: Bench, concept: str) -> dict[str, Direction]:
    """The directions of a concept's contrast pairs: mean difference, LAT, one pair by places."""
    pairs, hook_point, mean_norm = bench.pairs(concept), bench.hook_point, bench.mean_norm
    positive, negative = (
        read_texts(bench.lm, side, hook_point, "mean") for side in zip(*pairs, strict=True)
    )
    found = {
        direction_id(concept, method): replace(
            made, provenance={**made.provenance, "pairs": len(pairs)}
        )
        for method, made in (
            (
                "diff_mean",
                from_rows(
                    positive, negative, hook_point=hook_point, mean_norm=mean_norm, concept=concept
                ),
            ),
            (
                "pca",
                lat(
                    positive, negative, hook_point=hook_point, mean_norm=mean_norm, concept=concept
                ),
            ),
        )
    }
    one, other = _contrast(bench, pairs[0])
    places = actadd(bench.lm, one, other, hook_point, mean_norm=mean_norm, concept=concept)
    for direction in places:
        name = f"{direction_id(concept, 'actadd')}/{direction.provenance['place']:03d}"
        found[name] = direction
    return found


def chosen(bench: Bench, ranking: Ranking, seed: int, params: Params) -> dict[str, Direction]:
    """The feature directions of a concept: by label, by cause, several, and a matched control."""
    concept, best = ranking.concept, ranking.trials[0]
    label = feature_direction(bench, ranking.by_auroc, concept)
    causal = feature_direction(bench, best.feature_id, concept)
    facts: dict[str, Fact] = {
        "effect": best.effect if math.isfinite(best.effect) else None,
        "candidates": len(ranking.trials),
    }
    top = [t for t in ranking.trials if not math.isnan(t.coefficients[0])][
        : params.directions.features
    ] or [best]
    control = matched_feature(
        bench.densities,
        best.feature_id,
        seed=seed,
        exclude=[trial.feature_id for trial in ranking.trials],
    )
    found = {
        "label": replace(label, provenance={**label.provenance, "auroc": ranking.auroc}),
        "causal": replace(causal, provenance={**causal.provenance, **facts}),
        "causal3": _combined(bench, top, concept),
        "random_feature": feature_direction(bench, control),
    }
    return {direction_id(concept, method): direction for method, direction in found.items()}


def _combined(bench: Bench, trials: Sequence[Trial], concept: str) -> Direction:
    """Several features in one direction, weighted by effect and own dose."""
    weights = weights_by_effect(
        [trial.effect for trial in trials], [trial.coefficients[0] for trial in trials]
    )
    vector = torch.zeros(bench.lm.d_model)
    facts: dict[str, Fact] = {"run_id": bench.slug}
    for number, (trial, weight) in enumerate(zip(trials, weights, strict=True)):
        vector += weight * feature_direction(bench, trial.feature_id).vector.cpu()
        facts |= {f"feature_{number}": trial.feature_id, f"weight_{number}": round(weight, 6)}
    return Direction.from_vector(
        vector,
        bench.hook_point,
        mean_norm=bench.mean_norm,
        source="decoder_sum",
        concept=concept,
        provenance=facts,
    )


def direction_rows(directions: Mapping[str, Direction]) -> list[dict[str, Any]]:
    """Rows of the table `direction`, one a name that the other tables use."""
    rows: dict[str, dict[str, Any]] = {}
    for name in sorted(directions):
        direction, (concept, method) = directions[name], name.split("/")[:2]
        arm = direction_id(concept, method)
        feature = direction.provenance.get("feature_id")
        row = {
            "direction_id": arm,
            "source": method,
            "concept": concept,
            "hook_point": direction.hook_point,
            "run_id": direction.provenance.get("run_id"),
            "feature_id": feature if isinstance(feature, int) else None,
            "norm": direction.norm,
            "provenance": json.dumps(
                {"source": direction.source, **direction.provenance}, sort_keys=True
            ),
        }
        rows.setdefault(arm, row)
    return list(rows.values())


def _contrast(bench: Bench, pair: tuple[str, str]) -> tuple[str, str]:
    """A pair of prompts for actadd: what follows the texts' common beginning, cut short.

    The streams of a common beginning are equal and cancel, and a prompt has few places.
    """
    one, other = (
        [token for token in bench.lm.encode(text) if token not in bench.lm.special_ids]
        for text in pair
    )
    same = (n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    at = next(same, 0)
    stop = at + ACTADD_TOKENS
    return bench.lm.decode(one[at:stop]), bench.lm.decode(other[at:stop])


def _seed(params: Params, number: int) -> int:
    """A seed for the controls of the `number`-th concept."""
    return int(np.random.SeedSequence([params.seed, number]).generate_state(1)[0])


if __name__ == "__main__":
    run_stage("directions", main)
