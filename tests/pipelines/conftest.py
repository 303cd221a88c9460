"""A small workspace as `corpus` and `dump` would leave it, without running them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

SPLITS = ("train", "train", "train", "heldout", "heldout", "label", "score", "test")
POINT = "blocks.1.hook_resid_post"
PARAMS = """
seed: 0
model: {{name: {model}, device: cpu, dtype: float32}}
dump: {{hook_points: [blocks.1.hook_resid_post]}}
sae:
  main:
    hook_point: blocks.1.hook_resid_post
    {source}
    train: {{kind: {kind}, d_sae: 48, k: 4, steps: 60, batch_rows: 256, lr: 0.01,
      warmup_steps: 5, checkpoint_steps: 20, dead_steps: 20}}
    harvest: {{batch_rows: 500, part_rows: 2000, promoted_tokens: 5, top_contexts: 5}}
"""


@pytest.fixture(scope="session")
def dumped(tmp_path_factory: pytest.TempPathFactory, tiny_lm_dir: Path) -> Path:
    """A workspace of 64 documents that the tiny model wrote, and their residuals under it."""
    from lm import HookPoint, open_model
    from lm.collect import collect
    from lm.generate import generate
    from store.residuals import ResidualBatch, RunningStats, write_part, write_stats

    workspace = tmp_path_factory.mktemp("workspace")
    lm = open_model(tiny_lm_dir, device="cpu", dtype="float32")
    rng = np.random.default_rng(0)
    written = generate(
        lm, [[1]] * 64, max_new_tokens=59, temperature=0.7, seeds=range(64), stop_at_eos=False
    )
    texts = [[1, *one.ids[: rng.integers(20, 59)]] for one in written]
    _write_corpus(workspace / "data/corpus", texts)
    folder, stats = workspace / "data/residuals" / POINT, RunningStats()
    batches = []
    for rows in collect(lm, enumerate(texts), [HookPoint.parse(POINT)], 1024):
        resid = rows.resid[HookPoint.parse(POINT)]
        batch = ResidualBatch(rows.doc_id, rows.pos, rows.token_id, rows.is_special, resid)
        stats.add(batch)
        batches.append(batch)
    folder.mkdir(parents=True)
    write_part(folder / "part-00000.arrow", batches, POINT, "float16")
    write_stats(folder, stats, POINT, "float16")
    return workspace


@pytest.fixture
def workspace(
    dumped: Path, tiny_lm_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A workspace of one's own that shares the dump, entered, with a params.yaml."""
    (tmp_path / "data").mkdir()
    for name in ("corpus", "residuals"):
        (tmp_path / "data" / name).symlink_to(dumped / "data" / name)
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, tiny_lm_dir)
    return tmp_path


@pytest.fixture
def set_params(workspace: Path, tiny_lm_dir: Path) -> Callable[..., None]:
    """Write another params.yaml into the workspace."""

    def write(kind: str = "topk", source: str = "") -> None:
        write_params(workspace, tiny_lm_dir, kind, source)

    return write


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Run a foreach stage's `main` on a slug, in this process."""

    def call(stage: str, slug: str = "main") -> None:
        import importlib

        monkeypatch.setattr("sys.argv", [stage, slug])
        importlib.import_module(f"pipelines.{stage}").main()

    return call


def write_params(folder: Path, model: Path, kind: str = "topk", source: str = "") -> None:
    text = PARAMS.format(model=json.dumps(str(model)), kind=kind, source=source)
    (folder / "params.yaml").write_text(text)


def _write_corpus(folder: Path, texts: list[list[int]]) -> None:
    folder.mkdir(parents=True)
    lengths = np.array([len(text) for text in texts])
    starts = np.cumsum(lengths) - lengths
    doc_id = np.repeat(np.arange(len(texts), dtype=np.int32), lengths)
    pos = np.concatenate([np.arange(n, dtype=np.int32) for n in lengths])
    token = {
        "tok": np.arange(len(doc_id), dtype=np.int64),
        "doc_id": doc_id,
        "pos": pos,
        "token_id": np.concatenate(texts).astype(np.int32),
        "is_special": pos == 0,
    }
    doc = {
        "doc_id": np.arange(len(texts), dtype=np.int32),
        "tok_start": starts.astype(np.int64),
        "n_tok": lengths.astype(np.int32),
        "split": [SPLITS[i % len(SPLITS)] for i in range(len(texts))],
        "source": ["random"] * len(texts),
        "sha": [f"{i:064x}" for i in range(len(texts))],
    }
    from store.schema import write_table

    write_table(
        folder / "token.parquet",
        "token",
        pa.table({**token, "loss": pa.nulls(len(doc_id), pa.float32())}),
        {},
    )
    write_table(folder / "doc.parquet", "doc", pa.table(doc), {})
    facts = {"source": "random", "n_docs": len(texts), "n_tokens": len(doc_id), "corpus_sha": "0"}
    (folder / "corpus.json").write_text(json.dumps(facts))
