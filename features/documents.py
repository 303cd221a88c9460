"""One split of the corpus and what fires in it: the only door to documents for labels.

A split is read by its name and holds nothing of another, so that what is given the `label`
and `score` splits cannot see `test`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import duckdb
import numpy as np
from jaxtyping import Bool, Float, Int

from features.errors import LabelError
from features.rows import Rows
from features.rules import Level
from features.statistics import Activations
from features.vocab import Vocab


@dataclass(frozen=True, slots=True, eq=False)
class ConceptTruth:
    """Where one concept holds in the documents of a split."""

    concept_id: int
    name: str
    level: Level
    holds: Bool[np.ndarray, " unit"]
    """Per document or per token, by level."""
    is_defined: Bool[np.ndarray, " unit"]
    """False where the concept means nothing, such as the weather of a piece of code."""


@dataclass(frozen=True, eq=False)
class Documents:
    """The documents of one split and the concepts that hold in them."""

    split: str
    doc_ids: Int[np.ndarray, " doc"]
    tok: Int[np.ndarray, " token"]
    """Global token numbers, ascending."""
    rows: Rows
    truths: tuple[ConceptTruth, ...]

    @cached_property
    def truth(self) -> dict[str, ConceptTruth]:
        """The truths by the concept's name."""
        return {truth.name: truth for truth in self.truths}


@dataclass(frozen=True, eq=False)
class Evidence:
    """The documents of one split with every activation in them, in feature order."""

    documents: Documents
    start: Int[np.ndarray, " bound"]
    """Feature f owns the activations start[f] to start[f + 1]."""
    row: Int[np.ndarray, " act"]
    """Row of `documents.rows`, ascending within a feature."""
    value: Float[np.ndarray, " act"]

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return len(self.start) - 1

    def of(self, feature: int) -> tuple[Int[np.ndarray, " act"], Float[np.ndarray, " act"]]:
        """Rows where a feature fires, and its values."""
        own = slice(self.start[feature], self.start[feature + 1])
        return self.row[own], self.value[own]

    @cached_property
    def n_act(self) -> Int[np.ndarray, " feature"]:
        """Firings of each feature in these documents."""
        counts: np.ndarray = np.diff(self.start)
        return counts


def read_documents(corpus_dir: Path, split: str, vocab: Vocab) -> Documents:
    """The documents of one split with their concepts; a corpus without concepts has none.

    Raises:
        LabelError: a file of the corpus is missing, or the split has no document.
    """
    for name in ("token", "doc", "concept", "concept_label"):
        if not (corpus_dir / f"{name}.parquet").is_file():
            raise LabelError(
                f"no {name}.parquet in {corpus_dir}; expected a corpus; run `dvc repro corpus`"
            )
    token = _columns(
        """
        SELECT tok, doc_id, pos, token_id, is_special
        FROM read_parquet($token) AS token SEMI JOIN
             (FROM read_parquet($doc) WHERE split = $split) AS doc USING (doc_id)
        ORDER BY tok
        """,
        token=str(corpus_dir / "token.parquet"),
        doc=str(corpus_dir / "doc.parquet"),
        split=split,
    )
    if len(token["tok"]) == 0:
        raise LabelError(
            f"the split {split!r} of {corpus_dir} has no document; expected at least one; "
            "give more documents or a larger share of them to this split"
        )
    doc_ids, doc = np.unique(token["doc_id"], return_inverse=True)
    truths = _read_truths(corpus_dir, split, token["tok"], doc_ids, doc)
    rows = Rows(
        doc=doc,
        pos=token["pos"],
        token_id=token["token_id"],
        is_special=token["is_special"],
        vocab=vocab,
        concepts={t.name: t.holds if t.level == "token" else t.holds[doc] for t in truths},
    )
    return Documents(split, doc_ids, token["tok"], rows, truths)


def gather(
    splits: Sequence[Documents], features: Iterable[Activations], d_sae: int
) -> tuple[Evidence, ...]:
    """The activations in each of these splits, from one pass over all of them.

    Special tokens are left out.
    """
    place = np.full(1 + max(int(documents.tok[-1]) for documents in splits), -1, dtype=np.int32)
    owner = np.zeros(len(place), dtype=np.int8)
    for number, documents in enumerate(splits):
        real = ~documents.rows.is_special
        place[documents.tok[real]] = np.flatnonzero(real)
        owner[documents.tok] = number
    count = np.zeros((len(splits), d_sae), dtype=np.int64)
    kept: list[list[tuple[int, np.ndarray, np.ndarray]]] = [[] for _ in splits]
    for feature, all_tok, all_value in features:
        inside = all_tok < len(place)
        tok, value = all_tok[inside], all_value[inside]
        row, number_of = place[tok], owner[tok]
        for number in range(len(splits)):
            own = (row >= 0) & (number_of == number)
            count[number, feature] = np.count_nonzero(own)
            kept[number].append((feature, row[own], value[own]))
    return tuple(
        _evidence(documents, count[number], sorted(kept[number], key=lambda part: part[0]))
        for number, documents in enumerate(splits)
    )


def _evidence(
    documents: Documents,
    count: Int[np.ndarray, " feature"],
    parts: list[tuple[int, np.ndarray, np.ndarray]],
) -> Evidence:
    return Evidence(
        documents,
        start=np.concatenate([[0], np.cumsum(count)]),
        row=np.concatenate([part[1] for part in parts] or [np.zeros(0, dtype=np.int32)]),
        value=np.concatenate([part[2] for part in parts] or [np.zeros(0, dtype=np.float32)]),
    )


def _read_truths(
    corpus_dir: Path,
    split: str,
    tok: Int[np.ndarray, " token"],
    doc_ids: Int[np.ndarray, " doc"],
    doc: Int[np.ndarray, " token"],
) -> tuple[ConceptTruth, ...]:
    """A concept with any FALSE row is defined on listed documents only, else everywhere."""
    files = {
        "concept": str(corpus_dir / "concept.parquet"),
        "label": str(corpus_dir / "concept_label.parquet"),
    }
    concept = _columns(
        """
        SELECT concept_id, name, kind, coalesce(bool_or(NOT y), false) AS is_partial
        FROM read_parquet($concept) AS concept
             LEFT JOIN read_parquet($label) AS listed USING (concept_id)
        GROUP BY ALL ORDER BY concept_id
        """,
        **files,
    )
    listed = _columns(
        """
        SELECT concept_id, doc_id, coalesce(tok, -1) AS tok, y
        FROM read_parquet($label) AS listed SEMI JOIN
             (FROM read_parquet($doc) WHERE split = $split) AS doc USING (doc_id)
        ORDER BY concept_id, doc_id, tok
        """,
        label=files["label"],
        doc=str(corpus_dir / "doc.parquet"),
        split=split,
    )
    bounds = np.searchsorted(listed["concept_id"], concept["concept_id"])
    ends = np.searchsorted(listed["concept_id"], concept["concept_id"], side="right")
    truths = []
    for i, (first, last) in enumerate(zip(bounds, ends, strict=True)):
        y = listed["y"][first:last]
        in_doc = np.zeros(len(doc_ids), dtype=bool)
        in_doc[np.searchsorted(doc_ids, listed["doc_id"][first:last])] = True
        is_token = concept["kind"][i] == "token"
        holds = np.zeros(len(tok) if is_token else len(doc_ids), dtype=bool)
        if is_token:
            named = y & (listed["tok"][first:last] >= 0)
            holds[np.searchsorted(tok, listed["tok"][first:last][named])] = True
        else:
            holds[np.searchsorted(doc_ids, listed["doc_id"][first:last][y])] = True
        defined_doc = in_doc if concept["is_partial"][i] else np.ones_like(in_doc)
        truths.append(
            ConceptTruth(
                concept_id=int(concept["concept_id"][i]),
                name=str(concept["name"][i]),
                level="token" if is_token else "document",
                holds=holds,
                is_defined=defined_doc[doc] if is_token else defined_doc,
            )
        )
    return tuple(truths)


def _columns(statement: str, **params: str) -> dict[str, np.ndarray]:
    """A query's columns as arrays. One thread, so that files are read the same way each time."""
    with duckdb.connect(config={"threads": 1}) as connection:
        table = connection.sql(statement, params=params).to_arrow_table()
    return {
        name: table[name].combine_chunks().to_numpy(zero_copy_only=False)
        for name in table.column_names
    }
