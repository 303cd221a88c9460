"""The recipe's parts, and a run of a few steps on a few documents."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from microworld.errors import TrainingError
from microworld.examine import load_model, write_figures
from microworld.grammar import documents, grammar_hash, sample
from microworld.recipe import Recipe, batches, encoded_corpus, kept_documents, rate_at
from microworld.tokenizer import BOS, EOS, PAD, build_tokenizer, save_tokenizer
from microworld.train import Run

TINY = dataclasses.replace(
    Recipe(),
    d_model=16,
    n_layers=1,
    n_heads=2,
    d_mlp=16,
    documents=120,
    batch_tokens=600,
    warmup_steps=2,
    stages=((0, ()), (1, (("story", 0.1),))),
)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("work")
    save_tokenizer(build_tokenizer(row.text for row in documents(300, 1)), folder)
    return folder


def test_the_tokenizer_puts_the_beginning_in_front_and_gives_every_text_back(work: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(work / "tokenizer.json"))
    assert [tokenizer.token_to_id(piece) for piece in (BOS, EOS, PAD)] == [0, 1, 2]
    for text in ("Un día frío, él", "def f(a):\n    return a", "naïve — 東京", ""):
        ids = tokenizer.encode(text).ids
        assert ids[0] == 0
        assert tokenizer.decode(ids) == text


def test_the_corpus_holds_every_document_with_its_end(work: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(work / "tokenizer.json"))
    flat, starts = encoded_corpus(TINY, work)
    assert len(starts) == TINY.documents + 1
    for index in (0, 7, 119):
        ids = flat[starts[index] : starts[index + 1]].tolist()
        assert ids[0] == 0
        assert ids[-1] == 1
        assert tokenizer.decode(ids) == sample(TINY.train_seed, index).text
    assert not list(work.glob("*.partial*"))


def test_batches_hold_each_document_once_a_round_within_the_budget(work: Path) -> None:
    corpus = encoded_corpus(TINY, work)
    lengths = sorted(np.diff(corpus[1]).tolist())
    seen: list[int] = []
    for ids in batches(corpus, TINY, step=0, shares={}):
        assert ids.shape[0] == 1 or ids.shape[0] * int((ids[0] != 2).sum()) <= TINY.batch_tokens
        seen += (ids != 2).sum(1).tolist()
        if len(seen) >= TINY.documents:
            break
    assert sorted(seen) == lengths


def test_thinned_kinds_become_rare() -> None:
    rng = np.random.default_rng(0)
    kept = kept_documents(TINY, {"story": 0.0, "fact/persona": 0.0}, rng)
    rows = [sample(TINY.train_seed, int(n)) for n in kept]
    assert {row.kind for row in rows} == {"spanish", "code", "fact", "opinion", "request"}
    assert all(row.latents["persona"] == "plain" for row in rows if row.kind == "fact")


@given(step=st.integers(0, 10**6), spent=st.floats(0, 200))
def test_the_rate_lies_between_nothing_and_all_and_ends_at_nothing(step: int, spent: float) -> None:
    rate = rate_at(step, spent, decay_from=70, until=100, warmup=50)
    assert 0 <= rate <= 1
    assert rate == 0 or spent < 100
    if spent <= 70 and step >= 50:
        assert rate == 1


def test_a_run_stops_when_told_to_finish_and_leaves_a_model_that_loads(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.compile", lambda function, **_: function)
    (work / "finish").touch()
    Run(TINY, work, tmp_path / "model", seconds=1.0).go(checkpoint_every=0.1, export_every=0.1)
    record = json.loads((tmp_path / "model" / "record.json").read_text())
    assert record["grammar"] == grammar_hash()
    assert record["steps"] > 0
    model, tokenizer = load_model(tmp_path / "model")
    assert model.config.vocab_size == tokenizer.get_vocab_size()
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert names == {
        "config.json",
        "model.safetensors",
        "record.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    again = Run(TINY, work, tmp_path / "model", seconds=1.0)
    assert again.at.step == record["steps"]


def test_figures_are_not_written_beside_a_model_of_another_grammar(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text(json.dumps({"grammar": "0" * 16}))
    with pytest.raises(TrainingError, match=r"python -m microworld\.train"):
        write_figures(tmp_path, None)  # type: ignore[arg-type]
    assert json.loads((tmp_path / "record.json").read_text()) == {"grammar": "0" * 16}


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no model"):
        load_model(tmp_path)
