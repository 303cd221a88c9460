"""One pass over what fires gives the variance that all placements of all tokens give."""

from __future__ import annotations

import numpy as np
import pytest

from features import clustered
from features.auroc import Counted, count_concepts, read
from features.clustered import moves, pair_up
from features.documents import Evidence
from tests.features.test_auroc import wide_evidence


def counted_of(evidence: Evidence, number: int) -> tuple[Counted, np.ndarray]:
    """One concept's counts, and the document of each of its units."""
    counted = list(count_concepts(evidence))[number]
    by_token = counted.truth.level == "token"
    doc = evidence.documents.rows.doc
    return counted, doc if by_token else np.arange(len(evidence.documents.doc_ids))


def bins_of(counted: Counted, feature: int) -> np.ndarray:
    """The bin of every unit, silent ones in bin 0."""
    bins = counted.binned.edges.shape[1] + 1
    own = counted.binned.code // bins == feature
    found = np.zeros(len(counted.valid), dtype=np.int64)
    found[counted.binned.unit[own]] = counted.binned.code[own] % bins
    return found


def dense_moves(bins: np.ndarray, holds: np.ndarray, doc: np.ndarray) -> np.ndarray:
    """What each document does to the area, from every pair of a positive and a negative."""
    yes, no = bins[holds], bins[~holds]
    wins = (yes[:, None] > no[None]) + (yes[:, None] == no[None]) / 2
    area = wins.mean()
    n_docs = doc.max() + 1
    of_yes = np.bincount(doc[holds], wins.mean(axis=1) - area, minlength=n_docs)
    of_no = np.bincount(doc[~holds], wins.mean(axis=0) - area, minlength=n_docs)
    found: np.ndarray = of_yes / len(yes) + of_no / len(no)
    return found


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("at_once", [50, 1 << 18])
def test_moves_are_those_of_all_placements(
    number: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a concept of tokens, of one that is defined on half of them, and of documents."""
    monkeypatch.setattr(clustered, "AT_ONCE", at_once)
    evidence, _ = wide_evidence(0)
    counted, doc = counted_of(evidence, number)
    found = moves(counted, pair_up(counted.binned, doc), read(counted).auroc)
    for feature in (0, 5):
        bins = bins_of(counted, feature)
        kept = counted.valid
        moved = dense_moves(bins[kept], counted.truth.holds[kept], doc[kept])
        assert moved.sum() == pytest.approx(0, abs=1e-12)
        assert found.square[feature] == pytest.approx((moved**2).sum(), rel=1e-9)
        assert found.cube[feature] == pytest.approx((moved**3).sum(), rel=1e-9, abs=1e-14)


def test_with_one_unit_a_document_the_variance_is_delongs() -> None:
    evidence, _ = wide_evidence(2)
    counted, doc = counted_of(evidence, 2)
    found = moves(counted, pair_up(counted.binned, doc), read(counted).auroc)
    for feature in range(evidence.d_sae):
        bins, holds = bins_of(counted, feature), counted.truth.holds
        wins = np.sign(bins[holds][:, None] - bins[~holds][None]) / 2 + 0.5
        delong = sum(wins.mean(axis=axis).var() / wins.shape[1 - axis] for axis in (0, 1))
        assert found.square[feature] == pytest.approx(delong, rel=1e-9)


def test_a_feature_that_never_fires_is_moved_by_nothing() -> None:
    evidence, _ = wide_evidence(0)
    start, own = evidence.start.copy(), slice(*evidence.start[3:5])
    start[4:] -= own.stop - own.start
    row, value = np.delete(evidence.row, own), np.delete(evidence.value, own)
    silent = Evidence(evidence.documents, start, row, value)
    counted, doc = counted_of(silent, 0)
    found = moves(counted, pair_up(counted.binned, doc), read(counted).auroc)
    assert found.square[3] == 0
    assert (found.square[[2, 4]] > 0).all()
