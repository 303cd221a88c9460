"""head: what adding to one attention head's output writes into the stream, w = W_O^h theta.

Adding a theta to head h before the output projection adds a W_O^h theta to what attention writes,
at the same tokens; so a head edit is an edit of the stream like any other. The projection's bias
takes no part, and neither do the other heads.

Source: Li et al. 2023, "Inference-Time Intervention" (there: theta a probe's or the mean
difference's direction, and a the multiples of its deviation).
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from lm.model import LanguageModel
from steering.direction import Direction
from steering.errors import DirectionError

_PROJECTIONS = ("o_proj", "c_proj", "dense", "out_proj")


def head(
    lm: LanguageModel,
    layer: int,
    number: int,
    theta: Float[Tensor, " d_head"],
    *,
    mean_norm: float | None = None,
    concept: str | None = None,
) -> Direction:
    """The direction that `theta` in head `number` of block `layer` writes; `norm` is |W_O^h theta|.

    Adding it by `norm * a`, in unit raw, is adding a theta before the projection.

    Args:
        theta: in the head's own space, of any length.

    Raises:
        DirectionError: there is no such head, theta has another width, or the model's attention
            does not end in a linear write to the stream.
    """
    if not 0 <= layer < lm.n_layers:
        raise DirectionError(
            f"layer {layer} does not exist; expected 0 to {lm.n_layers - 1}; correct the number"
        )
    projection = _projection(lm, layer)
    weight: Tensor = projection.weight.detach().double()
    into = weight if type(projection).__name__ == "Conv1D" else weight.T  # [heads * d_head, d]
    n_heads = int(lm.model.config.get_text_config(decoder=True).num_attention_heads)
    d_head = into.shape[0] // n_heads
    if not 0 <= number < n_heads or theta.shape != (d_head,):
        raise DirectionError(
            f"head {number} with a vector of shape {tuple(theta.shape)}; expected one of 0 to "
            f"{n_heads - 1} and {d_head} numbers; correct them"
        )
    block = into[number * d_head : (number + 1) * d_head].cpu()
    site = "resid_post" if lm.mid is None else "resid_mid"
    return Direction.from_vector(
        theta.detach().double().cpu() @ block,
        f"blocks.{layer}.hook_{site}",
        mean_norm=mean_norm,
        source="head",
        concept=concept,
        provenance={"layer": layer, "head": number},
        model_sha=lm.weights_sha(),
    )


def _projection(lm: LanguageModel, layer: int) -> Any:
    """The last linear map of the block's attention."""
    kind = str(lm.model.config.get_text_config(decoder=True).model_type)
    if "gemma2" in kind or "gemma3" in kind:
        raise DirectionError(
            f"{lm.name} norms what attention writes; expected a write that is linear in the heads; "
            "steer the stream itself instead"
        )
    for module in lm.blocks[layer].modules():
        for name in _PROJECTIONS:
            found = getattr(module, name, None)
            if found is not None and _is_attention(module):
                return found
    raise DirectionError(
        f"the attention of {lm.name} has none of {', '.join(_PROJECTIONS)}; expected the map that "
        "joins its heads; steer the stream itself instead"
    )


def _is_attention(module: Any) -> bool:
    return "attention" in type(module).__name__.lower()
