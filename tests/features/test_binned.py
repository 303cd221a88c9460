"""Values come into bins as they stand in documents and tokens."""

from __future__ import annotations

import numpy as np

from features.binned import bin_values, largest_by_document
from tests.features.test_auroc import wide_evidence


def test_the_largest_value_of_a_document_is_its_reading() -> None:
    evidence, acts = wide_evidence(0)
    feature, doc, value = largest_by_document(evidence)
    dense = np.maximum.reduceat(acts, np.arange(0, len(acts), 50))
    assert np.array_equal(dense[doc, feature], value)
    assert len(value) == (dense > 0).sum()


def test_a_count_has_every_valid_unit_once_silence_included() -> None:
    evidence, acts = wide_evidence(1)
    valid = np.arange(len(acts)) % 7 > 0
    count = bin_values(evidence, "token").count(valid)
    assert (count.sum(axis=1) == valid.sum()).all()
    assert np.array_equal(count[:, 0], (acts[valid] == 0).sum(axis=0))
