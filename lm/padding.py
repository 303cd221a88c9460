"""Which tokens of a pass are real and where they stand, from the mask that the model was given.

A mask over tokens says it. A mask over pairs of tokens says which sees which, and a layer with a
window hides from the last token what lies far back, though it is real.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from lm.errors import LmError


def has_window(stem: nn.Module) -> bool:
    """Whether some layer hides tokens that lie far back, so that a hidden one may be real."""
    config = getattr(stem, "config", None)
    return getattr(config, "sliding_window", None) is not None


def over_tokens(
    mask: Any,
    past: int,
    token_ids: Int[Tensor, "batch pos"],
    before: Tensor | bool | None,
    is_windowed: bool,
) -> Tensor | None:
    """A mask over pairs as one over tokens, 1 where real; None where all are.

    A real token sees itself, whatever window its layer has; what lies in the cache is known from
    the passes that put it there, or else from what the last token sees.

    Args:
        mask: a tensor over tokens or over pairs, or one a kind of layer.
        past: tokens in the cache.
        before: the mask over tokens of the pass before; True where all were real, None where
            there was no such pass.
        is_windowed: some layer hides tokens that lie far back.

    Raises:
        LmError: the mask is of another kind, or does not say which tokens in the cache are real.
    """
    is_of_all = isinstance(mask, dict) and "full_attention" in mask
    if isinstance(mask, dict):
        mask = mask["full_attention"] if is_of_all else next(iter(mask.values()), None)
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.ndim not in (2, 4):
        raise LmError(
            f"an attention mask of type {type(mask).__name__}; expected one tensor over tokens "
            "or over pairs of them; open the model with attn_implementation='sdpa'"
        )
    if mask.ndim == 2:
        return mask
    batch, width = token_ids.shape
    sees = (mask == 0 if mask.is_floating_point() else mask.bool())[:, 0].expand(batch, -1, -1)
    first = min(past, sees.shape[-1] - width)  # a cache that keeps a window has fewer columns
    own = sees[:, -width:, first : first + width].diagonal(dim1=1, dim2=2)
    if not past:
        return own
    if isinstance(before, bool):
        return torch.cat([torch.ones_like(own[:, :1]).expand(-1, past), own], 1)
    if before is None or before.shape[0] != batch or before.shape[1] < past:
        before = sees[:, -1]
        if is_windowed and not is_of_all and not (first == past and before[:, :past].all()):
            raise LmError(
                f"a cache of {past} tokens that no pass here has filled, and a mask that shows a "
                "window of them; expected to know which are padding; pass a mask over tokens, or "
                "enter the `with` before the prompt is read"
            )
    return torch.cat([before[:, :past].bool(), own], 1)


def unpadded(
    token_ids: Int[Tensor, "batch pos"], past: int
) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
    """Places from `past` on, and flags that all are real."""
    stop = past + token_ids.shape[1]
    places = torch.arange(past, stop, device=token_ids.device).expand(token_ids.shape)
    return places, torch.ones_like(token_ids, dtype=torch.bool)


def padded(
    mask: Tensor, past: int, width: int
) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
    mask = mask.to(torch.long)
    if mask.shape[1] < past + width:  # a mask of the new tokens only: all before them is real
        mask = torch.nn.functional.pad(mask, (past + width - mask.shape[1], 0), value=1)
    is_real = mask[:, past : past + width].bool()
    positions = mask.cumsum(1)[:, past : past + width] - 1
    return positions.masked_fill(~is_real, -1), is_real


def in_prompt(
    mask: Tensor | None, width: int, token_ids: Int[Tensor, "batch pos"]
) -> Int[Tensor, " batch"]:
    """Real tokens among the first `width` columns; those the mask does not reach yet are real."""
    if mask is None:
        return torch.full((token_ids.shape[0],), width, device=token_ids.device)
    unreached = max(0, width - mask.shape[1])
    return mask[:, :width].to(torch.long).sum(1) + unreached
