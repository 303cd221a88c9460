from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steering.errors import EvaluationError
from steering.intervals import (
    holm,
    interval,
    paired_interval,
    paired_permutation,
    prompt_means,
    ratio_interval,
    resample_weights,
)

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


def test_samples_of_one_prompt_are_averaged_before_anything_else() -> None:
    ids, means = prompt_means(np.array([1.0, 3.0, 5.0, np.nan]), np.array([7, 7, 2, 2]))
    assert ids.tolist() == [2, 7]
    assert means.tolist() == [5.0, 2.0]


def test_a_prompt_without_a_defined_row_has_no_mean() -> None:
    _, means = prompt_means(np.array([np.nan, 1.0]), np.array([0, 1]))
    assert math.isnan(means[0])
    assert means[1] == 1.0


def test_values_and_prompts_of_unequal_length_are_refused() -> None:
    with pytest.raises(EvaluationError, match="3 values came with 2 prompt ids"):
        prompt_means(np.zeros(3), np.array([0, 1]))


def test_resampled_weights_are_means_over_as_many_prompts() -> None:
    weights = resample_weights(5, 20, seed=0)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0)
    np.testing.assert_allclose(weights * 5, np.round(weights * 5), atol=1e-12)


def test_no_prompts_cannot_be_resampled() -> None:
    with pytest.raises(EvaluationError, match="of 0 prompts"):
        resample_weights(0, 10, seed=0)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), shift=st.floats(-5, 5))
def test_an_interval_holds_its_mean_and_moves_with_the_values(seed: int, shift: float) -> None:
    values = np.random.default_rng(seed).normal(size=24)
    plain, moved = interval(values, seed=seed), interval(values + shift, seed=seed)
    assert plain.lo <= plain.value <= plain.hi
    assert moved.lo == pytest.approx(plain.lo + shift, abs=1e-9)
    assert moved.hi == pytest.approx(plain.hi + shift, abs=1e-9)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    found = [interval(rng.normal(1.0, 1.0, size=40), draws=300, seed=i) for i in range(300)]
    covered = np.mean([one.lo <= 1.0 <= one.hi for one in found])
    assert 0.89 <= covered <= 0.985


def test_undefined_prompts_are_left_out_and_counted_out() -> None:
    found = interval(np.array([np.nan, 1.0, 1.0]))
    assert (found.value, found.lo, found.hi, found.n) == (1.0, 1.0, 1.0, 2)
    assert math.isnan(interval(np.array([np.nan])).value)


def test_a_paired_interval_ignores_what_both_sides_share() -> None:
    rng = np.random.default_rng(1)
    shared = rng.normal(0, 10, size=32)
    found = paired_interval(shared + 0.5, shared)
    assert found.value == pytest.approx(0.5)
    assert found.hi - found.lo < 1e-9
    with pytest.raises(EvaluationError, match="31 prompts were paired with 32"):
        paired_interval(shared[:31], shared)


def test_a_ratio_is_one_of_equals_and_open_where_the_denominator_is_unsure() -> None:
    rng = np.random.default_rng(2)
    ours = rng.uniform(1, 2, size=16)
    same = ratio_interval(ours, ours)
    assert (same.value, same.lo, same.hi) == pytest.approx((1.0, 1.0, 1.0))
    unsure = ratio_interval(ours, rng.normal(0.05, 1.0, size=16) ** 3 + 0.3)
    assert math.isinf(unsure.hi)
    assert math.isnan(ratio_interval(ours, -ours).value)


def test_a_clear_difference_is_found_and_chance_is_not() -> None:
    rng = np.random.default_rng(3)
    base = rng.normal(size=32)
    assert paired_permutation(base + 1.0, base, draws=2000) < 0.001
    assert paired_permutation(base, base, draws=500) == 1.0
    chance = [
        paired_permutation(rng.normal(size=16), rng.normal(size=16), draws=200) for _ in range(200)
    ]
    assert 0.0 <= np.mean([p < 0.05 for p in chance]) <= 0.1


def test_a_permutation_p_value_is_never_zero() -> None:
    assert paired_permutation(np.ones(30), np.zeros(30), draws=99) == pytest.approx(1 / 100)
    assert paired_permutation(np.array([np.nan]), np.array([0.0])) == 1.0


def test_holm_gives_the_textbook_values() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(p_values=P_VALUES)
def test_holm_lies_between_no_correction_and_bonferroni(p_values: list[float]) -> None:
    for raw, adjusted in zip(p_values, holm(p_values), strict=True):
        assert raw - 1e-12 <= adjusted <= min(1.0, raw * len(p_values)) + 1e-12 or (
            adjusted <= 1.0 and adjusted >= raw
        )


@given(p_values=P_VALUES)
def test_holm_keeps_the_order_of_the_p_values(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    order = np.argsort(p_values, kind="stable")
    assert all(adjusted[a] <= adjusted[b] for a, b in itertools.pairwise(order))
