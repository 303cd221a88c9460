"""Which weights a model holds: one hash, computed once for as long as they stay.

A pass over all weights costs seconds for a large model, so the hash is kept until a weight is
replaced, moved or written to in place, as torch counts that. What writes past torch's count
(`weight.data.add_`) is not seen.
"""

from __future__ import annotations

import hashlib
from typing import TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch import nn

_Stamp: TypeAlias = tuple[tuple[int, int, torch.dtype], ...]
_KNOWN: WeakKeyDictionary[nn.Module, tuple[_Stamp, dict[torch.dtype | None, str]]] = (
    WeakKeyDictionary()
)
_TYPES = (torch.float32, torch.bfloat16, torch.float16)


def sha_of(model: nn.Module, dtype: torch.dtype | None = None) -> str:
    """The sha256, in hex, of every weight's name, type, shape and bytes.

    Args:
        dtype: as if the floating-point weights were of this type; None for as they are.
    """
    stamp = tuple(
        (weight.data_ptr(), 0 if weight.is_inference() else weight._version, weight.dtype)
        for weight in model.parameters()
    )
    known = _KNOWN.get(model)
    if known is None or known[0] != stamp:
        known = _KNOWN[model] = stamp, {}
    if dtype not in known[1]:
        known[1][dtype] = _computed(model, dtype)
    return known[1][dtype]


def has_sha(model: nn.Module, sha: str) -> bool:
    """Whether a hash is that of the model's weights, as they are or opened in another type.

    A checkpoint opened in a wider type holds the same numbers, and narrowing gives back what
    the narrower one would have held. Only numbers lost by narrowing cannot be recognised.
    """
    return sha == sha_of(model) or any(sha == sha_of(model, dtype) for dtype in _TYPES)


def _computed(model: nn.Module, dtype: torch.dtype | None) -> str:
    digest = hashlib.sha256()
    for name, weight in sorted(model.named_parameters()):
        held = weight.detach()
        if dtype is not None and held.is_floating_point():
            held = held.to(dtype)
        digest.update(f"{name} {held.dtype} {tuple(held.shape)}\n".encode())
        digest.update(held.cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
