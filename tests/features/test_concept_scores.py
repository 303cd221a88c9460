"""Scores without a stage are those that the stage would write."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from features.concept_scores import Split, score_concepts
from features.concept_tables import concept_table
from features.documents import gather, read_documents
from features.errors import ConceptError
from features.measured import measure_concepts
from features.own_concepts import ConceptFile, ConceptPattern, ConceptWords, find_concepts
from store.schema import conform
from tests.features.planted import (
    D_SAE,
    DEAD,
    NUMBER,
    SEA,
    VOCAB,
    features_of,
    make_world,
)
from tests.features.spelled import write_spelled

WORLD = make_world()
CONCEPTS = (
    ConceptPattern("numeral", r"\d"),
    ConceptWords("seafaring", ("ship", "wave", "sail"), "document"),
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_spelled(WORLD, tmp_path_factory.mktemp("corpus"))


def test_figures_and_order_are_those_of_the_table(corpus: Path) -> None:
    own = find_concepts(CONCEPTS, corpus)
    score, test = gather(
        [read_documents(corpus, split, VOCAB, own) for split in ("score", "test")],
        features_of(WORLD),
        D_SAE,
    )
    readings = measure_concepts(score)
    table = conform(
        "feature_concept", concept_table(readings, test, score.n_act > 0, run_id="a")
    ).to_pylist()
    by_key = {(r["split"], r["concept_id"], r["feature_id"]): r for r in table}
    for found in score_concepts(own, corpus, features_of(WORLD)):
        number = found.truth.concept_id
        ranks = [by_key["score", number, int(f)]["auroc"] for f in found.feature]
        assert ranks == sorted(ranks, reverse=True)
        assert sorted(found.feature.tolist()) == np.flatnonzero(score.n_act > 0).tolist()
        for place, feature in enumerate(found.feature.tolist()):
            row = by_key["test", number, feature]
            for name in ("auroc", "lo", "hi", "best_f1", "threshold"):
                assert getattr(found.reading, name)[place] == pytest.approx(row[name], rel=1e-6)
            assert (found.reading.n_pos, found.reading.n_neg) == (row["n_pos"], row["n_neg"])
    best = [found.feature[0] for found in score_concepts(own, corpus, features_of(WORLD))]
    assert best == [NUMBER, SEA]


@pytest.mark.parametrize("split", ["score", "test", "label"])
def test_the_size_of_a_block_changes_nothing(corpus: Path, split: Split) -> None:
    own = find_concepts(CONCEPTS, corpus, ("score", split))
    whole = score_concepts(own, corpus, features_of(WORLD), split=split)
    cut = score_concepts(own, corpus, features_of(WORLD), split=split, at_once=500)
    for one, other in zip(whole, cut, strict=True):
        assert np.array_equal(one.feature, other.feature)
        assert np.array_equal(one.q_value, other.q_value)
        for name in ("auroc", "lo", "hi", "best_f1", "threshold", "p_value"):
            assert np.array_equal(getattr(one.reading, name), getattr(other.reading, name))
        assert DEAD not in one.feature
        assert np.isfinite(one.q_value).all()


def test_memory_is_that_of_one_block(corpus: Path) -> None:
    rng = np.random.default_rng(0)
    n = len(WORLD.tokens)

    def many() -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        for feature in range(200):
            yield feature, np.arange(n), rng.random(n, dtype=np.float32) + 1

    def peak(at_once: int) -> int:
        tracemalloc.start()
        score_concepts(own, corpus, many(), at_once=at_once)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    own = find_concepts(CONCEPTS, corpus)
    assert peak(2 * n) < peak(200 * n) / 5


def test_one_class_only_on_a_split_says_which_and_how_many(tmp_path: Path, corpus: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("doc_id,y\n18,1\n19,0\n24,1\n25,1\n", encoding="utf-8")
    own = find_concepts([ConceptFile(path)], corpus)
    with pytest.raises(
        ConceptError,
        match=r"'own' has 2 positives and 0 negatives on test \(no negative on test\); expected",
    ):
        score_concepts(own, corpus, features_of(WORLD))
    path.write_text("doc_id,y\n18,1\n24,1\n25,0\n", encoding="utf-8")
    own = find_concepts([ConceptFile(path)], corpus)
    with pytest.raises(ConceptError, match=r"1 positives and 0 negatives on score"):
        score_concepts(own, corpus, features_of(WORLD))


def test_a_store_without_a_firing_is_an_error(corpus: Path) -> None:
    own = find_concepts(CONCEPTS, corpus)
    with pytest.raises(ConceptError, match=r"no feature fires at all; expected .*; harvest"):
        score_concepts(own, corpus, [])
