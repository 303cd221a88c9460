"""The measures of a search by pasted text, worked out by hand on a world of three features."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.search_quality import SCORES, counts, interval
from benchmarks.search_truth import NO_CONCEPT, Features, Texts

KNOWN = Features(
    density=np.array([0.01, 0.2, 0.5]),
    n_docs=np.array([1, 5, 9]),
    mean=np.ones(3),
    std=np.ones(3),
    best=np.array([0, 2]),
    as_good=np.array([[True, False], [True, False], [False, True]]),
    reads=np.array([0, 0, 1]),
    named=np.array([0, NO_CONCEPT, 1]),
)
HOLDS = np.array([[True, False], [True, True]])
FOUND = Texts((np.ones((4, 3)), np.ones((2, 3))), HOLDS)
ORDER = np.array([[2, 1, 0], [0, 2, 1]])


def test_each_measure_counts_what_is_found_and_what_there_is_to_find() -> None:
    best, as_good, concepts, names = counts(ORDER, FOUND, KNOWN)
    assert best[0] == pytest.approx([1 / 3, 1 / 1 + 1 / 2])
    assert as_good[0] == pytest.approx([1 / 2, 1 / 1 + 1 / 2])
    for _, there in (best, as_good, concepts):
        assert there.tolist() == [1, 2]
    assert concepts[0].tolist() == [1, 2]
    assert [list(found) for found in names] == [[1, 2], [2, 2]]


def test_an_interval_holds_the_share_and_is_a_point_where_documents_do_not_differ() -> None:
    share, low, high = interval(np.array([0, 2] * 50), np.full(100, 2))
    assert share == 0.5
    assert low < 0.5 < high
    assert interval(np.ones(9), np.full(9, 2)).tolist() == [0.5, 0.5, 0.5]


def test_the_truth_puts_its_readers_first() -> None:
    assert KNOWN.reads_of(HOLDS[0]).tolist() == [True, True, False]
    assert KNOWN.best_of(HOLDS[0]).tolist() == [True, False, False]
    assert KNOWN.best_of(HOLDS[1]).tolist() == [True, False, True]


@pytest.mark.parametrize("name", SCORES)
def test_every_score_is_finite_and_prefers_what_is_active(name: str) -> None:
    acts = np.array([[3.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
    score = SCORES[name](acts, KNOWN)
    assert np.isfinite(score).all()
    assert score.argmax() == 0
