"""Intervals cover and tests keep their size where tokens of a document are alike."""

from __future__ import annotations

from dataclasses import replace
from math import erfc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.auroc import Counted, count_concepts, read
from features.clustered import Moves, likeness, pair_up
from features.documents import ConceptTruth, Documents, Evidence
from features.intervals import auroc_interval
from features.measured import Measured, interval_and_test, measure_concepts, q_values
from features.rows import Rows
from features.rules import Level
from tests.features.planted import SEA, VOCAB, evidence_of, make_world
from tests.features.test_auroc import wide_evidence

FEATURES = 800


def made_up(
    *,
    n_docs: int,
    holding: int,
    told: float = 0.0,
    silence: float = 0.6,
    likeness: float = 0.6,
    level: Level = "token",
    whole: bool = False,
    n_features: int = FEATURES,
    seed: int = 0,
) -> Evidence:
    """One concept, and features that are so many draws of one and the same.

    Documents have 10 to 30 tokens. A feature is a normal variate less `silence` where that is
    positive; its document decides `likeness` of the variance.

    Args:
        holding: documents in which the concept holds, in all or in any share of the tokens.
        told: by how much it raises the variate.
        whole: in all tokens.
    """
    rng = np.random.default_rng(seed)
    length = rng.integers(10, 31, n_docs) if level == "token" else np.ones(n_docs, dtype=int)
    doc = np.repeat(np.arange(n_docs), length)
    share = np.where(np.arange(n_docs) < holding, 1.0 if whole else rng.random(n_docs), 0.0)
    n = len(doc)
    holds = rng.random(n) < share[doc] if level == "token" else np.arange(n) < holding
    rows, values, starts = [], [], [0]
    for _ in range(n_features):
        common, own = rng.normal(size=n_docs)[doc], rng.normal(size=n)
        value = np.sqrt(likeness) * common + np.sqrt(1 - likeness) * own + told * holds - silence
        rows.append(np.flatnonzero(value > 0))
        values.append(value[rows[-1]].astype(np.float32))
        starts.append(starts[-1] + len(rows[-1]))
    truth = ConceptTruth(0, "made up", level, holds, np.ones(n, dtype=bool))
    none = np.zeros(n, dtype=np.int32)
    table = Rows(doc, np.arange(n), none, none.astype(bool), VOCAB)
    documents = Documents("score", np.arange(n_docs), np.arange(n), table, (truth,))
    return Evidence(documents, np.array(starts), np.concatenate(rows), np.concatenate(values))


def covered(reading: Measured, lo: np.ndarray, hi: np.ndarray) -> float:
    """How often the mean of the draws lies between the bounds."""
    centre = reading.auroc.mean()
    return float(np.mean((lo <= centre) & (centre <= hi)))


def plain_p(counted: Counted) -> np.ndarray:
    """Mann and Whitney's p with tokens taken as independent, ties corrected."""
    total = counted.positive + counted.negative
    n, pairs = counted.n_pos + counted.n_neg, counted.n_pos * counted.n_neg
    ties = (total**3 - total).sum(axis=1) / (n * (n - 1))
    error = np.sqrt((n + 1 - ties) / (12 * pairs))
    score = np.abs(read(counted).auroc - 0.5) / np.maximum(error, 1e-9)
    return np.array([erfc(one / np.sqrt(2)) for one in score])


CLUSTERED = {
    "100 of 200 documents": made_up(n_docs=200, holding=100, told=0.8),
    "40 of 200 documents": made_up(n_docs=200, holding=40, told=0.8),
    "10 of 200 documents": made_up(n_docs=200, holding=10, told=0.8),
    "whole documents": made_up(n_docs=120, holding=40, told=0.8, whole=True),
    "every document": made_up(n_docs=60, holding=60, told=0.8),
    "a rare feature": made_up(n_docs=200, holding=60, told=0.8, silence=1.8),
    "a sure feature": made_up(n_docs=200, holding=60, told=2.5),
}


@pytest.mark.parametrize("name", CLUSTERED)
def test_intervals_cover_where_tokens_of_a_document_are_alike(name: str) -> None:
    evidence = CLUSTERED[name]
    (reading,) = measure_concepts(evidence)
    assert 0.92 <= covered(reading, reading.lo, reading.hi) <= 0.98
    plain = auroc_interval(reading.auroc, reading.n_pos, reading.n_neg)
    assert covered(reading, *plain) < 0.85


@pytest.mark.parametrize(
    ("holding", "silence", "whole"), [(100, 0.6, False), (40, 0.6, False), (40, 0.6, True)]
)
def test_tests_keep_their_size_where_tokens_of_a_document_are_alike(
    holding: int, silence: float, whole: bool
) -> None:
    evidence = made_up(n_docs=200, holding=holding, silence=silence, whole=whole, seed=1)
    (reading,) = measure_concepts(evidence)
    (counted,) = count_concepts(evidence)
    assert 0.025 <= np.mean(reading.p_value <= 0.05) <= 0.075
    assert np.mean(plain_p(counted) <= 0.05) > 0.3


@pytest.mark.parametrize("told", [0.0, 0.8, 2.0])
@pytest.mark.parametrize("holding", [30, 100])
def test_documents_themselves_are_covered_too(holding: int, told: float) -> None:
    evidence = made_up(n_docs=200, holding=holding, told=told, level="document")
    (reading,) = measure_concepts(evidence)
    assert 0.92 <= covered(reading, reading.lo, reading.hi) <= 0.99
    if told == 0:
        assert 0.02 <= np.mean(reading.p_value <= 0.05) <= 0.075


def test_of_documents_the_test_is_mann_and_whitneys() -> None:
    evidence = made_up(n_docs=60, holding=20, told=0.4, level="document", n_features=50)
    (reading,) = measure_concepts(evidence)
    (counted,) = count_concepts(evidence)
    assert reading.p_value == pytest.approx(plain_p(counted), rel=1e-9)


def test_ranks_of_a_document_vary_together_as_far_as_it_decides_them() -> None:
    shares = []
    for decides in (0.0, 0.5, 1.0):
        evidence = made_up(
            n_docs=300, holding=100, silence=-9, likeness=decides, n_features=20, seed=3
        )
        (counted,) = count_concepts(evidence)
        found = likeness(counted, pair_up(counted.binned, evidence.documents.rows.doc))
        shares.append(float((found.together / found.variance).mean()))
    assert shares[0] == pytest.approx(0, abs=0.01)
    assert shares[1] == pytest.approx(6 / np.pi * np.arcsin(0.25), abs=0.03)  # of normal ranks
    assert shares[2] == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("n_docs", [10, 40, 100])
def test_a_perfect_area_may_be_as_low_as_newcombe_says(n_docs: int) -> None:
    """Where the area is one off by 1.96 errors of Hanley and McNeil, as in his interval."""
    nothing = np.zeros(1)
    lo, hi, p_value = interval_and_test(
        np.ones(1), Moves(nothing, nothing), np.full(1, 0.01), float(n_docs), n_docs
    )
    areas = np.linspace(0.5, 0.9999, 5000)
    q1, q2 = areas / (2 - areas), 2 * areas**2 / (1 + areas)
    each = areas * (1 - areas) + (n_docs - 1) * (q1 + q2 - 2 * areas**2)
    newcombe = areas[areas + 1.96 * np.sqrt(each) / n_docs >= 1].min()
    assert lo[0] == pytest.approx(newcombe, abs=0.03)
    assert hi[0] == 1
    assert p_value[0] < 1e-4


@pytest.mark.parametrize("level", ["token", "document"])
@pytest.mark.parametrize(("holding", "width"), [(2, 0.9), (3, 0.6), (10, 0.3)])
def test_few_documents_give_wide_intervals_that_cover(
    level: Level, holding: int, width: float
) -> None:
    (reading,) = measure_concepts(made_up(n_docs=100, holding=holding, told=0.8, level=level))
    assert covered(reading, reading.lo, reading.hi) > 0.94
    assert np.median(reading.hi - reading.lo) > width


@pytest.mark.parametrize("level", ["token", "document"])
def test_a_class_in_one_document_has_an_area_but_no_interval_and_no_test(level: Level) -> None:
    (reading,) = measure_concepts(made_up(n_docs=50, holding=1, level=level, n_features=5))
    assert (reading.n_pos_docs, reading.n_neg_docs) == (1, 50 if level == "token" else 49)
    assert np.isfinite(reading.auroc).all()
    for figures in (reading.lo, reading.hi, reading.p_value):
        assert np.isnan(figures).all()


def test_a_concept_that_means_something_nowhere_is_undefined() -> None:
    evidence = made_up(n_docs=5, holding=2, n_features=2)
    (truth,) = evidence.documents.truths
    nowhere = replace(truth, is_defined=np.zeros_like(truth.holds))
    documents = replace(evidence.documents, truths=(nowhere,))
    (reading,) = measure_concepts(replace(evidence, documents=documents))
    assert (reading.n_pos, reading.n_neg, reading.n_pos_docs) == (0, 0, 0)
    for figures in (reading.auroc, reading.lo, reading.p_value):
        assert np.isnan(figures).all()


def test_two_documents_of_which_one_is_all_leave_everything_open() -> None:
    one = np.full(1, 1e-3)
    lo, hi, p_value = interval_and_test(np.full(1, 0.8), Moves(one, 0 * one), one, 1.001, 2)
    assert (lo[0], hi[0]) == (0, 1)
    assert p_value[0] > 0.9


def test_no_interval_is_without_a_width() -> None:
    """Perfect, silent and upside-down features, on tokens and documents."""
    (planted,) = evidence_of(make_world(), "score")
    for reading in measure_concepts(planted):
        assert (reading.lo <= reading.auroc).all()
        assert (reading.auroc <= reading.hi).all()
        assert (reading.hi - reading.lo > 1e-3).all()
        assert ((reading.lo >= 0) & (reading.hi <= 1)).all()


def test_chance_readings_are_seldom_significant_and_planted_ones_always() -> None:
    evidence, _ = wide_evidence(0)
    document = measure_concepts(evidence)[2]
    assert (document.p_value > 0.001).all()
    (planted,) = evidence_of(make_world(), "score")
    assert measure_concepts(planted)[0].p_value[SEA] < 1e-6


def test_figures_that_need_no_interval_are_those_of_the_cheap_reading() -> None:
    evidence, _ = wide_evidence(1)
    for counted, measured in zip(count_concepts(evidence), measure_concepts(evidence), strict=True):
        for name in ("auroc", "best_f1", "threshold"):
            assert np.array_equal(getattr(read(counted), name), getattr(measured, name))


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_q_values_are_the_step_up_rates(p: list[float]) -> None:
    found = q_values(np.array(p))
    ordered = sorted(p)
    for i, own in enumerate(p):
        rates = [other * len(p) / (k + 1) for k, other in enumerate(ordered) if other >= own]
        assert found[i] == pytest.approx(min(1, *rates, 1))


def test_what_was_not_tested_has_no_q_value_and_costs_nothing() -> None:
    found = q_values(np.array([0.01, np.nan, 0.02]))
    assert np.isnan(found[1])
    assert found[[0, 2]].tolist() == q_values(np.array([0.01, 0.02])).tolist()
