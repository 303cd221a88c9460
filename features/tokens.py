"""The corpus as arrays: which document, place, piece and split every token has.

Knows the two Parquet files of the corpus that carry tokens, and no activation.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Bool, Int

from features.errors import LabelError

SPLITS = ("train", "heldout", "label", "score", "test")
"""Every split of the corpus, in the order of their codes."""


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """All tokens of a corpus; `tok` is the row number in each array."""

    doc_id: Int[np.ndarray, " token"]
    pos: Int[np.ndarray, " token"]
    token_id: Int[np.ndarray, " token"]
    is_special: Bool[np.ndarray, " token"]
    split: Int[np.ndarray, " token"]
    """Index into `SPLITS`."""

    def __len__(self) -> int:
        return len(self.token_id)

    @classmethod
    def read(cls, corpus_dir: Path) -> Tokens:
        """The tokens of `corpus_dir`, each with its document's split.

        Raises:
            LabelError: a file is missing, or a document's split has no known name.
        """
        for name in ("token.parquet", "doc.parquet"):
            if not (corpus_dir / name).is_file():
                raise LabelError(
                    f"no {name} in {corpus_dir}; expected a corpus; run `dvc repro corpus` first"
                )
        doc = pq.read_table(corpus_dir / "doc.parquet", columns=["doc_id", "split"])
        doc = doc.sort_by("doc_id")
        code = np.array([split_code(name) for name in doc["split"].to_pylist()], dtype=np.int8)
        known = doc["doc_id"].to_numpy()
        with pq.ParquetFile(corpus_dir / "token.parquet") as file:
            n = file.metadata.num_rows
            doc_id, pos, token_id = (np.empty(n, dtype=np.int32) for _ in range(3))
            is_special, split = np.empty(n, dtype=bool), np.empty(n, dtype=np.int8)
            for part in file.iter_batches(
                columns=["tok", "doc_id", "pos", "token_id", "is_special"]
            ):
                tok = part["tok"].to_numpy()
                doc_id[tok], pos[tok] = part["doc_id"].to_numpy(), part["pos"].to_numpy()
                token_id[tok] = part["token_id"].to_numpy()
                is_special[tok] = part["is_special"].to_numpy(zero_copy_only=False)
                split[tok] = code[np.searchsorted(known, doc_id[tok])]
        return cls(doc_id, pos, token_id, is_special, split)


def split_code(name: str) -> int:
    """The place of a split's name in `SPLITS`."""
    if name not in SPLITS:
        raise LabelError(
            f"split {name!r} is unknown; expected one of {', '.join(SPLITS)}; "
            "make the corpus again with `dvc repro corpus`"
        )
    return SPLITS.index(name)
