"""A store of usual size, made up, whose every table that a search reads is full."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from features.logits import decoder_table
from store.activations import sort_by_feature, writer
from store.catalog import write_catalog
from store.schema import empty, write_table
from store.tables import SCHEMA_VERSION

D_SAE, D_MODEL, N_VOCAB, N_CONCEPTS, N_WORDS = 24_576, 768, 50_257, 40, 8_000
PROMOTED, NEIGHBOURS, LABEL_WORDS = 20, 10, 14
HOOK_POINT, RUN = "blocks.6.hook_resid_post", "main"
SYLLABLES = (
    "ba",
    "ke",
    "li",
    "mo",
    "nu",
    "ra",
    "se",
    "ti",
    "vo",
    "du",
    "fa",
    "ge",
    "hi",
    "jo",
    "pu",
    "za",
)


def write_store(workspace: Path) -> None:
    """A store of usual size whose every table that a search reads is full."""
    rng = np.random.default_rng(0)
    _write_corpus(workspace / "data/corpus")
    folder = workspace / "data/features" / RUN
    with writer(folder, {}, D_SAE) as write:
        write.write(
            np.arange(D_SAE, dtype=np.int64),
            np.arange(D_SAE, dtype=np.int32),
            np.ones(D_SAE, dtype=np.float32),
        )
        write.finish(D_SAE)
    sort_by_feature(folder, D_SAE)
    for name, rows in _feature_tables(rng).items():
        write_table(folder / f"{name}.parquet", name, rows, {})
    write_catalog(workspace)
    for name, rows in _label_tables(rng).items():
        write_table(workspace / "data/labels" / f"{name}.parquet", name, rows, {})


def _write_corpus(corpus: Path) -> None:
    ids = np.arange(N_VOCAB, dtype=np.int32)
    tok = np.arange(D_SAE, dtype=np.int64)
    tables = {
        "vocab": pa.table({"token_id": ids, "piece": _words(ids), "text": _words(ids)}),
        "token": pa.table({"tok": tok, "doc_id": np.zeros(D_SAE, dtype=np.int32)}),
        "concept": pa.table(
            {
                "concept_id": np.arange(N_CONCEPTS, dtype=np.int32),
                "name": [f"concept{i}" for i in range(N_CONCEPTS)],
            }
        ),
    }
    for name in ("doc", "concept_label", "text", "prompt", "pair"):
        tables[name] = empty(name)
    for name, rows in tables.items():
        write_table(corpus / f"{name}.parquet", name, rows, {})


def _feature_tables(rng: np.random.Generator) -> dict[str, pa.Table]:
    feature = np.arange(D_SAE, dtype=np.int32)
    decoder = rng.normal(size=(D_SAE, D_MODEL)).astype(np.float32)
    decoder /= np.linalg.norm(decoder, axis=1, keepdims=True)
    run = {
        "hook_point": HOOK_POINT,
        "d_model": D_MODEL,
        "d_sae": D_SAE,
        "corpus_sha": "synthetic",
        "n_tokens": D_SAE,
        "n_act": D_SAE,
        "schema_version": SCHEMA_VERSION,
    }
    drawn = D_SAE * PROMOTED
    logits = [
        pa.table(
            {
                "feature_id": np.repeat(feature, PROMOTED),
                "side": [side] * drawn,
                "rank": np.tile(np.arange(PROMOTED, dtype=np.int16), D_SAE),
                "token_id": rng.integers(0, N_VOCAB, drawn).astype(np.int32),
                "logit": sign * rng.exponential(size=drawn).astype(np.float32),
            }
        )
        for side, sign in (("promotes", 1.0), ("suppresses", -1.0))
    ]
    near = [
        pa.table(
            {
                "feature_id": np.repeat(feature, NEIGHBOURS),
                "kind": [kind] * (D_SAE * NEIGHBOURS),
                "rank": np.tile(np.arange(NEIGHBOURS, dtype=np.int16), D_SAE),
                "other_id": rng.integers(0, D_SAE, D_SAE * NEIGHBOURS).astype(np.int32),
                "score": rng.random(D_SAE * NEIGHBOURS).astype(np.float32),
            }
        )
        for kind in ("dec_cos", "coact_jaccard", "value_corr")
    ]
    tables = {
        "run": pa.Table.from_pylist([run]),
        "feature_stats": pa.table({"feature_id": feature, "density": rng.beta(1, 300, D_SAE)}),
        "logit": pa.concat_tables(logits),
        "neighbour": pa.concat_tables(near),
        "decoder": decoder_table(decoder, run_id=RUN).drop_columns("run_id"),
        "feature_hist": empty("feature_hist").drop_columns("run_id"),
        "topk": empty("topk").drop_columns("run_id"),
    }
    return {name: _of_run(rows) for name, rows in tables.items()}


def _label_tables(rng: np.random.Generator) -> dict[str, pa.Table]:
    """Two labels a feature, of words by Zipf's law; scores; every concept against every feature."""
    n = 2 * D_SAE
    word = np.minimum(rng.zipf(1.3, size=(n, LABEL_WORDS)), N_WORDS)
    label_id = np.arange(n, dtype=np.int64)
    chance = rng.random(n).astype(np.float32)
    labels = {
        "label_id": label_id,
        "feature_id": (label_id // 2).astype(np.int32),
        "name": [" ".join(_words(row[:3])) for row in word],
        "slug": [f"{'-'.join(_words(row[:2])).replace(' ', '')}-{i}" for i, row in enumerate(word)],
        "text": [f"Fires on {' '.join(_words(row))}" for row in word],
        "rule": ["{}"] * n,
        "side": ["input", "output"] * D_SAE,
        "status": ["ok"] * n,
    }
    scores = {
        "label_id": label_id,
        "metric": ["detection", "output_score"] * D_SAE,
        "value": chance,
        "lo": chance - 0.05,
        "hi": chance + 0.05,
        "null_value": np.full(n, 0.5, dtype=np.float32),
        "split": ["test"] * n,
    }
    pairs = D_SAE * N_CONCEPTS
    readings = {
        "feature_id": np.repeat(np.arange(D_SAE, dtype=np.int32), N_CONCEPTS),
        "concept_id": np.tile(np.arange(N_CONCEPTS, dtype=np.int32), D_SAE),
        "auroc": rng.random(pairs).astype(np.float32),
        "best_f1": rng.random(pairs).astype(np.float32),
        "split": ["score"] * pairs,
    }
    found = {"label": labels, "label_score": scores, "feature_concept": readings}
    return {name: _of_run(pa.table(columns)) for name, columns in found.items()}


def _of_run(rows: pa.Table) -> pa.Table:
    if "run_id" in rows.column_names:
        return rows
    return rows.append_column("run_id", pa.array([RUN] * rows.num_rows, pa.string()))


def _words(numbers: np.ndarray) -> list[str]:
    """A made-up word for each number, with the space that begins it."""
    return [f" {SYLLABLES[n % 16]}{SYLLABLES[n // 16 % 16]}{n}" for n in numbers.tolist()]
