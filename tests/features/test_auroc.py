"""Binned readings agree with exact ones."""

from __future__ import annotations

import numpy as np
import pytest

from features.auroc import read_concepts
from features.documents import ConceptTruth, Documents, Evidence, gather
from features.rows import Rows
from features.units import exact_auroc
from tests.features.planted import (
    FARM,
    NUMBER,
    SEA,
    VOCAB,
    evidence_of,
    make_world,
)


def wide_evidence(seed: int) -> tuple[Evidence, np.ndarray]:
    """Six features of many values on 20,000 tokens, and the values as a dense array."""
    rng = np.random.default_rng(seed)
    n, d_sae = 20_000, 6
    holds = rng.random(n) < 0.2
    louder = np.exp(holds[:, None] * np.arange(d_sae) / 3)
    values = rng.lognormal(sigma=1.5, size=(n, d_sae)) * louder
    acts = np.where(rng.random((n, d_sae)) < 0.3, values, 0).astype(np.float32)
    doc = np.arange(n) // 50
    rows = Rows(
        doc=doc,
        pos=np.arange(n) % 50,
        token_id=np.zeros(n, dtype=np.int32),
        is_special=np.zeros(n, dtype=bool),
        vocab=VOCAB,
    )
    by_doc = np.unique(doc) % 3 == 0
    truths = (
        ConceptTruth(0, "token", "token", holds, np.ones(n, dtype=bool)),
        ConceptTruth(1, "half", "token", holds, doc % 2 == 0),
        ConceptTruth(2, "document", "document", by_doc, np.ones(len(by_doc), dtype=bool)),
    )
    documents = Documents("score", np.unique(doc), np.arange(n), rows, truths)
    features = [(f, np.flatnonzero(acts[:, f]), acts[acts[:, f] > 0, f]) for f in range(d_sae)]
    return gather([documents], features, d_sae)[0], acts


@pytest.mark.parametrize("seed", [0, 1])
def test_the_area_is_within_a_thousandth_of_the_exact_one(seed: int) -> None:
    evidence, acts = wide_evidence(seed)
    for reading in read_concepts(evidence):
        truth = reading.truth
        value = acts
        if truth.level == "document":
            value = np.maximum.reduceat(acts, np.arange(0, len(acts), 50))
        for feature in range(evidence.d_sae):
            seen = truth.is_defined
            exact = exact_auroc(value[seen, feature], truth.holds[seen])
            assert reading.auroc[feature] == pytest.approx(exact, abs=1e-3)


def test_the_best_f1_is_what_its_threshold_gives() -> None:
    evidence, acts = wide_evidence(3)
    reading = read_concepts(evidence)[0]
    for feature in range(evidence.d_sae):
        says = acts[:, feature] > reading.threshold[feature]
        f1 = 2 * (says & reading.truth.holds).sum() / (says.sum() + reading.truth.holds.sum())
        assert reading.best_f1[feature] == pytest.approx(f1, abs=2e-3)


def test_planted_features_read_their_concepts_and_others_do_not() -> None:
    (evidence,) = evidence_of(make_world(), "score")
    sea, farm, number = read_concepts(evidence)
    assert sea.auroc[SEA] > 0.99
    assert sea.auroc[FARM] < 0.01
    assert farm.best_f1[FARM] > 0.99
    assert number.auroc[NUMBER] == pytest.approx(1)
    assert sea.n_pos + sea.n_neg < number.n_pos + number.n_neg


def test_a_concept_without_positives_is_read_as_undefined() -> None:
    evidence, _ = wide_evidence(0)
    documents = evidence.documents
    never = ConceptTruth(
        9, "never", "token", np.zeros(20_000, dtype=bool), np.ones(20_000, dtype=bool)
    )
    lone = Documents("score", documents.doc_ids, documents.tok, documents.rows, (never,))
    (reading,) = read_concepts(Evidence(lone, evidence.start, evidence.row, evidence.value))
    assert np.isnan(reading.auroc).all()
    assert np.isnan(reading.best_f1).all()
    assert reading.n_pos == 0


def one_feature(value: np.ndarray, holds: np.ndarray) -> Evidence:
    """A feature that fires once in each document, by these values."""
    n = len(value)
    rows = Rows(
        doc=np.arange(n),
        pos=np.ones(n, dtype=int),
        token_id=np.zeros(n, dtype=np.int32),
        is_special=np.zeros(n, dtype=bool),
        vocab=VOCAB,
    )
    truths = (ConceptTruth(0, "document", "document", holds, np.ones(n, dtype=bool)),)
    documents = Documents("score", np.arange(n), np.arange(n), rows, truths)
    return gather([documents], [(0, np.arange(n), value.astype(np.float32))], 1)[0]


@pytest.mark.parametrize(("n", "error"), [(40, 0.0), (256, 0.0), (5000, 1e-3)])
def test_documents_crowded_by_one_huge_value_are_still_told_apart(n: int, error: float) -> None:
    rng = np.random.default_rng(n)
    holds = rng.random(n) < 0.3
    value = 100 + rng.random(n).round(4) + holds * 0.3
    value[0] = 1e9
    (reading,) = read_concepts(one_feature(value, holds))
    exact = exact_auroc(value.astype(np.float32), holds)
    assert abs(reading.auroc[0] - exact) <= error + 1e-12
    says = value.astype(np.float32) > reading.threshold[0]
    f1 = 2 * (says & holds).sum() / (says.sum() + holds.sum())
    assert reading.best_f1[0] == pytest.approx(f1)
