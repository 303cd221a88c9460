"""A language model as this project sees it: weights, tokenizer and the parts of its stream.

Opens any Hugging Face causal language model of a known family, in evaluation mode and without
gradients on its weights. Runs no code that comes with a checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lm.architecture import MidSite, find_parts
from lm.errors import LmError, ModelNotFound, TokenizerMismatch, UnknownArchitecture
from lm.form import Form, form_of
from lm.source import find_folder, read_facts
from lm.tokenizer import Tokenizer, open_tokenizer
from lm.weights import has_sha, sha_of

Weights = Literal["pretrained", "random"]
RANDOM_WEIGHTS_SEED = 0
"""One architecture has one set of random weights, whatever the seed of the run."""
UNSAID_CONTEXT = 2048
"""Tokens, for a model whose configuration names no limit."""


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A causal language model, its tokenizer, and where its residual stream runs."""

    model: Any = field(repr=False)
    """The Hugging Face model itself, in evaluation mode."""
    tokenizer: Tokenizer = field(repr=False)
    name: str
    n_layers: int
    d_model: int
    n_vocab: int
    """Rows of the unembedding; the tokenizer may have fewer."""
    context: int
    """Tokens that one sequence may have."""
    stem: nn.Module = field(repr=False)
    """The module that embeds ids and runs the blocks."""
    blocks: tuple[nn.Module, ...] = field(repr=False)
    final_norm: nn.Module = field(repr=False)
    unembed: nn.Module = field(repr=False)
    mid: MidSite | None
    no_mid: str | None
    stop_ids: frozenset[int]
    """Ids after which a text has ended."""
    form: Form = field(repr=False)
    """What the model was made of when it was opened."""

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self._a_weight().device

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the weights."""
        return self._a_weight().dtype

    @property
    def bos_id(self) -> int | None:
        """The id that begins a text."""
        return self.tokenizer.bos_id

    @property
    def eos_id(self) -> int | None:
        """The id that ends a text."""
        return self.tokenizer.eos_id

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids that stand for no text."""
        return self.tokenizer.special_ids

    def encode(self, text: str) -> list[int]:
        """The ids of a text, with <bos> first where the tokenizer adds one."""
        return self.tokenizer.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids, special tokens left out."""
        return self.tokenizer.decode(ids)

    def unembedding(self) -> Float[Tensor, "vocab d_model"]:
        """The matrix that turns the normed stream into logits."""
        weight: Tensor = self.unembed.weight  # type: ignore[assignment]
        return weight.detach()

    def _a_weight(self) -> Tensor:
        weight: Tensor = next(iter(self.model.parameters()))
        return weight

    def weights_sha(self) -> str:
        """The sha256, in hex, of every weight's name, type, shape and bytes, as loaded."""
        return sha_of(self.model)

    def has_weights(self, sha: str) -> bool:
        """Whether `sha` is the hash of these weights, as loaded or in another floating type."""
        return has_sha(self.model, sha)


def open_model(
    name_or_path: str | Path,
    device: str = "auto",
    dtype: str = "auto",
    weights: Weights = "pretrained",
) -> LanguageModel:
    """The language model in a folder or under a hub name.

    Args:
        name_or_path: a folder (then no network is used), or a name on the model hub.
        device: `auto` takes a GPU where there is one.
        dtype: `float32`, `bfloat16`, `float16`; `auto` is float32 on the CPU, where narrow
            types are slow, and the checkpoint's own type elsewhere.
        weights: `random` draws them as the architecture is first drawn for training, always
            the same; all else (shape, tokenizer) is the checkpoint's. A model that has learnt
            nothing is the null of what is found in one that has.

    Raises:
        ModelNotFound: there is no such model, or its weights are missing or do not fit.
        UnknownArchitecture: the model is of no known family.
        TokenizerMismatch: the tokenizer is missing or larger than the embedding.
    """
    folder = find_folder(name_or_path)
    where = _device(device)
    made = _draw if weights == "random" else _load
    model = made(folder, _dtype(dtype, where)).to(where)
    return wrap_model(model, open_tokenizer(folder), str(name_or_path))


def wrap_model(model: Any, tokenizer: Tokenizer, name: str) -> LanguageModel:
    """The language model made of a Hugging Face model in memory, which is frozen in place.

    Raises:
        UnknownArchitecture: the model is of no known family, or compiled.
        TokenizerMismatch: the tokenizer has ids that the model has no embedding for.
    """
    if hasattr(model, "_orig_mod"):
        raise UnknownArchitecture(
            f"{name} is compiled, and a compiled pass may run without its hooks; expected the "
            "model itself; wrap it before torch.compile, and call the model that was wrapped"
        )
    config = model.config.get_text_config(decoder=True)
    parts = find_parts(model, config)
    n_vocab = int(model.get_input_embeddings().weight.shape[0])
    if tokenizer.n_vocab > n_vocab:
        raise TokenizerMismatch(
            f"the tokenizer of {name} has ids up to {tokenizer.n_vocab - 1}; expected fewer than "
            f"the embedding's {n_vocab} rows; use the tokenizer that the model was trained with"
        )
    model.eval().requires_grad_(False)
    return LanguageModel(
        model=model,
        tokenizer=tokenizer,
        name=name,
        n_layers=len(parts.blocks),
        d_model=int(config.hidden_size),
        n_vocab=n_vocab,
        context=int(getattr(config, "max_position_embeddings", None) or UNSAID_CONTEXT),
        stem=parts.stem,
        blocks=parts.blocks,
        final_norm=parts.final_norm,
        unembed=parts.unembed,
        mid=parts.mid,
        no_mid=parts.no_mid,
        stop_ids=_stop_ids(model, tokenizer),
        form=form_of(model),
    )


def _draw(folder: Path, dtype: torch.dtype | str) -> Any:
    """The folder's architecture with weights as they are before training, from a fixed seed."""
    architecture = _class_for(folder)
    config = architecture.config_class.from_pretrained(folder, local_files_only=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_WEIGHTS_SEED)
        model = architecture(config)
    return model if isinstance(dtype, str) else model.to(dtype)


def _load(folder: Path, dtype: torch.dtype | str) -> Any:
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError
    from transformers.utils import logging

    architecture = _class_for(folder)
    shows_bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        model, report = architecture.from_pretrained(
            folder, dtype=dtype, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelNotFound(
            f"{folder} cannot be loaded ({reason}); expected weights that fit config.json; "
            "fetch or save the model again"
        ) from error
    finally:
        if shows_bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
    if absent := sorted(report["missing_keys"]):
        raise ModelNotFound(
            f"{folder} lacks {len(absent)} weights, such as {absent[0]}; expected all that "
            "config.json asks for; fetch or save the model again"
        )
    return model


def _class_for(folder: Path) -> Any:
    """The concrete class: importing the Auto classes would read every family's mapping."""
    import transformers

    facts = read_facts(folder)
    named = facts.architecture or ""
    if named.endswith(("ForCausalLM", "LMHeadModel")):
        found = getattr(transformers, named, None)
        if found is None:
            raise UnknownArchitecture(
                f"{folder} asks for {named}, which transformers does not have; expected a model "
                "that needs no code of its own; open another model"
            )
        return found
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(facts.model_type)
    if name is None:
        raise UnknownArchitecture(
            f"{folder} is a {facts.model_type!r} model ({named or 'no architecture named'}); "
            "expected a causal language model; open another model"
        )
    return getattr(transformers, name)


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise LmError(
            f"device {device!r} cannot be used ({reason}); expected one that this machine has; "
            "set model.device to 'auto' or 'cpu'"
        ) from error
    return torch.device(device)


def _dtype(dtype: str, device: torch.device) -> torch.dtype | str:
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else "auto"
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype not in known:
        raise LmError(
            f"dtype {dtype!r} is unknown; expected one of auto, {', '.join(known)}; choose one"
        )
    return known[dtype]


def _stop_ids(model: Any, tokenizer: Tokenizer) -> frozenset[int]:
    generation = getattr(model, "generation_config", None)
    named = getattr(generation, "eos_token_id", None)
    ids = set(named) if isinstance(named, list | tuple) else {named}
    return frozenset(i for i in ids | {tokenizer.eos_id} if isinstance(i, int))
