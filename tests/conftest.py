"""Fixtures that any room may use: a tiny language model made on the spot, and real material.

Nothing is downloaded. `tiny_lm` is shared by the whole session, which is safe because everything
that touches a model must give it back unchanged.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import LoadFileScheduling

    from lm import LanguageModel

settings.register_profile("tiller", deadline=None)
settings.load_profile("tiller")

SENTENCES = [
    "One day a little boat sailed on the blue sea and the captain was happy.",
    "The farmer went to the barn to feed the sad old horse in the rain.",
    "She looked at the star in the sky and said that it was far away.",
    "El gato negro duerme en la casa y la lluvia cae.",
    "def add(a, b): return a + b",
    "Is the sky blue? True. Is the sea dry? False.",
]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling:
    """One process a file, and one for all of end_to_end, whose workspaces are costly to make."""
    from xdist.scheduler import LoadFileScheduling

    class OneHouse(LoadFileScheduling):  # type: ignore[misc]  # the library has no types
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::", 1)[0]
            return "tests/end_to_end" if "/end_to_end/" in file else file

    return OneHouse(config, log)


@pytest.fixture(scope="session")
def peer_python() -> Callable[[str, Sequence[str]], Path]:
    """The interpreter of another tool's own environment; skips where it cannot be installed."""
    from benchmarks import peers

    def of(name: str, needed: Sequence[str]) -> Path:
        try:
            return peers.peer_python(name, needed)
        except peers.PeerMissing as missing:
            pytest.skip(str(missing))

    return of


@pytest.fixture(scope="session")
def tiny_lm_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random 2-layer Llama (d_model 16, context 64) and a 320-piece tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny_lm")
    n_vocab = _write_tokenizer(folder)
    config = LlamaConfig(
        vocab_size=n_vocab,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        initializer_range=0.2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_lm(tiny_lm_dir: Path) -> LanguageModel:
    """The same model, opened on the CPU in float32."""
    from lm import open_model

    return open_model(tiny_lm_dir, device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def real_dir() -> Path:
    """The folder of real models and texts; the test is skipped where there is none."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "real"
    folder = Path(os.environ.get("TILLER_REAL", beside))
    if not (folder / "README.md").is_file():
        pytest.skip(f"no real material at {folder}; set TILLER_REAL to the folder that holds it")
    return folder


def _write_tokenizer(folder: Path) -> int:
    """A byte-level BPE that begins every text with <bos>; gives its number of pieces."""
    import json

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<pad>", "<bos>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 1)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings_of_tokenizer = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings_of_tokenizer))
    return int(tokenizer.get_vocab_size())
