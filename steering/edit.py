"""Many edits at one hook point as one function of the stream: two small matrix products.

Rows and edits are a tensor dimension each: nothing loops over them, and nothing on the way waits
for the device, but for a look at the prompts in a text's first passes. Arithmetic is float32 at
least; a token that no edit changes keeps its very bits.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lm.hookpoint import HookPoint
from lm.step import Step
from steering.acting import Acting
from steering.batch import require_a_list_a_row
from steering.change import slots_of
from steering.delta import Delta
from steering.errors import InterventionError
from steering.intervention import Intervention, KeepNorm
from steering.linear import Writers
from steering.mask import require_inside
from steering.norm import Norm
from steering.positions import ALWAYS, Constant
from steering.reading import wide_of
from steering.rows import EVERY_LIST, Lists, OfLists
from steering.strength import Strength
from steering.watch import Watch


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
        watches: Mapping[HookPoint, Watch] | None = None,
    ) -> None:
        self._n_lists = len(rows) if is_per_row else None
        self._copies = copies
        self._divided: tuple[Tensor, Tensor] | None = None
        moving = [[edit for edit in row if not isinstance(edit, KeepNorm)] for row in rows]
        norms = [[edit for edit in row if isinstance(edit, KeepNorm)] for row in rows]
        lists = [[(edit, slot) for edit in row for slot in slots_of(edit)] for row in moving]
        places = [[(edit.positions, edit.when) for edit, _ in row] for row in lists]
        self._acting = Acting(places, special_ids, device, watches or {})
        self._places, self._norm = self._acting.positions, None
        if any(norms):
            kept = [[(edit.positions, edit.when) for edit in row] for row in norms]
            acting = Acting(kept, special_ids, device, watches or {})
            self._places, self._norm = self._places + acting.positions, Norm(norms, acting, device)
        slots = [[slot for _, slot in row] for row in lists]
        d_model = next(len(slot.writes) for row in slots for slot in row)
        self._delta = Delta(slots, d_model, device)
        schedules = list(dict.fromkeys([ALWAYS, *(e.schedule for row in lists for e, _ in row)]))
        shape = (len(rows), max(map(len, slots)))
        writer, schedule_of = torch.zeros(*shape, d_model), torch.zeros(shape, dtype=torch.int64)
        for r, row in enumerate(lists):
            for k, (edit, slot) in enumerate(row):
                writer[r, k] = slot.writes
                schedule_of[r, k] = schedules.index(edit.schedule)
        self._zero = torch.zeros((), device=device)
        self._device = self._zero.device
        self._writers = Writers(writer, device)
        is_constant = all(isinstance(schedule, Constant) for schedule in schedules)
        self._strength = None if is_constant else Strength(schedules, schedule_of, device)
        self._push: OfLists | None = None
        act_as_one = all(len(set(row)) <= 1 for row in places)
        if is_constant and not self._delta.reads and self._norm is None and act_as_one:
            moves = torch.tensor([bool(row) for row in slots])[:, None, None]
            self._all_move = bool(moves.all())
            push = self._delta.offset @ writer
            self._push = OfLists(push.to(device), moves.to(device))

    def __call__(
        self, resid: Float[Tensor, "batch pos d_model"], step: Step
    ) -> Float[Tensor, "batch pos d_model"]:
        """The edited stream; the very stream it is given, where it is known that nothing acts.

        Raises:
            InterventionError: the batch has another number of rows than there are lists, or the
                model was moved since.
            PositionError: a named place lies outside a prompt.
        """
        self._check(resid, step)
        lists = self._list_of_row(step)
        acts = self._acting(step, lists)
        if acts is False:
            return resid
        if self._push is not None and resid.dtype != torch.float64:
            return self._pushed(resid, self._push(lists), acts)
        wide = wide_of(resid)
        delta = self._delta(wide, lists)
        if self._strength is not None:
            delta = delta * self._strength(step, lists)
        if acts is not True:
            delta = torch.where(acts, delta, self._zero)
        edited = self._writers(wide, delta, lists)
        if self._norm is not None:
            edited = self._norm(wide, edited, step, lists)
        if edited.dtype != resid.dtype:
            edited = edited.to(resid.dtype)
        return torch.where(delta.any(-1, keepdim=True), edited, resid)

    def _pushed(
        self,
        resid: Float[Tensor, "batch pos d_model"],
        of_lists: tuple[Tensor, ...],
        acts: bool | Tensor,
    ) -> Float[Tensor, "batch pos d_model"]:
        """The same vector added to every token of a row where its edits act."""
        push, moves = of_lists
        pushed = resid + push
        if pushed.dtype != resid.dtype:
            pushed = pushed.to(resid.dtype)
        if isinstance(acts, Tensor):
            acts = acts[..., :1]
            return torch.where(acts if self._all_move else acts & moves, pushed, resid)
        return pushed if self._all_move else torch.where(moves, pushed, resid)

    def _check(self, resid: Float[Tensor, "batch pos d_model"], step: Step) -> None:
        if resid.device != self._device:
            raise InterventionError(
                f"the stream is on {resid.device} and the edits are on {self._device}; "
                "expected one device; move the model first, then steer it"
            )
        if step.pass_index == 0:
            require_inside(self._places, step)

    def _list_of_row(self, step: Step) -> Lists:
        """Which list edits each row of the batch; the only one, where there is one for all."""
        if self._n_lists is None:
            return EVERY_LIST
        require_a_list_a_row(step.n_rows, self._n_lists, self._copies)
        if self._copies == 1:
            return step.rows
        if self._divided is None or self._divided[0] is not step.rows:
            with torch.inference_mode(False):
                self._divided = step.rows, step.rows // self._copies
        return self._divided[1]
