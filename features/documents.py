"""One split of the corpus and what fires in it: the only door to documents for labels.

A split is read by its name and holds nothing of another, so that what is given the `label`
and `score` splits cannot see `test`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int

from features.errors import LabelError
from features.own_concepts import OwnConcepts, no_concepts
from features.rows import Rows
from features.rules import Level
from features.statistics import Activations
from features.vocab import Vocab

GATHERED = 256
"""Features whose activations are sorted into splits at once."""


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


def read_documents(
    corpus_dir: Path, split: str, vocab: Vocab, own: OwnConcepts | None = None
) -> Documents:
    """The documents of one split with their concepts; a corpus without concepts has none.

    Args:
        own: concepts of one's own, beside the corpus's.

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
    truths = _read_truths(corpus_dir, split, token["tok"], doc_ids, doc, own or no_concepts())
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
    owner[place < 0] = -1
    count = np.zeros((len(splits), d_sae), dtype=np.int64)
    kept: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in splits]
    for feature, all_tok, all_value in _batched(features):
        inside = all_tok < len(place)
        own_feature, tok, value = feature[inside], all_tok[inside], all_value[inside]
        row, number_of = place[tok], owner[tok]
        for number in range(len(splits)):
            own = np.flatnonzero(number_of == number)
            count[number] += np.bincount(own_feature[own], minlength=d_sae)
            kept[number].append((row[own], value[own]))
    return tuple(
        Evidence(
            documents,
            start=np.concatenate([[0], np.cumsum(count[number])]),
            row=_joined([part[0] for part in kept[number]], np.int32),
            value=_joined([part[1] for part in kept[number]], np.float32),
        )
        for number, documents in enumerate(splits)
    )


def _batched(
    features: Iterable[Activations],
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Feature, token and value of many features at once; features come in ascending order.

    Raises:
        LabelError: they do not.
    """
    numbers: list[int] = []
    toks: list[np.ndarray] = []
    values: list[np.ndarray] = []
    for feature, tok, value in features:
        if numbers and feature <= numbers[-1]:
            raise LabelError(
                f"feature {feature} came after {numbers[-1]}; expected ascending numbers; "
                "run `dvc repro harvest` again"
            )
        numbers.append(feature)
        toks.append(tok)
        values.append(value)
        if len(numbers) > GATHERED:
            yield _batch(numbers, toks, values)
            numbers, toks, values = numbers[-1:], [tok[:0]], [value[:0]]
    if numbers:
        yield _batch(numbers, toks, values)


def _batch(
    numbers: list[int], toks: list[np.ndarray], values: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.repeat(numbers, [len(t) for t in toks]), np.concatenate(toks), np.concatenate(values)


def _joined(parts: list[np.ndarray], dtype: type[np.generic]) -> np.ndarray:
    return np.concatenate(parts or [np.zeros(0, dtype=dtype)])


def _read_truths(
    corpus_dir: Path,
    split: str,
    tok: Int[np.ndarray, " token"],
    doc_ids: Int[np.ndarray, " doc"],
    doc: Int[np.ndarray, " token"],
    own: OwnConcepts,
) -> tuple[ConceptTruth, ...]:
    """Where each concept holds and is defined: `concept.defined_on`, or by its FALSE rows."""
    files = {
        "concept": str(corpus_dir / "concept.parquet"),
        "label": str(corpus_dir / "concept_label.parquet"),
    }
    tables = {"own_concept": own.concept, "own_label": own.concept_label}
    concept = _columns(
        """
        SELECT concept_id, name, kind, coalesce(any_value(defined_on),
                   if(bool_or(NOT y), 'documents', 'everywhere')) AS defined_on
        FROM (FROM read_parquet($concept) UNION ALL BY NAME FROM own_concept) AS concept
             LEFT JOIN (FROM read_parquet($label) UNION ALL BY NAME FROM own_label) AS listed
             USING (concept_id)
        GROUP BY concept_id, name, kind ORDER BY concept_id
        """,
        tables,
        **files,
    )
    listed = _columns(
        """
        SELECT concept_id, doc_id, coalesce(tok, -1) AS tok, y
        FROM (FROM read_parquet($label) UNION ALL BY NAME FROM own_label) AS listed SEMI JOIN
             (FROM read_parquet($doc) WHERE split = $split) AS doc USING (doc_id)
        ORDER BY concept_id, doc_id, tok
        """,
        tables,
        label=files["label"],
        doc=str(corpus_dir / "doc.parquet"),
        split=split,
    )
    bounds = np.searchsorted(listed["concept_id"], concept["concept_id"])
    ends = np.searchsorted(listed["concept_id"], concept["concept_id"], side="right")
    truths = []
    for i, (first, last) in enumerate(zip(bounds, ends, strict=True)):
        is_token = concept["kind"][i] == "token"
        named = listed["tok"][first:last] >= 0 if is_token else np.ones(last - first, dtype=bool)
        place = np.searchsorted(
            tok if is_token else doc_ids,
            listed["tok" if is_token else "doc_id"][first:last][named],
        )
        in_doc = np.zeros(len(doc_ids), dtype=bool)
        in_doc[np.searchsorted(doc_ids, listed["doc_id"][first:last])] = True
        holds = np.zeros(len(tok) if is_token else len(doc_ids), dtype=bool)
        holds[place[listed["y"][first:last][named]]] = True
        is_defined = np.ones_like(holds)
        if concept["defined_on"][i] == "documents":
            is_defined = in_doc[doc] if is_token else in_doc
        elif concept["defined_on"][i] == "tokens":
            is_defined = np.zeros_like(holds)
            is_defined[place] = True
        truths.append(
            ConceptTruth(
                concept_id=int(concept["concept_id"][i]),
                name=str(concept["name"][i]),
                level="token" if is_token else "document",
                holds=holds,
                is_defined=is_defined,
            )
        )
    return tuple(truths)


def _columns(
    statement: str, tables: Mapping[str, pa.Table] | None = None, **params: str
) -> dict[str, np.ndarray]:
    """A query's columns as arrays. One thread, so that files are read the same way each time.

    Args:
        tables: what the query may name beside files.
    """
    with duckdb.connect(config={"threads": 1}) as connection:
        for name, table in (tables or {}).items():
            connection.register(name, table)
        table = connection.sql(statement, params=params).to_arrow_table()
    return {
        name: table[name].combine_chunks().to_numpy(zero_copy_only=False)
        for name in table.column_names
    }
