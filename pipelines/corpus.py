"""Stage `corpus`: documents to tokens, splits, concepts, prompts and contrast pairs.

Loads no torch: the tokenizer is read by the `tokenizers` library from the model's folder.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lm.errors import TokenizerMismatch
from lm.source import find_folder, read_facts
from lm.tokenizer import Tokenizer, open_tokenizer
from lm.vocabulary import vocabulary
from pipelines.corpora.concepts import concepts_of
from pipelines.corpora.labels import Concepts
from pipelines.corpora.pieces import Document, gather
from pipelines.errors import CorpusError
from pipelines.params import CorpusParams, Params, SplitParams, load_params
from pipelines.stage import model_source, run_stage
from store.atomic import whole_dir
from store.manifest import write_json
from store.schema import table_named, write_table

CORPUS = Path("data/corpus")
log = logging.getLogger("tiller.corpus")


def main() -> None:
    """Write `data/corpus` of the folder this runs in."""
    params = load_params()
    folder = find_folder(model_source(params.model))
    tokenizer = open_tokenizer(folder)
    _check_fits(folder, tokenizer, params.corpus)
    documents, dropped = gather(params, tokenizer)
    if dropped:
        log.info("%d documents occur more than once; one of each is kept", dropped)
    concepts = concepts_of(params, documents)
    with whole_dir(CORPUS) as out:
        write(out, params, tokenizer, documents, concepts)
    counts = {split: sum(d.split == split for d in documents) for split in SplitParams.model_fields}
    n_tokens = sum(len(document.encoded.ids) for document in documents)
    log.info("%d documents, %d tokens: %s", len(documents), n_tokens, counts)


def write(
    out: Path,
    params: Params,
    tokenizer: Tokenizer,
    documents: Sequence[Document],
    concepts: Concepts,
) -> None:
    """Every table of the corpus, and its record, into the folder `out`."""
    source = params.corpus.dataset or params.corpus.path or "microworld"
    lengths = np.array([len(document.encoded.ids) for document in documents], dtype=np.int32)
    token_id = np.concatenate([np.asarray(d.encoded.ids, dtype=np.int32) for d in documents])
    digest = hashlib.sha256(token_id.tobytes())
    for document in documents:
        digest.update(document.sha.encode())
    meta = {
        "corpus_sha": digest.hexdigest(),
        "tokenizer_sha": tokenizer.sha(),
        "source": Path(source).name if params.corpus.source == "file" else source,
    }
    _write(out, "token", _tokens(lengths, token_id, tokenizer.special_ids), meta)
    _write(out, "doc", _docs(lengths, documents), meta)
    texts = {"doc_id": range(len(documents)), "text": [d.text for d in documents]}
    _write(out, "text", {name: list(column) for name, column in texts.items()}, meta)
    _write(out, "vocab", _columns(vocabulary(tokenizer)), meta)
    _write(out, "concept", _table(concepts.concept, "concept_id name kind source"), meta)
    labels = concepts.labels
    rows = {"concept_id": labels.concept_id, "doc_id": labels.doc_id, "tok": labels.tok}
    _write(out, "concept_label", rows | {"y": labels.y}, meta)
    prompt = _table(concepts.prompt, "prompt_id prompt_set concept text split latents")
    _write(out, "prompt", prompt, meta)
    _write(out, "pair", _table(concepts.pair, "concept pair_id positive negative"), meta)
    record = {
        "n_docs": len(documents),
        "n_tokens": int(lengths.sum()),
        "context": params.corpus.context,
        **meta,
        **concepts.judge,
    }
    write_json(out / "corpus.json", record)


def _check_fits(folder: Path, tokenizer: Tokenizer, params: CorpusParams) -> None:
    facts = read_facts(folder)
    if tokenizer.n_vocab > facts.n_vocab:
        raise TokenizerMismatch(
            f"the tokenizer in {folder} has ids up to {tokenizer.n_vocab - 1}; expected fewer than "
            f"the model's {facts.n_vocab}; use the tokenizer that the model was trained with"
        )
    if params.context > facts.context:
        raise CorpusError(
            f"corpus.context is {params.context}; expected at most {facts.context}, what the model "
            "can read; lower corpus.context"
        )


def _tokens(
    lengths: npt.NDArray[np.int32], token_id: npt.NDArray[np.int32], special: frozenset[int]
) -> dict[str, Any]:
    starts = np.cumsum(lengths) - lengths
    pos = np.arange(len(token_id)) - np.repeat(starts, lengths)
    return {
        "tok": np.arange(len(token_id), dtype=np.int64),
        "doc_id": np.repeat(np.arange(len(lengths), dtype=np.int32), lengths),
        "pos": pos.astype(np.int32),
        "token_id": token_id,
        "is_special": (pos == 0) | np.isin(token_id, sorted(special)),
        "loss": pa.nulls(len(token_id), pa.float32()),
    }


def _docs(lengths: npt.NDArray[np.int32], documents: Sequence[Document]) -> dict[str, Any]:
    return {
        "doc_id": np.arange(len(documents), dtype=np.int32),
        "tok_start": (np.cumsum(lengths, dtype=np.int64) - lengths),
        "n_tok": lengths,
        "split": [document.split for document in documents],
        "source": [document.origin for document in documents],
        "sha": [document.sha for document in documents],
    }


def _columns(pieces: Sequence[Any]) -> dict[str, list[Any]]:
    names = ("token_id", "piece", "text", "is_word_start", "is_byte")
    return {name: [getattr(piece, name) for piece in pieces] for name in names}


def _table(rows: Sequence[dict[str, Any]], names: str) -> dict[str, list[Any]]:
    def plain(value: Any) -> Any:
        return json.dumps(value, sort_keys=True) if isinstance(value, dict) else value

    return {name: [plain(row[name]) for row in rows] for name in names.split()}


def _write(out: Path, name: str, columns: dict[str, Any], meta: dict[str, str]) -> None:
    types = {column.name: column.type for column in table_named(name).columns}
    arrays = {
        key: values if isinstance(values, pa.Array | np.ndarray) else pa.array(values, types[key])
        for key, values in columns.items()
    }
    write_table(out / f"{name}.parquet", name, pa.table(arrays), meta)


if __name__ == "__main__":
    run_stage("corpus", main)
