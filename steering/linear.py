"""The two matrix products of an edit, with one list's matrices for all rows or each row's own."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear

from steering.rows import Lists, OfLists


class Linear:
    """Products of the stream with the columns of its row's list, and a bias."""

    def __init__(
        self,
        columns: Float[Tensor, "list slot d_model"],
        bias: Float[Tensor, "list 1 slot"],
        device: torch.device | str,
    ) -> None:
        columns, bias = columns.to(device), bias.to(device)
        self._of_lists = OfLists(columns.mT, bias)
        self._only = (columns[0], bias[0, 0]) if len(columns) == 1 else None

    def __call__(
        self, wide: Float[Tensor, "batch pos d_model"], lists: Lists
    ) -> Float[Tensor, "batch pos slot"]:
        """One product where one list serves all, a product a row elsewhere."""
        if self._only is not None:
            columns, bias = self._only
            if wide.dtype != columns.dtype:
                columns, bias = columns.to(wide.dtype), bias.to(wide.dtype)
            return linear(wide, columns, bias)
        columns, bias = self._of_lists.as_type(lists, wide.dtype)
        return torch.baddbmm(bias, wide, columns)


class Writers:
    """Moves each token along the vectors of its row's list."""

    def __init__(
        self, vectors: Float[Tensor, "list slot d_model"], device: torch.device | str
    ) -> None:
        vectors = vectors.to(device)
        self._of_lists = OfLists(vectors)
        self._only = vectors[0] if len(vectors) == 1 else None

    def __call__(
        self,
        wide: Float[Tensor, "batch pos d_model"],
        delta: Float[Tensor, "batch pos slot"],
        lists: Lists,
    ) -> Float[Tensor, "batch pos d_model"]:
        """The stream, so far along each vector."""
        if self._only is not None:
            return wide + delta @ self._only.to(wide.dtype)
        (vectors,) = self._of_lists.as_type(lists, wide.dtype)
        return torch.baddbmm(wide, delta, vectors)
