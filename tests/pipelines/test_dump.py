"""The stream on disk is the model's, survives a kill with the same bytes, and never half exists."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

import pipelines
from lm import LanguageModel
from lm.errors import HookPointError, TokenizerMismatch
from pipelines import dump
from pipelines.errors import MissingInput, NotEnoughDisk
from store.errors import NotFinite, Overflow
from store.manifest import content_hash
from store.residuals import Residuals
from store.schema import write_table

PRE, POST = "blocks.0.hook_resid_pre", "blocks.1.hook_resid_post"
REPOSITORY = Path(str(pipelines.__file__)).parents[1]
Write = Callable[..., None]


def write_corpus(folder: Path, texts: list[list[int]]) -> None:
    lengths = np.array([len(text) for text in texts])
    starts = np.cumsum(lengths) - lengths
    n = int(lengths.sum())
    token = {
        "tok": np.arange(n),
        "doc_id": np.repeat(np.arange(len(texts), dtype=np.int32), lengths),
        "pos": (np.arange(n) - np.repeat(starts, lengths)).astype(np.int32),
        "token_id": np.concatenate(texts).astype(np.int32),
        "is_special": np.arange(n) == np.repeat(starts, lengths),
        "loss": pa.nulls(n, pa.float32()),
    }
    doc = {
        "doc_id": np.arange(len(texts), dtype=np.int32),
        "tok_start": starts,
        "n_tok": lengths.astype(np.int32),
        "split": ["train"] * len(texts),
        "source": ["random"] * len(texts),
        "sha": ["0"] * len(texts),
    }
    write_table(folder / "token.parquet", "token", pa.table(token), {})
    write_table(folder / "doc.parquet", "doc", pa.table(doc), {})


@pytest.fixture
def texts() -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [[1, *rng.integers(3, 320, rng.integers(1, 40)).tolist()] for _ in range(30)]


@pytest.fixture
def write_params(tmp_path: Path, tiny_lm_dir: Path) -> Write:
    def write(model: Path = tiny_lm_dir, **given: Any) -> None:
        section = {"hook_points": [PRE, POST], "batch_tokens": 128, "part_documents": 8, **given}
        params = {
            "model": {"name": str(model), "device": "cpu", "dtype": "float32"},
            "dump": section,
            "sae": {"main": {"hook_point": section["hook_points"][-1]}},
        }
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))

    return write


@pytest.fixture
def workspace(
    tmp_path: Path, texts: list[list[int]], write_params: Write, monkeypatch: pytest.MonkeyPatch
) -> Path:
    monkeypatch.chdir(tmp_path)
    write_corpus(tmp_path / "data/corpus", texts)
    write_params()
    return tmp_path


def test_shards_hold_the_stream_of_every_token_at_every_hook_point(
    workspace: Path, texts: list[list[int]], tiny_lm: LanguageModel
) -> None:
    dump.main()
    pre, post = (Residuals.open(Path("data/residuals") / point) for point in (PRE, POST))
    assert [part.name for part in pre.parts] == [f"part-0000{i}.arrow" for i in range(4)]
    assert pre.n_rows == post.n_rows == sum(map(len, texts))
    token_id = np.concatenate([batch.token_id for batch in post.batches()])
    assert token_id.tolist() == [i for text in texts for i in text]
    starts = np.cumsum([0, *map(len, texts)])
    for number, text in enumerate(texts[:9]):
        states = tiny_lm.model(
            input_ids=torch.tensor([text]), output_hidden_states=True
        ).hidden_states
        mine = np.arange(starts[number], starts[number + 1])
        np.testing.assert_allclose(pre.take(mine), states[0][0], rtol=2e-3, atol=1e-4)
        normed = tiny_lm.final_norm(torch.from_numpy(post.take(mine)))
        np.testing.assert_allclose(normed, states[2][0], rtol=1e-2, atol=5e-3)
    assert post.stats["n_rows"] == post.n_rows
    ordinary = post.take(post.rows())
    np.testing.assert_allclose(post.stats["mean"], ordinary.mean(0), rtol=1e-4, atol=1e-5)
    assert not Path(".work/dump").exists()


def test_two_runs_write_the_same_bytes(workspace: Path) -> None:
    dump.main()
    first = content_hash(Path("data/residuals"))
    dump.main()
    assert content_hash(Path("data/residuals")) == first


def test_a_hook_point_that_is_asked_for_no_more_leaves_nothing_behind(
    workspace: Path, write_params: Write
) -> None:
    dump.main()
    write_params(hook_points=[POST])
    dump.main()
    assert [path.name for path in Path("data/residuals").iterdir()] == [POST]


KILLED = """
import os, signal, sys
from pipelines import dump
import store.shards as shards
from store import residuals
after = int(sys.argv[1])
written = 0
real = shards._record_batch
def record_batch(*given):
    global written
    written += 1
    if written > after:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*given)
shards._record_batch = record_batch
dump.main()
"""


@pytest.mark.parametrize("after", [3, 6])
def test_a_run_killed_at_any_moment_goes_on_to_the_same_bytes(workspace: Path, after: int) -> None:
    dump.main()
    expected = content_hash(Path("data/residuals"))
    subprocess.run(["rm", "-r", "data/residuals"], check=True)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    child = subprocess.run(
        [sys.executable, "-c", KILLED, str(after)],
        env=environment,
        capture_output=True,
        check=False,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    assert not Path("data/residuals").exists()
    done = len(list(Path(".work/dump").rglob("part-*.arrow")))
    assert done == after
    ran: list[range] = []
    real = dump.write_one

    def note(lm: Any, corpus: Any, params: Any, part: dump.Part, progress: Any) -> None:
        ran.append(part.documents)
        real(lm, corpus, params, part, progress)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dump, "write_one", note)
        dump.main()
    assert len(ran) == 4 - after // 2
    assert content_hash(Path("data/residuals")) == expected


def test_a_killed_run_of_other_parameters_is_not_mixed_in(
    workspace: Path, write_params: Write
) -> None:
    write_params(batch_tokens=64)
    stale = Path(".work/dump/0123456789abcdef") / POST / "part-00000.arrow"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"of another run")
    dump.main()
    assert Residuals.open(Path("data/residuals") / POST).n_rows > 0


def test_too_little_disk_is_refused_before_the_first_byte(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 1000

    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage)
    with pytest.raises(NotEnoughDisk, match="the dump needs 0 MB and 0 MB are free"):
        dump.main()
    assert not Path(".work").exists()
    assert not Path("data/residuals").exists()


def test_a_line_before_the_start_says_what_it_will_take(
    workspace: Path, texts: list[list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    dump.main()
    n_tokens = sum(map(len, texts))
    assert f"{n_tokens:,} tokens at 2 hook points" in caplog.text
    assert "tokens/s" in caplog.text
    assert "in memory" in caplog.text


@pytest.fixture
def spoilt(tmp_path: Path, tiny_lm_dir: Path) -> Callable[[float], Path]:
    """A copy of the model whose id 300 has an embedding of this value."""
    import shutil

    from safetensors.torch import load_file, save_file

    def make(value: float) -> Path:
        folder = Path(shutil.copytree(tiny_lm_dir, tmp_path / "spoilt", dirs_exist_ok=True))
        weights = load_file(folder / "model.safetensors")
        weights["model.embed_tokens.weight"][300] = value
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        return folder

    return make


@pytest.mark.parametrize(
    ("value", "error"), [(float("nan"), NotFinite), (float("inf"), NotFinite), (7e4, Overflow)]
)
def test_activations_that_are_no_numbers_are_named_by_document_and_position(
    workspace: Path,
    write_params: Write,
    spoilt: Callable[[float], Path],
    value: float,
    error: type[Exception],
) -> None:
    write_corpus(workspace / "data/corpus", [[1, 5, 6], [1, 7, 300, 8], [1, 4]])
    write_params(model=spoilt(value))
    with pytest.raises(error, match="document 1, position 2"):
        dump.main()
    assert not Path("data/residuals").exists()
    write_params(model=spoilt(7e4), dtype="bfloat16", hook_points=[PRE])
    dump.main()
    assert Residuals.open(Path("data/residuals") / PRE).take(np.array([5])).max() > 6.9e4


def test_losses_are_kept_when_asked_for(
    workspace: Path, write_params: Write, texts: list[list[int]], tiny_lm: LanguageModel
) -> None:
    from lm import token_losses

    write_params(loss=True)
    dump.main()
    table = pq.read_table("data/residuals/loss.parquet")
    assert table.schema.metadata[b"model_sha"] == tiny_lm.weights_sha().encode()
    loss = table["loss"].to_pylist()
    starts = np.cumsum([0, *map(len, texts)])
    for number, expected in enumerate(token_losses(tiny_lm, texts)):
        mine = loss[starts[number] : starts[number + 1]]
        assert mine[0] is None
        np.testing.assert_allclose(mine[1:], expected, rtol=1e-4, atol=1e-5)


def test_a_corpus_or_a_place_that_is_missing_is_named(workspace: Path, write_params: Write) -> None:
    write_params(hook_points=["blocks.2.hook_resid_post"])
    with pytest.raises(HookPointError, match=r"beyond .* 2 layers"):
        dump.main()
    write_params()
    write_corpus(workspace / "data/corpus", [[1, 5, 999]])
    with pytest.raises(TokenizerMismatch, match="999"):
        dump.main()
    (workspace / "data/corpus/token.parquet").unlink()
    with pytest.raises(MissingInput, match="`corpus` writes it"):
        dump.main()


def test_the_stage_runs_as_a_program_and_errors_are_one_line(workspace: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "pipelines.dump"]
    began = time.monotonic()
    good = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert good.returncode == 0, good.stderr
    assert json.loads(Path(".work/runs/dump.json").read_text())["wall_s"] < time.monotonic() - began
    Path("data/corpus/doc.parquet").unlink()
    bad = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert bad.returncode == 2
    assert bad.stderr.count("\n") == 1
    assert bad.stderr.startswith("MissingInput: data/corpus/doc.parquet does not exist")
