"""Picks: the few activations that survive selection, and the exact ways to select them.

Selection works on blocks of rows, so that pre-activations never leave the processor's cache: for
4,096 tokens and 1,024 latents this is a third of the time that one large `torch.topk` takes.
A pick is always positive: a latent chosen at zero has written nothing and has not fired.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

BLOCK_ROWS = 512
"""Rows of pre-activations that exist at one time: 2 MB at 1,024 latents."""


@dataclass(frozen=True, eq=False, slots=True)
class Picks:
    """Activations of `n_rows` tokens in row-major order, as (row, latent, value)."""

    row: Int[Tensor, " pick"]
    latent: Int[Tensor, " pick"]
    value: Float[Tensor, " pick"]
    n_rows: int
    n_latents: int

    def offsets(self) -> Int[Tensor, " row_end"]:
        """Start of each row's picks, and the end of the last: `n_rows + 1` numbers."""
        return _offsets(self.row, self.n_rows)

    def by_latent(self) -> "ByLatent":
        """The same picks in latent order; rows stay in order within a latent."""
        narrow = np.uint16 if self.n_latents <= 1 << 16 else np.int64
        key = self.latent.cpu().numpy().astype(narrow)  # 16-bit keys are radix sorted
        order = torch.from_numpy(np.argsort(key, kind="stable")).to(self.latent.device)
        return ByLatent(order, self.row[order], _offsets(self.latent, self.n_latents))

    def dense(self) -> Float[Tensor, "row latent"]:
        """The activations as a matrix, for small batches and for tests."""
        out = self.value.new_zeros(self.n_rows, self.n_latents)
        out[self.row, self.latent] = self.value
        return out


@dataclass(frozen=True, eq=False, slots=True)
class ByLatent:
    """How to read picks latent by latent: `order` into the picks, their rows, latents' starts."""

    order: Int[Tensor, " pick"]
    row: Int[Tensor, " pick"]
    offsets: Int[Tensor, " latent_end"]


@dataclass(frozen=True, eq=False, slots=True)
class Encoder:
    """The affine half of an autoencoder: centre first, so that offsets cost no digits."""

    rows: Float[Tensor, "d_sae d_model"]
    bias: Float[Tensor, " d_sae"]

    def blocks(
        self, centred: Float[Tensor, "token d_model"]
    ) -> Iterator[tuple[int, Float[Tensor, "block d_sae"]]]:
        """(first row, pre-activations) for successive blocks of rows."""
        for start in range(0, centred.shape[0], BLOCK_ROWS):
            block = centred[start : start + BLOCK_ROWS]
            yield start, torch.addmm(self.bias, block, self.rows.t())


def top_k(encoder: Encoder, centred: Float[Tensor, "token d_model"], k: int) -> Picks:
    """The `k` largest positive pre-activations of each token; fewer where fewer are positive."""
    parts = []
    for start, pre in encoder.blocks(centred):
        mask = _largest(pre, k)
        part = _taken(pre, mask, start)
        row = part[0]
        if bool((row[k:] == row[:-k]).any()):
            part = _taken(pre, _without_ties(mask, pre, k), start)
        parts.append(part)
    return _joined(parts, centred, encoder)


def batch_top_k(
    encoder: Encoder, centred: Float[Tensor, "token d_model"], k: int, floor: float = 0.0
) -> Picks:
    """The `k · tokens` largest positive pre-activations of the whole batch.

    `floor` only saves time: values at or below it are looked at only when too few lie above it.
    All are kept where fewer than `k · tokens` are positive; equal values at the cut all stay.
    """
    wanted = k * centred.shape[0]
    picks = above(encoder, centred, max(floor, 0.0))
    if floor > 0 and picks.value.numel() < wanted:
        picks = above(encoder, centred, 0.0)
    excess = picks.value.numel() - wanted
    if excess <= 0:
        return picks
    cut = picks.value.kthvalue(excess + 1).values
    return _filtered(picks, picks.value >= cut)


def above(
    encoder: Encoder,
    centred: Float[Tensor, "token d_model"],
    threshold: float | Float[Tensor, " d_sae"],
) -> Picks:
    """Every positive pre-activation that exceeds its threshold."""
    floor = torch.as_tensor(threshold, dtype=centred.dtype, device=centred.device).clamp_min(0.0)
    parts = [_taken(pre, pre > floor, start) for start, pre in encoder.blocks(centred)]
    return _joined(parts, centred, encoder)


_Part = tuple[Tensor, Tensor, Tensor]
"""Rows, latents and values of one block."""


def _largest(pre: Float[Tensor, "block d_sae"], k: int) -> Bool[Tensor, "block d_sae"]:
    """Marks each row's `k` largest positive values, and whatever equals the last of them."""
    n_latents = pre.shape[1]
    if k >= n_latents:
        return pre > 0
    if pre.device.type == "cpu" and pre.dtype in (torch.float32, torch.float64):
        # numpy's vectorised quickselect and comparison take 40 % of torch's time.
        plain = pre.numpy()
        kth = np.partition(plain, n_latents - k, axis=1)[:, n_latents - k, None]
        return torch.from_numpy(plain >= np.maximum(kth, np.finfo(plain.dtype).tiny))
    cut = pre.topk(k, dim=1).values[:, -1:]
    return pre >= cut.clamp_min(torch.finfo(pre.dtype).tiny)


def _without_ties(
    mask: Bool[Tensor, "block d_sae"], pre: Float[Tensor, "block d_sae"], k: int
) -> Bool[Tensor, "block d_sae"]:
    """At most `k` marks in each row; of equal values at the cut the first stay."""
    order = pre.sort(dim=1, descending=True, stable=True).indices[:, :k]
    return torch.zeros_like(mask).scatter_(1, order, True) & mask


def _taken(
    pre: Float[Tensor, "block d_sae"], mask: Bool[Tensor, "block d_sae"], start: int
) -> _Part:
    flat = torch.from_numpy(np.flatnonzero(mask.cpu().numpy())).to(pre.device)
    row = torch.div(flat, pre.shape[1], rounding_mode="floor")
    return row + start, flat - row * pre.shape[1], pre.reshape(-1)[flat]


def _joined(parts: list[_Part], centred: Float[Tensor, "token d_model"], encoder: Encoder) -> Picks:
    n_rows, n_latents = centred.shape[0], encoder.rows.shape[0]
    if not parts:
        none = torch.zeros(0, dtype=torch.int64, device=centred.device)
        return Picks(none, none, centred.new_zeros(0), n_rows, n_latents)
    row, latent, value = (torch.cat(column) for column in zip(*parts, strict=True))
    return Picks(row, latent, value, n_rows, n_latents)


def _filtered(picks: Picks, mask: Bool[Tensor, " pick"]) -> Picks:
    keep = mask.nonzero().squeeze(1)
    return Picks(
        picks.row[keep], picks.latent[keep], picks.value[keep], picks.n_rows, picks.n_latents
    )


def _offsets(index: Int[Tensor, " pick"], n: int) -> Int[Tensor, " end"]:
    ends = torch.bincount(index, minlength=n).cumsum(0)
    return torch.cat([ends.new_zeros(1), ends])
