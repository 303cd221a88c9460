"""Sequences of unequal length as one right-padded batch, and which of its places are scored."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lm.model import LanguageModel


def padded(
    sequences: Sequence[Sequence[int]], device: torch.device | str
) -> tuple[Int[Tensor, "row pos"], Bool[Tensor, "row pos"]]:
    """Ids, with zeros behind the shorter rows, and True where a token is real."""
    longest = max((len(ids) for ids in sequences), default=0)
    ids = torch.zeros(len(sequences), longest, dtype=torch.int64)
    is_real = torch.zeros(len(sequences), longest, dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(list(sequence), dtype=torch.int64)
        is_real[row, : len(sequence)] = True
    return ids.to(device), is_real.to(device)


def touched(
    lm: LanguageModel, ids: Int[Tensor, "row pos"], is_real: Bool[Tensor, "row pos"]
) -> Bool[Tensor, "row pos"]:
    """Places that steering edits by default: real ones, without position 0 and special tokens."""
    special = torch.tensor(sorted(lm.special_ids), dtype=torch.int64, device=ids.device)
    found = is_real & ~torch.isin(ids, special)
    found[:, :1] = False
    return found


def scored(
    places: Bool[Tensor, "row pos"], is_real: Bool[Tensor, "row pos"]
) -> Bool[Tensor, "row pos"]:
    """Of some places, those that have a next token to predict."""
    found = places.clone()
    found[:, :-1] &= is_real[:, 1:]
    found[:, -1:] = False
    return found
