"""Tokens come from the corpus files with their document's split."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.errors import LabelError
from features.tokens import SPLITS, Tokens


def write_corpus(folder: Path, splits: list[str]) -> None:
    """Two tokens a document, written out of order."""
    n = 2 * len(splits)
    order = list(reversed(range(n)))
    token = pa.table(
        {
            "tok": pa.array(order, pa.int64()),
            "doc_id": pa.array([i // 2 for i in order], pa.int32()),
            "pos": pa.array([i % 2 for i in order], pa.int32()),
            "token_id": pa.array([10 + i for i in order], pa.int32()),
            "is_special": pa.array([i % 2 == 0 for i in order]),
        }
    )
    pq.write_table(token, folder / "token.parquet")
    doc = pa.table({"doc_id": pa.array(range(len(splits)), pa.int32()), "split": splits})
    pq.write_table(doc, folder / "doc.parquet")


def test_row_number_is_token_number_and_split_is_the_documents(tmp_path: Path) -> None:
    write_corpus(tmp_path, ["test", "train", "score"])
    tokens = Tokens.read(tmp_path)
    assert tokens.token_id.tolist() == [10, 11, 12, 13, 14, 15]
    assert [SPLITS[code] for code in tokens.split] == ["test"] * 2 + ["train"] * 2 + ["score"] * 2
    assert tokens.is_special.tolist() == [True, False] * 3
    assert len(tokens) == 6


def test_a_split_without_a_known_name_is_refused(tmp_path: Path) -> None:
    write_corpus(tmp_path, ["train", "dev"])
    with pytest.raises(LabelError, match=r"'dev' is unknown; expected one of train, .*; make"):
        Tokens.read(tmp_path)


def test_a_missing_corpus_says_which_stage_makes_it(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"no token\.parquet .* run `dvc repro corpus`"):
        Tokens.read(tmp_path)
