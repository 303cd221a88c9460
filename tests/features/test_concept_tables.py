"""Every pair of feature and concept has a row; what is undefined is NULL with its reason."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow.compute as pc
import pytest

from features.concept_tables import concept_table, why_undefined
from features.documents import Evidence
from features.held_out import f1_above, held_out, signals_of
from features.measured import measure_concepts, q_values
from store.schema import conform
from tests.features.planted import DEAD, SEA, evidence_of, make_world

SCORE, TEST = evidence_of(make_world(), "score", "test")
ALIVE = SCORE.n_act > 0
SCORED = measure_concepts(SCORE)


def without(evidence: Evidence, name: str, *, holds: bool) -> Evidence:
    """The same evidence with one concept false, or true, wherever it is defined."""
    documents = evidence.documents
    truths = tuple(
        replace(t, holds=t.is_defined if holds else np.zeros_like(t.holds)) if t.name == name else t
        for t in documents.truths
    )
    return replace(evidence, documents=replace(documents, truths=truths))


def exact_f1(evidence: Evidence, number: int, feature: int, threshold: float) -> float:
    truth, rows = evidence.documents.truths[number], evidence.documents.rows
    row, value = evidence.of(feature)
    says = np.zeros(len(rows), dtype=bool)
    says[row[value > threshold]] = True
    holds = truth.holds & truth.is_defined
    if truth.level == "document":
        says = np.bincount(rows.doc, weights=says, minlength=rows.n_docs) > 0
    return float(2 * (says & holds).sum() / (says.sum() + holds.sum()))


def test_f1_on_test_is_at_the_threshold_of_the_score_split() -> None:
    score = measure_concepts(SCORE)
    test = held_out(score, TEST)
    for number, reading in enumerate(test):
        assert np.array_equal(reading.threshold, score[number].threshold)
        for feature in np.flatnonzero(ALIVE):
            exact = exact_f1(TEST, number, int(feature), float(reading.threshold[feature]))
            assert reading.best_f1[feature] == pytest.approx(exact)
    flattering = measure_concepts(TEST)
    assert all((f.best_f1 >= t.best_f1 - 1e-9).all() for f, t in zip(flattering, test, strict=True))
    assert any((f.best_f1 > t.best_f1 + 0.01).any() for f, t in zip(flattering, test, strict=True))


def test_on_one_and_the_same_split_f1_is_the_best_one() -> None:
    for reading in measure_concepts(SCORE):
        signals = signals_of(SCORE, reading.truth.level)
        again = f1_above(SCORE, reading.truth, signals, reading.threshold)
        assert again[ALIVE] == pytest.approx(reading.best_f1[ALIVE], abs=1e-6)


def test_q_values_are_over_all_pairs_of_a_split() -> None:
    table = conform(
        "feature_concept", concept_table(measure_concepts(SCORE), TEST, ALIVE, run_id="a")
    )
    p = np.concatenate([reading.p_value[ALIVE] for reading in measure_concepts(TEST)])
    on_test = table.filter(pc.equal(table["split"], "test")).sort_by("concept_id")
    on_test = on_test.sort_by([("concept_id", "ascending"), ("feature_id", "ascending")])
    assert on_test["q_value"].to_numpy() == pytest.approx(q_values(p).astype(np.float32))
    assert set(table["reason"].to_pylist()) == {None}
    assert DEAD not in table["feature_id"].to_pylist()
    assert table.num_rows == 2 * 3 * ALIVE.sum()


@pytest.mark.parametrize(("holds", "why"), [(False, "no positive"), (True, "no negative")])
def test_one_class_only_on_test_has_null_scores_and_a_reason(holds: bool, why: str) -> None:
    table = concept_table(
        measure_concepts(SCORE), without(TEST, "sea", holds=holds), ALIVE, run_id="a"
    )
    rows = conform("feature_concept", table).to_pylist()
    sea = [row for row in rows if row["concept_id"] == 0]
    assert len(sea) == 2 * ALIVE.sum()
    for row in sea:
        is_test = row["split"] == "test"
        assert row["reason"] == (f"{why} on test" if is_test else None)
        for name in ("auroc", "lo", "hi", "q_value"):
            assert (row[name] is None) == is_test
    assert not any(row["reason"] for row in rows if row["concept_id"] != 0)
    assert all(0 <= row["q_value"] <= 1 for row in rows if row["concept_id"] != 0)


def test_one_class_only_on_score_leaves_test_without_a_threshold() -> None:
    score = measure_concepts(without(SCORE, "sea", holds=False))
    rows = conform("feature_concept", concept_table(score, TEST, ALIVE, run_id="a")).to_pylist()
    sea = {row["split"]: row for row in rows if row["concept_id"] == 0 and row["feature_id"] == SEA}
    assert sea["score"]["reason"] == "no positive on score"
    assert sea["score"]["auroc"] is sea["score"]["threshold"] is None
    assert sea["test"]["reason"] == "no threshold, since score has one class only"
    assert sea["test"]["auroc"] > 0.9
    assert sea["test"]["best_f1"] is sea["test"]["threshold"] is None


@pytest.mark.parametrize("holds", [True, False])
def test_a_class_in_one_document_has_an_area_and_a_reason_for_the_rest(holds: bool) -> None:
    truths = list(TEST.documents.truths)
    alone = np.zeros_like(truths[0].holds)
    alone[np.flatnonzero(truths[0].is_defined)[0]] = True
    truths[0] = replace(truths[0], holds=alone == holds)
    test = replace(TEST, documents=replace(TEST.documents, truths=tuple(truths)))
    table = concept_table(measure_concepts(SCORE), test, ALIVE, run_id="a")
    rows = conform("feature_concept", table).to_pylist()
    said = "positives" if holds else "negatives"
    for row in rows:
        if row["concept_id"] == 0 and row["split"] == "test":
            assert row["lo"] is row["hi"] is row["q_value"] is None
            assert 0 <= row["auroc"] <= 1
            assert row["best_f1"] is not None
            assert row["reason"] == (
                f"no interval and no q, since all {said} on test are in one document"
            )
        else:
            assert row["reason"] is None


def test_a_concept_without_any_unit_lacks_both_classes() -> None:
    (reading, *_) = measure_concepts(SCORE)
    assert why_undefined(reading, "score") is None
    nothing = replace(reading, n_pos=0, n_neg=0)
    assert why_undefined(nothing, "score") == "no positive and no negative on score"


def test_no_concept_is_no_row() -> None:
    bare = replace(TEST, documents=replace(TEST.documents, truths=()))
    assert concept_table((), bare, ALIVE, run_id="a").num_rows == 0
