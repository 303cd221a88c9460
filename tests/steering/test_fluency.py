from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steering.errors import EvaluationError
from steering.fluency import (
    FluencyReference,
    distinct_bigrams,
    fluency,
    mean_nats,
    reference,
    repeated_4grams,
)

REF = FluencyReference(nats=1.5, tolerance=0.5, distinct2=0.95, repeated4=0.0)
ROWS = st.lists(st.lists(st.integers(0, 5), max_size=20), min_size=1, max_size=6)


def rows(*texts: list[int]) -> list[np.ndarray]:
    return [np.array(text, dtype=np.int64) for text in texts]


def slow_repeated(text: list[int], n: int) -> float:
    grams = [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


@given(texts=ROWS)
def test_repetition_agrees_with_counting_by_hand(texts: list[list[int]]) -> None:
    ids = rows(*texts)
    np.testing.assert_allclose(repeated_4grams(ids), [slow_repeated(t, 4) for t in texts])
    np.testing.assert_allclose(distinct_bigrams(ids), [1 - slow_repeated(t, 2) for t in texts])


@given(texts=ROWS)
def test_a_row_is_scored_alike_alone_and_in_a_batch(texts: list[list[int]]) -> None:
    batch = repeated_4grams(rows(*texts))
    alone = [repeated_4grams(rows(text))[0] for text in texts]
    np.testing.assert_array_equal(batch, alone)


def test_large_vocabularies_do_not_overflow() -> None:
    ids = rows([2**31 - 1, 2**31 - 2, 7, 2**31 - 5] * 2)
    assert repeated_4grams(ids)[0] == pytest.approx(1 / 5)


def test_text_like_the_reference_scores_one() -> None:
    assert fluency(np.array([1.4]), rows(list(range(30))), REF) == pytest.approx([1.0])


def test_a_loop_scores_near_zero_though_it_is_likely() -> None:
    loop = rows([4] * 32, [4, 5] * 16)
    assert (fluency(np.array([1.5, 1.5]), loop, REF) < 0.02).all()
    assert (fluency(np.array([0.02, 0.02]), loop, REF) < 0.01).all()


def test_shuffled_words_score_near_zero_though_they_repeat_nothing() -> None:
    assert fluency(np.array([6.5]), rows(list(range(32))), REF)[0] < 0.02


def test_text_far_more_likely_than_usual_is_marked_down_too() -> None:
    assert fluency(np.array([0.1]), rows(list(range(32))), REF)[0] == pytest.approx(np.exp(-0.9))


def test_an_empty_text_scores_zero_and_has_no_nats() -> None:
    nats = mean_nats([np.array([], dtype=np.float32), np.array([1.0, 2.0], dtype=np.float32)])
    assert np.isnan(nats[0])
    assert nats[1] == 1.5
    assert fluency(nats, rows([], [1, 2]), REF)[0] == 0.0


def test_the_reference_is_the_median_text() -> None:
    rng = np.random.default_rng(0)
    ids = [rng.integers(0, 1000, 32) for _ in range(101)]
    nats = np.linspace(1.0, 2.0, 101)
    ref = reference(nats, ids)
    assert ref.nats == pytest.approx(1.5)
    assert ref.tolerance == pytest.approx(0.45)
    scores = fluency(nats, ids, ref)
    assert np.median(scores) > 0.95


def test_a_reference_of_nothing_or_of_one_loop_is_refused() -> None:
    with pytest.raises(EvaluationError, match="no unsteered text"):
        reference(np.array([np.nan]), rows([]))
    with pytest.raises(EvaluationError, match="expected some distinct"):
        FluencyReference(nats=1.0, tolerance=0.1, distinct2=0.0, repeated4=0.0)
