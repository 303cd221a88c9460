"""A workspace with everything that dashboards show: contexts, logits, neighbours and labels."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest

import store
from features.contexts import ContextPicker
from features.tokens import Tokens
from store.activations import iter_features, sort_by_feature, writer
from store.catalog import write_catalog
from store.schema import write_table

LENGTHS = [20] * 9 + [320]
N_TOKENS = sum(LENGTHS)
D_SAE, D_MODEL, N_VOCAB, DEAD = 12, 6, 50, 11
STRANGE_TEXTS = {7: "�", 8: "a\x00b\\u0000", 9: "[red]\x1b[31m", 10: "\n"}
RUN = "main"


def build(workspace: Path) -> Path:
    """Nine short documents and a long one; latent 11 never fires; some pieces are awkward."""
    corpus, folder = workspace / "data/corpus", workspace / "data/features" / RUN
    rng = np.random.default_rng(1)
    doc_id = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
    start = np.concatenate([[0], np.cumsum(LENGTHS)[:-1]])
    token_id = rng.integers(1, N_VOCAB, N_TOKENS)
    token_id[start] = 0
    split = ["train", "test"] * 5
    n = np.arange(N_TOKENS)
    _write(
        corpus,
        {
            "token": {
                "tok": n,
                "doc_id": doc_id,
                "pos": n - start[doc_id],
                "token_id": token_id,
                "is_special": token_id == 0,
            },
            "doc": {
                "doc_id": np.arange(len(LENGTHS)),
                "tok_start": start,
                "n_tok": LENGTHS,
                "split": split,
                "source": ["made"] * len(LENGTHS),
                "sha": ["0"] * len(LENGTHS),
            },
            "vocab": {
                "token_id": np.arange(N_VOCAB),
                "piece": [f"Ġw{i}" for i in range(N_VOCAB)],
                "text": [STRANGE_TEXTS.get(i, f" w{i}") for i in range(N_VOCAB)],
                "is_word_start": [True] * N_VOCAB,
                "is_byte": [i == 7 for i in range(N_VOCAB)],
            },
            "text": {"doc_id": [0], "text": ["a text"]},
        },
    )
    real = np.flatnonzero(token_id != 0)
    tok = np.repeat(real, 3)
    feature = (rng.integers(0, 3, len(real))[:, None] + np.array([0, 3, 6])).reshape(-1)
    value = rng.integers(1, 1024, len(tok)).astype(np.float32) / 256
    value[0] = 70_000.0
    with writer(folder, {"sae": RUN}, D_SAE) as out:
        out.write(tok, feature, value)
        n_act = out.finish(tokens_done=N_TOKENS)
    sort_by_feature(folder, D_SAE, threads=1)
    tokens = Tokens(
        doc_id=doc_id,
        pos=n - start[doc_id],
        token_id=token_id,
        is_special=token_id == 0,
        split=doc_id % 5,
    )
    picker = ContextPicker(tokens, top=5, per_decile=2, silent=3, hard=3, seed=0)
    for one, at, strength in iter_features(folder):
        picker.add(one, at, strength)
    _write(folder, _small_tables(tok, feature, value, n_act), {"topk": picker.table(RUN)})
    write_catalog(workspace, [RUN])
    _write(workspace / "data/labels", _labels())
    return workspace


def _small_tables(
    tok: np.ndarray, feature: np.ndarray, value: np.ndarray, n_act: int
) -> dict[str, dict[str, object]]:
    ids = np.arange(D_SAE)
    count = np.bincount(feature, minlength=D_SAE)
    largest = [float(value[feature == i].max(initial=0)) or None for i in ids]
    vectors = np.random.default_rng(2).standard_normal((D_SAE, D_MODEL)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    run = {
        "run_id": RUN,
        "model": "made-model",
        "hook_point": "blocks.2.hook_resid_post",
        "layer": 2,
        "d_model": D_MODEL,
        "d_sae": D_SAE,
        "corpus": "made",
        "corpus_sha": "abc",
        "n_tokens": N_TOKENS,
        "n_act": n_act,
    }
    two = np.repeat(ids, 2)
    return {
        "run": {name: [found] for name, found in run.items()},
        "feature_stats": {
            "run_id": [RUN] * D_SAE,
            "feature_id": ids,
            "n_act": count,
            "density": count / N_TOKENS,
            "max_value": pa.array(largest, pa.float32()),
            "is_dead": count == 0,
        },
        "feature_hist": {
            "run_id": [RUN] * 2,
            "feature_id": [0, 0],
            "bin": [0, 1],
            "lo": [0.0, 1.5],
            "hi": [1.5, 4.0],
            "n": [3, 4],
        },
        "logit": {
            "run_id": [RUN] * 2 * D_SAE,
            "feature_id": two,
            "side": ["promotes", "suppresses"] * D_SAE,
            "rank": [0] * 2 * D_SAE,
            "token_id": two,
            "logit": np.where(np.arange(2 * D_SAE) % 2 == 0, 0.1, -0.3).astype(np.float32),
        },
        "neighbour": {
            "run_id": [RUN] * 2 * D_SAE,
            "feature_id": two,
            "kind": ["dec_cos", "value_corr"] * D_SAE,
            "rank": [0] * 2 * D_SAE,
            "other_id": (two + 1) % D_SAE,
            "score": np.full(2 * D_SAE, 0.7, dtype=np.float32),
        },
        "decoder": {
            "run_id": [RUN] * D_SAE,
            "feature_id": ids,
            "vec": [row.tolist() for row in vectors],
        },
    }


def _labels() -> dict[str, dict[str, object]]:
    return {
        "label": {
            "run_id": [RUN] * 3,
            "label_id": [0, 1, 10],
            "feature_id": [0, 0, 1],
            "name": ["sea", "says ship", "weak: sky"],
            "slug": ["sea", "says-ship", "sky"],
            "text": ["Fires on 'sea'", "Promotes 'ship'", "Fires on 'sky'"],
            "rule": ["{}", "{}", "{}"],
            "method": ["token_set", "promoted_tokens", "token_set"],
            "side": ["input", "output", "input"],
            "status": ["ok", "unscored", "weak"],
        },
        "label_score": {
            "run_id": [RUN] * 3,
            "label_id": [0, 1, 10],
            "metric": ["detection", "output_score", "detection"],
            "value": pa.array([0.9, None, 0.5], pa.float32()),
            "scorer": ["rule"] * 3,
            "split": ["test"] * 3,
            "seed": [0] * 3,
            "reason": [None, "not yet", None],
        },
    }


def _write(
    folder: Path, tables: dict[str, dict[str, object]], ready: dict[str, pa.Table] | None = None
) -> None:
    made = {name: pa.table(columns) for name, columns in tables.items()}
    for name, rows in {**made, **(ready or {})}.items():
        write_table(folder / f"{name}.parquet", name, rows, {})


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workspace that every test gets a copy of."""
    return build(tmp_path_factory.mktemp("exchange") / "workspace")


@pytest.fixture
def workspace(built: Path, tmp_path: Path) -> Path:
    """A workspace of one's own."""
    return Path(shutil.copytree(built, tmp_path / "workspace"))


@pytest.fixture
def con(workspace: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """The workspace's open store."""
    opened = store.open(workspace)
    yield opened
    opened.close()
