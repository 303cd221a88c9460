from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from steering.errors import EvaluationError
from steering.evaluate import (
    harmonic_mean,
    off_target,
    pair_rows,
    preservation,
    reliability,
    spearman,
)

SHARES = hnp.arrays(np.float64, 5, elements=st.floats(0, 1))
ALL = np.ones((1, 2), dtype=bool)


def test_a_text_that_keeps_what_its_prompt_held_is_fully_preserved() -> None:
    same = np.array([[0.9, 0.4]])
    assert preservation(same, same, ALL) == pytest.approx([1.0])
    assert preservation(same * 1.1, same, ALL) == pytest.approx([1.0])


def test_a_lost_attribute_costs_its_share() -> None:
    kept = preservation(np.array([[0.9, 0.0]]), np.array([[0.9, 0.8]]), ALL)
    assert kept == pytest.approx([0.5])


def test_attributes_that_the_prompt_does_not_hold_do_not_count() -> None:
    held = np.array([[True, False]])
    kept = preservation(np.array([[0.45, 0.0]]), np.array([[0.9, 0.8]]), held)
    assert kept == pytest.approx([0.5])


def test_a_prompt_that_holds_nothing_leaves_preservation_undefined() -> None:
    none = np.zeros((1, 2), dtype=bool)
    assert np.isnan(preservation(np.ones((1, 2)), np.ones((1, 2)), none)).all()


def test_what_the_unsteered_text_never_shows_cannot_be_lost() -> None:
    assert preservation(np.zeros((1, 2)), np.zeros((1, 2)), ALL) == pytest.approx([1.0])


@given(a=SHARES, b=SHARES, c=SHARES)
def test_the_harmonic_mean_lies_between_the_smallest_and_the_arithmetic(
    a: np.ndarray, b: np.ndarray, c: np.ndarray
) -> None:
    found = harmonic_mean(a, b, c)
    table = np.stack([a, b, c])
    assert (found >= table.min(axis=0) - 1e-12).all()
    assert (found <= table.mean(axis=0) + 1e-12).all()
    np.testing.assert_allclose(found, harmonic_mean(c, a, b))


def test_one_zero_makes_the_harmonic_mean_zero() -> None:
    assert harmonic_mean(np.array([1.0]), np.array([0.0]), np.array([1.0])) == pytest.approx([0])


def test_an_undefined_score_is_left_out_of_the_harmonic_mean() -> None:
    nan = np.array([np.nan])
    assert harmonic_mean(np.array([0.5]), nan, np.array([1.0])) == pytest.approx([2 / 3])
    assert np.isnan(harmonic_mean(nan, nan)).all()


def test_a_score_that_is_no_share_is_refused() -> None:
    with pytest.raises(EvaluationError, match="expected \\[0, 1\\]"):
        harmonic_mean(np.array([1.5]), np.array([1.0]))


def test_off_target_is_the_change_of_the_mean_not_the_mean_change() -> None:
    steered = np.array([[1.0, 0.2], [0.0, 0.6]])
    unsteered = np.array([[0.0, 0.0], [1.0, 0.0]])
    found = off_target(steered, unsteered)
    assert found.largest == pytest.approx(0.4)
    assert found.mean == pytest.approx(0.2)


def test_off_target_of_no_other_concept_is_undefined() -> None:
    found = off_target(np.zeros((2, 0)), np.zeros((2, 0)))
    assert np.isnan(found.largest)
    assert np.isnan(found.mean)


def test_a_response_that_rises_on_every_prompt_is_reliable() -> None:
    doses = np.array([0.0, 0.5, 1.0, 2.0])
    rising = np.array([[0.0, 0.2, 0.3, 0.9], [0.1, 0.2, 0.5, 0.6]])
    found = reliability(doses, rising)
    assert found.spearman == pytest.approx(1.0)
    assert found.anti_steerable == 0.0
    assert found.n == 2


def test_a_prompt_that_answers_backwards_is_anti_steerable() -> None:
    doses = np.array([0.0, 1.0, 2.0])
    mixed = np.array([[0.0, 0.5, 1.0], [0.5, 0.2, 0.1], [0.3, 0.3, 0.3], [np.nan, 0.0, 0.0]])
    found = reliability(doses, mixed)
    assert found.anti_steerable == pytest.approx(1 / 3)
    assert found.spearman == pytest.approx(0.0)
    assert found.n == 3


def test_one_dose_shows_no_reliability() -> None:
    with pytest.raises(EvaluationError, match="at least two"):
        reliability(np.array([1.0, 1.0]), np.zeros((3, 2)))


@given(
    x=hnp.arrays(np.float64, 8, elements=st.integers(0, 4).map(float)),
    y=hnp.arrays(np.float64, 8, elements=st.integers(0, 4).map(float)),
)
def test_rank_correlation_is_symmetric_and_blind_to_monotone_change(
    x: np.ndarray, y: np.ndarray
) -> None:
    rho = spearman(x, y)
    assert -1 - 1e-9 <= rho <= 1 + 1e-9
    assert spearman(y, x) == pytest.approx(rho)
    assert spearman(np.exp(x), y) == pytest.approx(rho)
    assert spearman(-x, y) == pytest.approx(-rho)


def test_each_row_meets_the_unsteered_row_of_its_prompt_and_seed() -> None:
    base = np.array(["p2/0", "p1/0", "p1/1"])
    assert pair_rows(np.array(["p1/1", "p2/0", "p1/1"]), base).tolist() == [2, 0, 2]
    with pytest.raises(EvaluationError, match="no unsteered text"):
        pair_rows(np.array(["p3/0"]), base)
    with pytest.raises(EvaluationError, match="no unsteered text"):
        pair_rows(np.array(["p3/0"]), base[:0])
