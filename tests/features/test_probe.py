"""Probes tell what the stream carries, and nothing where it carries nothing."""

from __future__ import annotations

import numpy as np
import pytest

from features.probe import LEAST_POSITIVES, Sample, probe_concepts, sample_rows, tracked
from tests.features.planted import documents_of, make_world, residuals_of

WORLD = make_world()
TRAIN, TEST = documents_of(WORLD, "train"), documents_of(WORLD, "test")


def sample(split: str, resid: np.ndarray) -> Sample:
    documents = {"train": TRAIN, "test": TEST}[split]
    row = sample_rows(documents, most=10**6, seed=0)
    return Sample(documents, row, resid[documents.tok[row]])


def test_planted_directions_are_found_on_test_documents() -> None:
    resid = residuals_of(WORLD)
    scores = probe_concepts(sample("train", resid), sample("test", resid))
    assert [score.concept for score in scores] == ["sea", "farm", "number"]
    assert all(score.auroc is not None and score.auroc > 0.99 for score in scores)
    assert tracked(scores) == ("sea", "farm", "number")


def test_noise_carries_nothing() -> None:
    noise = np.random.default_rng(0).normal(size=(len(WORLD.tokens), 8)).astype(np.float32)
    scores = probe_concepts(sample("train", noise), sample("test", noise))
    assert all(score.auroc == pytest.approx(0.5, abs=0.2) for score in scores)
    assert tracked(scores) == ()


def test_a_direction_that_flips_between_train_and_test_is_not_tracked() -> None:
    resid = residuals_of(WORLD)
    scores = probe_concepts(sample("train", resid), sample("test", -resid))
    assert "number" not in tracked(scores)


def test_a_concept_with_too_few_test_units_is_not_judged() -> None:
    resid = residuals_of(WORLD)
    few = sample("test", resid)
    keep = np.isin(few.documents.rows.doc[few.row], np.arange(LEAST_POSITIVES))
    small = Sample(few.documents, few.row[keep], few.resid[keep])
    sea = probe_concepts(sample("train", resid), small)[0]
    assert sea.auroc is None
    assert sea.n_pos < LEAST_POSITIVES
    assert "sea" not in tracked([sea])


def test_a_sample_is_whole_documents_without_special_tokens() -> None:
    row = sample_rows(TRAIN, most=100, seed=1)
    docs = np.unique(TRAIN.rows.doc[row])
    assert not TRAIN.rows.is_special[row].any()
    assert 39 <= len(row) <= 100
    whole = np.isin(TRAIN.rows.doc, docs) & ~TRAIN.rows.is_special
    assert np.array_equal(row, np.flatnonzero(whole))
    assert not np.array_equal(row, sample_rows(TRAIN, most=100, seed=2))


def test_a_sample_has_at_least_one_document() -> None:
    assert len(sample_rows(TRAIN, most=1, seed=0)) == 39


def styled(split: str, seed: int) -> Sample:
    """A sea said on a tenth of its documents' tokens, beside a style that most of them share."""
    documents = {"train": TRAIN, "test": TEST}[split]
    row = sample_rows(documents, most=10**6, seed=0)
    rng = np.random.default_rng(seed)
    doc, sea = documents.rows.doc[row], documents.truth["sea"].holds
    style = np.where(rng.random(len(sea)) < np.where(sea, 0.7, 0.3), 3.0, 0.0)
    resid = rng.normal(size=(len(row), 8)).astype(np.float32)
    resid[:, 0] += np.where(sea[doc] & (rng.random(len(row)) < 0.1), 4, 0)
    resid[:, 1] += style[doc]
    return Sample(documents, row, resid)


def test_the_few_telling_tokens_of_a_document_make_its_probe() -> None:
    """All tokens alike give .83 here, three quarters .86, and the quarter that tells most .93."""
    sea = probe_concepts(styled("train", 0), styled("test", 1))[0]
    assert sea.auroc is not None
    assert sea.auroc > 0.9
