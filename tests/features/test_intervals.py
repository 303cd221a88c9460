"""Intervals are never of no width, and documents are the unit that is resampled."""

from __future__ import annotations

import numpy as np
import pytest

from features.intervals import auroc_draws, auroc_interval, middle, widened, wilson
from features.units import exact_auroc


def test_the_middle_is_the_percentiles_of_the_draws() -> None:
    draws = np.random.default_rng(0).normal(size=(200, 3))
    np.testing.assert_allclose(middle(draws), np.percentile(draws, [2.5, 97.5], axis=0))


def test_draws_that_are_not_defined_are_left_out() -> None:
    draws = np.array([[1.0, np.nan], [2.0, np.nan], [np.nan, np.nan]])
    found = middle(draws)
    np.testing.assert_allclose(found[:, 0], np.percentile([1, 2], [2.5, 97.5]))
    assert np.isnan(found[:, 1]).all()


def test_a_share_of_ten_out_of_ten_may_be_as_low_as_wilson_says() -> None:
    low, high = wilson(1.0, 10)
    assert low == pytest.approx(1 / (1 + 1.959964**2 / 10))
    assert high == 1
    assert wilson(0.5, 0) == (0, 1)


def test_a_perfect_score_keeps_a_width_that_shrinks_with_documents() -> None:
    few = widened(1.0, (1.0, 1.0), ((1.0, 8), (1.0, 300)))
    many = widened(1.0, (1.0, 1.0), ((1.0, 200), (1.0, 300)))
    assert few[0] < many[0] < 1
    assert few[1] == many[1] == 1


def test_a_bootstrap_of_many_documents_is_left_as_it_is() -> None:
    assert widened(0.8, (0.79, 0.81), ((0.8, 40), (0.8, 40))) == (0.79, 0.81)


def test_five_documents_or_fewer_are_not_trusted_to_a_bootstrap() -> None:
    low, high = widened(0.8, (0.79, 0.81), ((0.8, 5),))
    assert low < 0.5
    assert high > 0.9


def test_a_draw_of_every_document_once_is_the_exact_area() -> None:
    rng = np.random.default_rng(0)
    doc = np.repeat(np.arange(20), 5)
    holds = rng.random(100) < 0.4
    value = np.round(rng.random(100) * (rng.random(100) < 0.6), 1)
    active = np.flatnonzero(value)
    weights = np.stack([np.ones(20), rng.multinomial(20, np.full(20, 0.05)).astype(float)])
    found = auroc_draws(value[active], active, doc, holds, weights)
    assert found[0] == pytest.approx(exact_auroc(value, holds))
    again = np.repeat(np.arange(100), weights[1].astype(int)[doc])
    assert found[1] == pytest.approx(exact_auroc(value[again], holds[again]))


def test_a_perfect_area_keeps_a_width() -> None:
    lo, hi = auroc_interval(np.array([1.0, 0.5]), 10, 10)
    assert lo[0] < 1
    assert hi[0] == 1
    assert hi[1] - lo[1] > hi[0] - lo[0]


def test_the_interval_is_as_wide_as_the_area_spreads_where_its_model_is_exact() -> None:
    """Exponential values, few positives: the model of Hanley and McNeil holds exactly there."""
    rng = np.random.default_rng(0)
    holds = np.arange(65) < 5
    areas = [exact_auroc(rng.exponential(np.where(holds, 4.0, 1.0)), holds) for _ in range(2000)]
    lo, _ = auroc_interval(np.array([0.8]), 5, 60)
    assert np.mean(areas) == pytest.approx(0.8, abs=0.01)
    assert 0.8 - lo[0] == pytest.approx(1.96 * np.std(areas), rel=0.1)
