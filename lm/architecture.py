"""Where each family of Hugging Face models keeps its blocks, its last norm and its unembedding.

The blocks' inputs and outputs are the stream in every family. Between attention and MLP the
stream is a sum inside the block, so that place needs to know which module's output is added:
the table below is closed, because a guess would be wrong without a sign (a scaled write, a
norm after attention).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from lm.errors import UnknownArchitecture

BLOCK_PATHS = (
    "model.layers",
    "transformer.h",
    "gpt_neox.layers",
    "model.decoder.layers",
    "model.language_model.layers",
    "transformer.blocks",
)
FINAL_NORMS = ("norm", "ln_f", "final_layer_norm", "final_layernorm", "norm_f")

_LLAMA_LIKE = ("input_layernorm", "self_attn")
_NORM_AFTER_ATTENTION = ("input_layernorm", "post_attention_layernorm")
ATTENTION_WRITES = {
    "gpt2": ("ln_1", "attn"),
    "llama": _LLAMA_LIKE,
    "mistral": _LLAMA_LIKE,
    "qwen2": _LLAMA_LIKE,
    "qwen3": _LLAMA_LIKE,
    "gemma": _LLAMA_LIKE,
    "gemma2": _NORM_AFTER_ATTENTION,
    "gemma3": _NORM_AFTER_ATTENTION,
    "gemma3_text": _NORM_AFTER_ATTENTION,
    "gpt_neox": ("input_layernorm", "attention"),
    "opt": ("self_attn_layer_norm", "self_attn"),
}
PARALLEL = frozenset({"phi", "gptj", "falcon", "cohere", "cohere2", "codegen"})


@dataclass(frozen=True, slots=True)
class MidSite:
    """Names, inside a block, of the module that first reads the stream and of the one whose
    output attention adds to it."""

    reader: str
    writer: str


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """The parts of a model that this package touches."""

    stem: nn.Module
    """The module that embeds ids and runs the blocks."""
    blocks: tuple[nn.Module, ...]
    final_norm: nn.Module
    unembed: nn.Module
    mid: MidSite | None
    no_mid: str | None


def find_parts(model: nn.Module, config: Any) -> Parts:
    """The parts of a causal language model with this text config.

    Raises:
        UnknownArchitecture: blocks, last norm or unembedding are at none of the known places.
    """
    kind = type(model).__name__
    path = next((path for path in BLOCK_PATHS if _is_block_list(_at(model, path))), None)
    if path is None:
        raise UnknownArchitecture(
            f"{kind} keeps no blocks at any of {', '.join(BLOCK_PATHS)}; expected a causal "
            "language model of a known family; open another model"
        )
    parent = _at(model, path.rpartition(".")[0])
    norm_name = next((name for name in FINAL_NORMS if hasattr(parent, name)), None)
    unembed = getattr(model, "get_output_embeddings", lambda: None)()
    if norm_name is None or unembed is None:
        missing = "unembedding" if norm_name else f"last norm (looked for {', '.join(FINAL_NORMS)})"
        raise UnknownArchitecture(
            f"{kind} has no {missing}; expected a causal language model; open another model"
        )
    mid, no_mid = _mid_site(config)
    blocks = tuple(_at(model, path))
    # A model whose blocks end in a norm (OPT-350m) keeps None in the place of the last one.
    return Parts(parent, blocks, getattr(parent, norm_name) or nn.Identity(), unembed, mid, no_mid)


def _mid_site(config: Any) -> tuple[MidSite | None, str | None]:
    kind = config.model_type
    if kind in PARALLEL or getattr(config, "use_parallel_residual", False):
        return None, "attention and MLP of a block read the same stream (parallel blocks)"
    if not getattr(config, "do_layer_norm_before", True):
        return None, "its norms come after each sum"
    if kind not in ATTENTION_WRITES:
        known = ", ".join(sorted(ATTENTION_WRITES))
        return None, f"what attention adds is not known for {kind!r} (known: {known})"
    return MidSite(*ATTENTION_WRITES[kind]), None


def _at(module: nn.Module, path: str) -> Any:
    found: Any = module
    for name in path.split("."):
        found = getattr(found, name, None)
    return found


def _is_block_list(found: object) -> bool:
    return isinstance(found, nn.ModuleList) and len(found) > 0
