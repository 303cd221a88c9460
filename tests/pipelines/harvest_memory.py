"""A harvest of random residuals in a process of its own, limited in memory and measured.

`harvest_memory.py LIMIT_MB` runs the stage `harvest` on the workspace it is started in, and says
how many MB of memory that no file backs the stage took at its peak, beyond what its imports, the
model and the autoencoder take. LIMIT_MB is the most that it may take, 0 for no limit.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa

POINT = "blocks.0.hook_resid_post"
D_MODEL, D_SAE, K, DOCUMENT = 2048, 256, 32, 100
BATCH = 40 * DOCUMENT
PARAMS = f"""
model: {{name: model, device: cpu, dtype: float32}}
dump: {{hook_points: [{POINT}]}}
sae:
  main:
    hook_point: {POINT}
    harvest: {{batch_rows: 1024, part_rows: 500000, sort_memory: 64MB}}
"""


def build(folder: Path, tokenizer: Path, n_tokens: int) -> int:
    """A workspace as `corpus`, `dump` and `train` leave it; gives the bytes of its residuals."""
    (folder / "params.yaml").write_text(PARAMS)
    _write_model(folder / "model", tokenizer)
    _write_sae(folder / "data/sae/main")
    _write_corpus(folder / "data/corpus", n_tokens)
    return _write_residuals(folder / "data/residuals" / POINT, n_tokens)


def _write_model(folder: Path, tokenizer: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shutil.copytree(tokenizer, folder)
    facts = json.loads((folder / "config.json").read_text())
    config = LlamaConfig(
        vocab_size=facts["vocab_size"],
        hidden_size=D_MODEL,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)


def _write_sae(folder: Path) -> None:
    import torch

    from sae.checkpoint import save
    from sae.model import SparseAutoencoder
    from sae.sparsity import TopK

    generator = torch.Generator().manual_seed(0)
    W_dec = torch.nn.functional.normalize(torch.randn(D_SAE, D_MODEL, generator=generator), dim=1)
    sae = SparseAutoencoder(
        W_enc=W_dec.t().clone(),
        W_dec=W_dec,
        b_enc=torch.zeros(D_SAE),
        b_dec=torch.zeros(D_MODEL),
        sparsity=TopK(K),
        threshold=None,
        hook_point=POINT,
    )
    save(sae, folder)
    figures = {"l0": float(K), "explained_variance": 0.5, "ce_recovered_mean": 0.5}
    (folder / "figures.json").write_text(json.dumps(figures))


def _write_corpus(folder: Path, n_tokens: int) -> None:
    from store.schema import write_table

    n_docs, tok = n_tokens // DOCUMENT, np.arange(n_tokens)
    token = {
        "tok": tok,
        "doc_id": (tok // DOCUMENT).astype(np.int32),
        "pos": (tok % DOCUMENT).astype(np.int32),
        "token_id": (tok * 7919 % 300).astype(np.int32),
        "is_special": tok % DOCUMENT == 0,
    }
    doc = {
        "doc_id": np.arange(n_docs, dtype=np.int32),
        "tok_start": np.arange(n_docs) * DOCUMENT,
        "n_tok": np.full(n_docs, DOCUMENT, dtype=np.int32),
        "split": ["train"] * n_docs,
    }
    for name, columns in (("token", token), ("doc", doc)):
        write_table(folder / f"{name}.parquet", name, pa.table(columns), {})
    facts = {"source": "random", "n_docs": n_docs, "n_tokens": n_tokens, "corpus_sha": "0"}
    (folder / "corpus.json").write_text(json.dumps(facts))


def _write_residuals(folder: Path, n_tokens: int) -> int:
    from store.residuals import ResidualBatch, RunningStats, write_part, write_stats

    folder.mkdir(parents=True)
    rng, stats = np.random.default_rng(0), RunningStats()
    noise = rng.standard_normal((2 * BATCH, D_MODEL)).astype(np.float32)
    for number, start in enumerate(range(0, n_tokens, BATCH)):
        tok = np.arange(start, min(start + BATCH, n_tokens))
        resid = noise[number * 37 % BATCH :][: len(tok)]
        doc_id, pos = (tok // DOCUMENT).astype(np.int32), (tok % DOCUMENT).astype(np.int32)
        batch = ResidualBatch(doc_id, pos, (tok * 7919 % 300).astype(np.int32), pos == 0, resid)
        stats.add(batch)
        write_part(folder / f"part-{number:05d}.arrow", [batch], POINT, "float16")
    write_stats(folder, stats, POINT, "float16")
    return sum(path.stat().st_size for path in folder.glob("part-*.arrow"))


def of_process(name: str) -> int:
    """A figure of /proc/self/status, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith(f"{name}:"))


class Peak(threading.Thread):
    """Looks every few milliseconds at how much memory is in use that no file backs."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.mb = of_process("RssAnon")
        self._over = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._over.wait(0.005):
            self.mb = max(self.mb, of_process("RssAnon"))

    def stop(self) -> int:
        self._over.set()
        self.join()
        return self.mb


def main() -> None:
    limit_mb = int(sys.argv[1])
    import duckdb
    import torch
    from tqdm import tqdm  # noqa: F401  (imported by the stage, and counted with its imports)

    import features.coactivation
    import features.logits
    import features.statistics  # noqa: F401
    from lm import open_model
    from pipelines import harvest
    from sae.checkpoint import load

    # One core, so that what threads reserve does not depend on the machine.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    duckdb.execute("SELECT 1").fetchall()
    kept = open_model(Path("model"), "cpu", "float32"), load(Path("data/sae/main"))
    kept[1].encode_sparse(torch.zeros(8, D_MODEL))
    np.ones((D_SAE, D_MODEL), dtype=np.float32) @ np.ones((D_MODEL, D_SAE), dtype=np.float32)
    before, peak = of_process("RssAnon"), Peak()
    if limit_mb:
        most = (of_process("VmData") + limit_mb) * 2**20
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    sys.argv = ["harvest", "main"]
    harvest.main()
    sys.stdout.write(f"{before} {peak.stop() - before}\n")


if __name__ == "__main__":
    main()
