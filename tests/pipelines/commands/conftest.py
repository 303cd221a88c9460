"""Small workspaces: a store that is only asked, and an autoencoder of six latents to steer by."""

from collections.abc import Callable, Sequence
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest
import torch

from sae.checkpoint import save
from sae.model import SparseAutoencoder
from sae.sparsity import ReLU
from store.activations import sort_by_feature, writer
from store.catalog import write_catalog
from store.schema import write_table

N_TOKENS, D_SAE = 6, 4


@pytest.fixture(scope="session")
def store_workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One document of six tokens; feature i % 4 fires on token i with the value i + 1."""
    workspace = tmp_path_factory.mktemp("store_workspace")
    tok = np.arange(N_TOKENS)
    corpus = {
        "token": {"tok": tok, "doc_id": [0] * N_TOKENS, "pos": tok, "token_id": tok},
        "doc": {"doc_id": [0], "tok_start": [0], "n_tok": [N_TOKENS], "split": ["train"]},
        "vocab": {"token_id": tok, "piece": list("abcdef"), "text": list("abcdef")},
    }
    for name, columns in corpus.items():
        write_table(workspace / f"data/corpus/{name}.parquet", name, pa.table(columns), {})
    features = workspace / "data/features/main"
    with writer(features, {"sae": "main"}, D_SAE, part_rows=100) as out:
        values = (tok + 1).astype(np.float32)
        out.write(tok, (tok % D_SAE).astype(np.int32), values, tokens_done=N_TOKENS)
        n_act = out.finish()
    sort_by_feature(features, D_SAE, threads=1)
    ids = list(range(D_SAE))
    run = {"run_id": ["main"], "d_sae": [D_SAE], "n_tokens": [N_TOKENS], "n_act": [n_act]}
    slugs = {"run_id": ["main"] * D_SAE, "feature_id": ids}
    rows = {"run": run, "feature_stats": slugs, "decoder": slugs | {"vec": [[1.0]] * D_SAE}}
    for name in ("run", "feature_stats", "decoder", "feature_hist", "topk", "neighbour", "logit"):
        table = pa.table(rows.get(name, {"run_id": pa.array([], pa.string())}))
        write_table(features / f"{name}.parquet", name, table, {})
    write_catalog(workspace)
    return workspace


def autoencoder(hook_point: str) -> SparseAutoencoder:
    """Six latents on a stream of width 16, their rows drawn."""
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(6, 16, generator=generator)
    rows /= rows.norm(dim=1, keepdim=True)
    zero = torch.zeros
    return SparseAutoencoder(rows.T.contiguous(), rows, zero(6), zero(16), ReLU(), None, hook_point)


def steering_store(layer: int, others: Sequence[str] = ()) -> duckdb.DuckDBPyConnection:
    """What steering asks of a store: latent 2 of `main` is `sea`, 3 has no name, 4 is dead.

    Args:
        layer: where `main` is.
        others: runs at layer 1 without latents.
    """
    connection = duckdb.connect()
    connection.execute(
        """
        CREATE TABLE run (run_id TEXT, layer INT, mean_norm REAL, hook_point TEXT, d_sae INT,
            model_sha TEXT, sae_sha TEXT);
        CREATE TABLE label (run_id TEXT, feature_id INT, slug TEXT, status TEXT, side TEXT);
        INSERT INTO label VALUES ('main', 2, 'sea', 'ok', 'input');
        CREATE TABLE feature_stats (run_id TEXT, feature_id INT, max_value REAL);
        INSERT INTO feature_stats VALUES ('main', 2, 4.0), ('main', 3, 1.5), ('main', 4, 0.0);
        CREATE TABLE steerability (run_id TEXT, feature_id INT, best_coefficient REAL);
        INSERT INTO steerability VALUES ('main', 2, 0.25);
        CREATE VIEW feature AS SELECT s.run_id, s.feature_id, l.slug, false AS is_weak
        FROM feature_stats AS s LEFT JOIN label AS l USING (run_id, feature_id);
        """
    )
    runs = [("main", layer, 2.0), *((other, 1, 3.0) for other in others)]
    for run in runs:
        connection.execute("INSERT INTO run VALUES (?, ?, ?, '', 6, NULL, 'aa')", run)
    return connection


@pytest.fixture
def steering_workspace(
    tmp_path: Path, tiny_lm_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, Callable[[], duckdb.DuckDBPyConnection]], Path]:
    """Makes a folder with the autoencoder at a hook point and a stand-in for its store."""

    def make(hook_point: str, store: Callable[[], duckdb.DuckDBPyConnection]) -> Path:
        folder = tmp_path / "workspace"
        (folder / "data/store").mkdir(parents=True)
        text = f"model: {{name: {tiny_lm_dir}, device: cpu, dtype: float32}}\n"
        text += f"dump: {{hook_points: [{hook_point}]}}\n"
        text += f"sae: {{main: {{hook_point: {hook_point}}}}}\n"
        (folder / "params.yaml").write_text(text)
        save(autoencoder(hook_point), folder / "data/sae/main")
        monkeypatch.setattr("pipelines.names.open_store", lambda _: store())
        return folder

    return make
