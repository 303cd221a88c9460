"""Labels of some features, so that several processes can share the features of a run.

What a feature is called and scores depends on no other feature's turn, so the features may be
dealt out in any way. Activations travel as files that every process maps, not as copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from features.candidates import Candidate
from features.choose import Choice, Chooser
from features.documents import Documents, Evidence
from features.scores import Score
from features.scoring import Scorer


@dataclass(frozen=True, slots=True, eq=False)
class KeptEvidence:
    """Evidence whose activations lie in a folder."""

    documents: Documents
    folder: Path

    def read(self, features: Sequence[int] | None = None) -> Evidence:
        """The evidence again; of these features alone, ascending, if they are given."""
        start, row, value = (
            np.asarray(np.load(self.folder / f"{name}.npy", mmap_mode="r"))
            for name in ("start", "row", "value")
        )
        if features is None:
            return Evidence(self.documents, start, row, value)
        count = np.zeros(len(start) - 1, dtype=np.int64)
        count[list(features)] = np.diff(start)[list(features)]
        own = [slice(start[feature], start[feature + 1]) for feature in features]
        return Evidence(
            self.documents,
            start=np.concatenate([[0], np.cumsum(count)]),
            row=np.concatenate([row[:0], *(row[each] for each in own)]),
            value=np.concatenate([value[:0], *(value[each] for each in own)]),
        )


def keep_evidence(evidence: Evidence, folder: Path) -> KeptEvidence:
    """Write the activations into a folder that does not exist yet."""
    folder.mkdir(parents=True)
    for name in ("start", "row", "value"):
        np.save(folder / f"{name}.npy", getattr(evidence, name))
    return KeptEvidence(evidence.documents, folder)


@dataclass(frozen=True, slots=True, eq=False)
class ChooseTask:
    """Features to be named, and the documents that decide it."""

    label: KeptEvidence
    train: KeptEvidence
    score: KeptEvidence
    features: tuple[int, ...]
    complexity_penalty: float
    with_concepts: tuple[bool, ...]


def choose_features(task: ChooseTask) -> list[tuple[Choice, ...]]:
    """For each feature of the task one choice for each of `with_concepts`."""
    label, train, score = (
        kept.read(task.features) for kept in (task.label, task.train, task.score)
    )
    chooser = Chooser(label, train, score, complexity_penalty=task.complexity_penalty)
    return [chooser.choose(feature, with_concepts=task.with_concepts) for feature in task.features]


@dataclass(frozen=True, slots=True, eq=False)
class ScoreTask:
    """Features with the rules to be scored, and the documents to score them on."""

    test: KeptEvidence
    neighbours: Int[np.ndarray, "feature neighbour"]
    rules: tuple[tuple[int, Candidate], ...]
    bootstrap: int
    seed: int


def score_rules(task: ScoreTask) -> list[tuple[Score, ...]]:
    """The scores of each rule of the task."""
    scorer = Scorer(task.test.read(), task.neighbours, bootstrap=task.bootstrap, seed=task.seed)
    return [scorer.score(feature, candidate) for feature, candidate in task.rules]
