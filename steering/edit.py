"""Many edits at one hook point as one function of the stream: two small matrix products.

Rows and edits are a tensor dimension each: nothing loops over them, and nothing on the way waits
for the device. Arithmetic is float32 at least; a token that no edit changes keeps its very bits.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from lm.step import Step
from steering.errors import InterventionError
from steering.intervention import Intervention, change_of, reader_of, writer_of
from steering.positions import Constant, Mask, Positions, Schedule, Strength


class HookEdit:
    """The edits of one hook point: one list for every row of the batch, or one list a row.

    Lists of unequal length are filled up with edits that change nothing.
    """

    def __init__(
        self,
        rows: Sequence[Sequence[Intervention]],
        *,
        is_per_row: bool,
        copies: int = 1,
        special_ids: Collection[int] = (),
        device: torch.device | str = "cpu",
    ) -> None:
        self._n_lists = len(rows) if is_per_row else None
        self._copies = copies
        slots = [(r, k, edit) for r, row in enumerate(rows) for k, edit in enumerate(row)]
        shape = (len(rows), max(len(row) for row in rows))
        reader = torch.zeros(*shape, slots[0][2].target.d_model)
        writer = torch.zeros_like(reader)
        numbers = torch.zeros(6, *shape)
        choice = torch.zeros(2, *shape, dtype=torch.int64)
        places: dict[Positions, int] = {}
        schedules: dict[Schedule, int] = {}
        for r, k, edit in slots:
            column, bias, threshold = reader_of(edit.target)
            reader[r, k], writer[r, k] = column, writer_of(edit.target)
            numbers[:, r, k] = torch.tensor([bias, threshold, *change_of(edit)])
            choice[0, r, k] = places.setdefault(edit.positions, len(places))
            choice[1, r, k] = schedules.setdefault(edit.schedule, len(schedules))
        self._reads = bool(numbers[3].any())
        self._reader, self._writer = reader.to(device), writer.to(device)
        self._numbers, self._choice = numbers.to(device), choice.to(device)
        self._mask = Mask(list(places), special_ids, device)
        is_constant = all(isinstance(schedule, Constant) for schedule in schedules)
        self._strength = None if is_constant else Strength(list(schedules), device)

    def __call__(
        self, resid: Float[Tensor, "batch pos d_model"], step: Step
    ) -> Float[Tensor, "batch pos d_model"]:
        """The edited stream.

        Raises:
            InterventionError: the batch has another number of rows than there are lists.
        """
        lists = self._list_of_row(step)
        wide = resid.to(torch.promote_types(resid.dtype, torch.float32))
        delta = self._delta(wide, lists)
        if self._strength is not None:
            delta = delta * _of_each_edit(self._strength(step), self._choice[1, lists])
        delta = torch.where(_of_each_edit(self._mask(step), self._choice[0, lists]), delta, 0.0)
        edited = wide + delta @ _shared(self._writer[lists]).to(wide.dtype)
        return torch.where((delta != 0).any(-1, keepdim=True), edited.to(resid.dtype), resid)

    def _delta(
        self, wide: Float[Tensor, "batch pos d_model"], lists: Int[Tensor, " list"] | slice
    ) -> Float[Tensor, "batch pos edit"]:
        """How far each edit moves each token along its own vector."""
        numbers = self._numbers[:, lists].unsqueeze(2).to(wide.dtype)
        bias, threshold, offset, slope, low, high = numbers
        if not self._reads:
            constant: Tensor = offset
            return constant.expand(*wide.shape[:2], -1)
        reading = wide @ _shared(self._reader[lists]).to(wide.dtype).mT + bias
        reading = torch.where(reading > threshold, reading, 0.0)
        delta: Tensor = offset + slope * reading
        return delta.clamp(low, high)

    def _list_of_row(self, step: Step) -> Int[Tensor, " list"] | slice:
        """Which list edits each row of the batch; the only one, where there is one for all."""
        if self._n_lists is None:
            return slice(None)
        expected = self._n_lists * self._copies
        if step.n_rows != expected:
            copied = f" of {self._copies} copies each" if self._copies > 1 else ""
            raise InterventionError(
                f"a batch of {step.n_rows} rows and {self._n_lists} lists of edits{copied}; "
                "expected one list a row; give as many lists as rows, and say copies=n where "
                "generate expands each row into n (num_beams, or num_return_sequences)"
            )
        return step.rows // self._copies


def _shared(
    columns: Float[Tensor, "list edit d_model"],
) -> Float[Tensor, "list edit d_model"] | Float[Tensor, "edit d_model"]:
    """One list's columns as a plain matrix, so that the product over a batch is one product."""
    return columns[0] if columns.shape[0] == 1 else columns


def _of_each_edit(
    chosen: Shaped[Tensor, "choice batch pos"], choice: Int[Tensor, "list edit"]
) -> Shaped[Tensor, "batch pos #edit"]:
    """For each edit of each row, the values of the choice that it made."""
    if chosen.shape[0] == 1:
        return chosen[0].unsqueeze(-1)
    batch = torch.arange(chosen.shape[1], device=chosen.device)[:, None]
    return chosen[choice, batch].transpose(1, 2)
