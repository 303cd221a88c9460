"""How far each slot moves each token along its own vector, before places and gates have a say.

A slot moves by clamp(offset + slope s, low, high), where s is what its target reads. Where every s
is a plain product with the stream, or one cut off at 0, all that is one linear map and one clamp.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from steering.change import Slot
from steering.linear import Linear
from steering.reading import Readers, columns_of
from steering.rows import Lists, OfLists
from steering.target import Target, full_encode_of, reader_of


class Delta:
    """The slots of some lists; lists of unequal length are filled up with slots that stay put."""

    def __init__(
        self, lists: Sequence[Sequence[Slot]], d_model: int, device: torch.device | str
    ) -> None:
        numbers = torch.zeros(4, len(lists), 1, max(map(len, lists)))
        for row, slots in enumerate(lists):
            for k, slot in enumerate(slots):
                numbers[:, row, 0, k] = torch.tensor(slot.change)
        self.offset: Float[Tensor, "list 1 slot"] = numbers[0]
        self.reads = bool(numbers[1].any())
        """False where no slot's way depends on the stream."""
        targets = [[slot.reads for slot in slots] for slots in lists]
        self._readers, self._map = None, None
        if self.reads and all(_is_cut_at_zero_at_most(one) for row in targets for one in row):
            columns, bias, threshold = columns_of(targets, d_model)
            weight, offset, low, high = _folded(columns, bias, threshold, numbers)
            self._map = Linear(weight, offset, device)
            numbers = torch.stack((offset, numbers[1], low, high))
        elif self.reads:
            self._readers = Readers(targets, d_model, device)
        self._is_bounded = bool(torch.isfinite(numbers[2:]).any())
        self._numbers = OfLists(*numbers.to(device))

    def __call__(
        self, wide: Float[Tensor, "batch pos d_model"], lists: Lists
    ) -> Float[Tensor, "batch pos slot"]:
        """The way of each slot at each token."""
        offset, slope, low, high = self._numbers.as_type(lists, wide.dtype)
        if self._map is not None:
            delta = self._map(wide, lists)
        elif self._readers is not None:
            delta = torch.addcmul(offset, slope, self._readers(wide, lists))
        else:
            return offset.expand(*wide.shape[:2], -1)
        return delta.clamp(low, high) if self._is_bounded else delta


def _is_cut_at_zero_at_most(target: Target) -> bool:
    _, _, threshold = reader_of(target)
    return full_encode_of(target) is None and threshold in (0.0, -torch.inf)


def _folded(
    columns: Float[Tensor, "list slot d_model"],
    bias: Float[Tensor, "list 1 slot"],
    threshold: Float[Tensor, "list 1 slot"],
    numbers: Float[Tensor, "4 list 1 slot"],
) -> tuple[
    Float[Tensor, "list slot d_model"],
    Float[Tensor, "list 1 slot"],
    Float[Tensor, "list 1 slot"],
    Float[Tensor, "list 1 slot"],
]:
    """Weight, bias and bounds of clamp(W h + b, low, high), the same way as by readings.

    A reading cut off at 0 goes no further than the offset on one side: above it where the slope
    is negative, below it where it is positive.
    """
    offset, slope, low, high = numbers
    weight, shift = slope.mT * columns, offset + slope * bias
    at_zero, is_cut = offset.clamp(low, high), threshold == 0
    low = torch.where(is_cut & (slope > 0), at_zero, low)
    return weight, shift, low, torch.where(is_cut & (slope < 0), at_zero, high)
