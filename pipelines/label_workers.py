"""Naming and scoring by several processes: features are dealt out in turn, results put back.

Knows no rule and no figure. Activations go through a scratch folder that every process maps.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Int

from features.blocks import (
    ChooseTask,
    KeptEvidence,
    ScoreTask,
    choose_features,
    keep_evidence,
    score_rules,
)
from features.choose import Choice
from features.documents import Evidence
from features.labels import LabelConfig, living
from features.scores import Score
from pipelines.executor import map_in_order

FEW_FEATURES = 512
"""Fewer are done by this process, which costs less than starting others."""

Result = TypeVar("Result")


def make_choices(
    label: Evidence, train: Evidence, score: Evidence, config: LabelConfig, workers: int
) -> list[tuple[Choice, ...]]:
    """The choices of every living feature, ascending; the same for any number of workers."""
    features = np.flatnonzero(living(label, train, score, config)).tolist()
    workers = _workers(len(features), workers)
    with tempfile.TemporaryDirectory() as folder:
        kept_label, kept_train, kept_score = (
            keep_evidence(evidence, Path(folder) / evidence.documents.split)
            for evidence in (label, train, score)
        )
        tasks = [
            ChooseTask(
                kept_label,
                kept_train,
                kept_score,
                features=tuple(features[turn::workers]),
                complexity_penalty=config.complexity_penalty,
                with_concepts=config.with_concepts,
            )
            for turn in range(workers)
        ]
        return _put_back(list(map_in_order(choose_features, tasks, workers)))


def make_scores(
    test: Evidence,
    neighbours: Int[np.ndarray, "feature neighbour"],
    groups: Sequence[Sequence[Choice]],
    config: LabelConfig,
    workers: int,
) -> list[list[tuple[Score, ...]]]:
    """The scores of every choice of each group; groups hold the same features in order."""
    workers = _workers(max(map(len, groups)), workers)
    with tempfile.TemporaryDirectory() as folder:
        kept: KeptEvidence = keep_evidence(test, Path(folder) / "test")
        tasks = [
            ScoreTask(
                kept,
                neighbours,
                tuple(
                    (choice.feature, choice.best.candidate)
                    for group in groups
                    for choice in group[turn::workers]
                ),
                bootstrap=config.bootstrap,
                seed=config.seed,
            )
            for turn in range(workers)
        ]
        made = [iter(part) for part in map_in_order(score_rules, tasks, workers)]
    return [
        _put_back(
            [
                [next(part) for _ in group[turn::workers]]
                for turn, part in zip(range(workers), made, strict=True)
            ]
        )
        for group in groups
    ]


def _workers(n_features: int, workers: int) -> int:
    return max(workers, 1) if n_features >= FEW_FEATURES else 1


def _put_back(dealt: Sequence[Sequence[Result]]) -> list[Result]:
    """Items that were dealt out in turn, in their first order."""
    return [dealt[i % len(dealt)][i // len(dealt)] for i in range(sum(len(part) for part in dealt))]
