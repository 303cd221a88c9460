"""Lengths kept: what the other edits of a list made of a token, brought back to a length."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import vector_norm

from lm.step import Step
from steering.acting import Acting
from steering.intervention import KeepNorm
from steering.rows import Lists, OfLists


class Norm:
    """At most one `KeepNorm` a list; a list without one gets its tokens back as they came."""

    def __init__(
        self, lists: Sequence[Sequence[KeepNorm]], acting: Acting, device: torch.device | str
    ) -> None:
        self._acting = acting
        most = torch.full((2, len(lists), 1, 1), torch.inf)  # an infinite bound is no bound
        for number, row in enumerate(lists):
            for edit in row:
                is_exact = edit.at_most is None
                most[0, number] = 1.0 if edit.at_most is None else edit.at_most
                most[1, number] = torch.inf if is_exact else 1.0
        self._of_lists = OfLists(*most.to(device))

    def __call__(
        self,
        wide: Float[Tensor, "batch pos d_model"],
        edited: Float[Tensor, "batch pos d_model"],
        step: Step,
        lists: Lists,
    ) -> Float[Tensor, "batch pos d_model"]:
        """The edited stream at the length that each list asks for."""
        acts = self._acting(step, lists)
        if acts is False:
            return edited
        most, largest = self._of_lists.as_type(lists, wide.dtype)
        ratio = vector_norm(wide, dim=-1, keepdim=True) / vector_norm(edited, dim=-1, keepdim=True)
        # A stream of no length has no direction to keep.
        factor = torch.minimum(ratio * most, largest).nan_to_num(nan=1.0, posinf=1.0)
        if acts is not True:
            factor = torch.where(acts, factor, 1.0)
        return edited * factor
