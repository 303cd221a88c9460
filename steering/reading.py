"""Many targets read at once: one product with their columns, one full encode an autoencoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae.model import SparseAutoencoder
from steering.linear import Linear
from steering.rows import Lists, OfLists
from steering.target import Target, full_encode_of, reader_of


class Readers:
    """The targets of some lists, a slot each; slots without a target read 0."""

    def __init__(
        self, lists: Sequence[Sequence[Target]], d_model: int, device: torch.device | str
    ) -> None:
        columns, bias, threshold = columns_of(lists, d_model)
        whole: dict[int, _Whole] = {}
        for row, targets in enumerate(lists):
            for slot, target in enumerate(targets):
                if (full := full_encode_of(target)) is not None:
                    shape = (len(lists), columns.shape[1])
                    known = whole.setdefault(id(full.sae), _Whole(full.sae, shape, device))
                    known.put(row, slot, full.feature_id, full.scale)
        self._is_linear = bool(torch.isneginf(threshold).all())
        self._is_rectified = not threshold.any()
        self._product = Linear(columns, bias, device)
        self._threshold = OfLists(threshold.to(device))
        self._off = torch.zeros((), device=device)
        self._whole = tuple(whole.values())

    def __call__(
        self, wide: Float[Tensor, "batch pos d_model"], lists: Lists
    ) -> Float[Tensor, "batch pos slot"]:
        """Each row's readings of its own list's targets."""
        reading = self._product(wide, lists)
        if self._is_rectified:
            reading = reading.relu()
        elif not self._is_linear:
            (threshold,) = self._threshold.as_type(lists, wide.dtype)
            reading = torch.where(reading > threshold, reading, self._off)
        for whole in self._whole:
            reading = whole.over(reading, wide, lists)
        return reading


class _Whole:
    """The slots of one autoencoder that is encoded whole."""

    def __init__(
        self, sae: SparseAutoencoder, shape: tuple[int, int], device: torch.device | str
    ) -> None:
        self._sae = sae.to(device, torch.float32)
        self._latent = torch.zeros(shape, dtype=torch.int64, device=device)
        self._scale = torch.zeros(shape, device=device)
        self._is_own = torch.zeros(shape, dtype=torch.bool, device=device)

    def put(self, row: int, slot: int, latent: int, scale: float) -> None:
        self._latent[row, slot], self._scale[row, slot] = latent, scale
        self._is_own[row, slot] = True

    def over(
        self,
        reading: Float[Tensor, "batch pos slot"],
        wide: Float[Tensor, "batch pos d_model"],
        lists: Lists,
    ) -> Float[Tensor, "batch pos slot"]:
        """The readings with this autoencoder's own in their slots."""
        acts = self._sae.encode(wide.float()).to(wide.dtype)
        index = self._latent[lists].unsqueeze(1).expand(*reading.shape)
        own = acts.gather(-1, index) * self._scale[lists].unsqueeze(1).to(wide.dtype)
        mine: Bool[Tensor, "list 1 slot"] = self._is_own[lists].unsqueeze(1)
        return torch.where(mine, own, reading)


def wide_of(resid: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
    """The stream in float32 at least."""
    return resid if resid.dtype in (torch.float32, torch.float64) else resid.float()


def columns_of(
    lists: Sequence[Sequence[Target]], d_model: int
) -> tuple[
    Float[Tensor, "list slot d_model"],
    Float[Tensor, "list 1 slot"],
    Float[Tensor, "list 1 slot"],
]:
    """Reading vectors, biases and thresholds of the targets; zeros where there is none."""
    shape = (len(lists), max(map(len, lists), default=0))
    columns, bias, threshold = torch.zeros(*shape, d_model), torch.zeros(shape), torch.zeros(shape)
    for row, targets in enumerate(lists):
        for slot, target in enumerate(targets):
            columns[row, slot], bias[row, slot], threshold[row, slot] = reader_of(target)
    return columns, bias.unsqueeze(1), threshold.unsqueeze(1)
