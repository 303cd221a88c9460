"""A split is read alone, with its concepts and its activations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from features.documents import gather, read_documents
from features.errors import LabelError
from features.tokens import SPLITS
from tests.features.planted import (
    D_SAE,
    VOCAB,
    documents_of,
    evidence_of,
    features_of,
    make_world,
    write_corpus,
)

WORLD = make_world(n_docs=60, length=10)


@pytest.mark.parametrize("split", ["label", "test"])
def test_a_split_read_from_disk_is_the_split_and_nothing_else(tmp_path: Path, split: str) -> None:
    write_corpus(WORLD, tmp_path)
    read, expected = read_documents(tmp_path, split, VOCAB), documents_of(WORLD, split)
    assert read.split == split
    for name in ("doc_ids", "tok"):
        assert np.array_equal(getattr(read, name), getattr(expected, name))
    for name in ("doc", "pos", "token_id", "is_special"):
        assert np.array_equal(getattr(read.rows, name), getattr(expected.rows, name))
    assert set(WORLD.tokens.split[read.tok]) == {SPLITS.index(split)}


def test_concepts_hold_and_are_defined_where_the_corpus_says(tmp_path: Path) -> None:
    write_corpus(WORLD, tmp_path)
    read, expected = read_documents(tmp_path, "train", VOCAB), documents_of(WORLD, "train")
    assert [t.name for t in read.truths] == ["sea", "farm", "number"]
    for got, wanted in zip(read.truths, expected.truths, strict=True):
        assert (got.concept_id, got.level) == (wanted.concept_id, wanted.level)
        assert np.array_equal(got.holds, wanted.holds)
        assert np.array_equal(got.is_defined, wanted.is_defined)
    for name, where in expected.rows.concepts.items():
        assert np.array_equal(read.rows.concepts[name], where)


def test_gathering_gives_each_split_its_own_activations_in_feature_order() -> None:
    label, test = evidence_of(WORLD, "label", "test")
    for evidence in (label, test):
        tok = evidence.documents.tok
        for feature, all_tok, all_value in features_of(WORLD):
            row, value = evidence.of(feature)
            own = np.isin(all_tok, tok)
            assert np.array_equal(tok[row], all_tok[own])
            assert np.array_equal(value, all_value[own])
            assert evidence.n_act[feature] == own.sum()
        assert not evidence.documents.rows.is_special[evidence.row].any()
    assert label.d_sae == D_SAE


def test_gathering_two_splits_at_once_equals_gathering_each() -> None:
    both = evidence_of(WORLD, "label", "score")
    each = (*evidence_of(WORLD, "label"), *evidence_of(WORLD, "score"))
    for together, alone in zip(both, each, strict=True):
        assert np.array_equal(together.row, alone.row)
        assert np.array_equal(together.start, alone.start)


def test_no_activation_at_all_is_gathered_as_nothing() -> None:
    (evidence,) = gather([documents_of(WORLD, "label")], [], D_SAE)
    assert evidence.n_act.tolist() == [0] * D_SAE


def test_a_split_without_documents_says_so(tmp_path: Path) -> None:
    write_corpus(WORLD, tmp_path)
    with pytest.raises(LabelError, match=r"split 'dev' .* has no document; expected at least one"):
        read_documents(tmp_path, "dev", VOCAB)


def test_a_missing_file_says_which_stage_makes_it(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"no token\.parquet .* run `dvc repro corpus`"):
        read_documents(tmp_path, "label", VOCAB)


def test_an_activation_on_a_special_token_is_left_out() -> None:
    documents = documents_of(WORLD, "label")
    special = documents.tok[documents.rows.is_special]
    tok, value = documents.tok, np.ones(len(documents.tok))
    assert len(special) > 0
    (evidence,) = gather([documents], [(0, tok, value)], 1)
    assert evidence.n_act.tolist() == [len(tok) - len(special)]
    assert not np.isin(documents.tok[evidence.row], special).any()
