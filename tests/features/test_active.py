"""What a text is about: strength, rarity, and results that do not say the same twice."""

from __future__ import annotations

import numpy as np
import pytest

from features.active import SHARED, about, weighed


def sparse(rng: np.random.Generator, n_tokens: int = 30, d_sae: int = 400) -> np.ndarray:
    acts = rng.exponential(size=(n_tokens, d_sae)) * (rng.random((n_tokens, d_sae)) < 0.1)
    return np.asarray(acts, dtype=np.float32)


def by_definition(acts: np.ndarray, density: np.ndarray, k: int, shared: float) -> list[int]:
    """Every feature is asked at each step, and each earlier result is looked at again."""
    score = weighed(acts, density)
    length = np.linalg.norm(acts.astype(np.float64), axis=0)
    chosen: list[int] = []
    while len(chosen) < k:
        left = np.full(len(score), -1.0)
        for feature in np.flatnonzero(score):
            if feature in chosen:
                continue
            likest = max(
                (
                    float(acts[:, feature].astype(np.float64) @ acts[:, one])
                    / (length[feature] * length[one])
                    for one in chosen
                ),
                default=0.0,
            )
            left[feature] = score[feature] * (1 - shared * likest**2)
        if left.max() < 0:
            break
        chosen.append(int(left.argmax()))
    return chosen


@pytest.mark.parametrize("shared", [0.0, 0.3, SHARED, 1.0])
def test_the_order_is_that_of_the_definition_though_few_features_are_looked_at(
    shared: float,
) -> None:
    rng = np.random.default_rng(0)
    acts, density = sparse(rng), rng.uniform(0.001, 0.5, 400)
    found, left = about(acts, density, 15, shared)
    assert found.tolist() == by_definition(acts, density, 15, shared)
    assert (np.diff(left) <= 0).all()


def test_of_two_equally_strong_features_the_rarer_comes_first() -> None:
    acts = np.array([[2.0, 0.0], [0.0, 2.0]])
    found, left = about(acts, np.array([0.1, 0.01]), 2)
    assert found.tolist() == [1, 0]
    assert left == pytest.approx([np.log(100) ** 2, np.log(10) ** 2])


def test_a_copy_of_a_result_gives_way_to_a_weaker_feature_that_says_something_else() -> None:
    acts = np.array([[3.0, 2.9, 0.0], [0.0, 0.0, 1.5]])
    density = np.full(3, 0.01)
    assert about(acts, density, 3)[0].tolist() == [0, 2, 1]
    assert about(acts, density, 3, shared=0.0)[0].tolist() == [0, 1, 2]


def test_a_feature_that_fires_on_every_token_of_the_corpus_says_nothing() -> None:
    found, _ = about(np.ones((3, 2)), np.array([1.0, 0.5]), 5)
    assert found.tolist() == [1]


def test_one_token_is_ranked_by_the_scores_alone() -> None:
    acts = np.array([[1.0, 3.0, 0.0, 2.0]])
    assert about(acts, np.full(4, 0.1), 9)[0].tolist() == [1, 3, 0]


def test_nothing_active_and_no_tokens_find_nothing() -> None:
    for acts in (np.zeros((3, 2)), np.zeros((0, 2))):
        found, left = about(acts, np.full(2, 0.1), 5)
        assert len(found) == len(left) == 0
