"""Gates at work: what their comparisons say of each token, remembered from pass to pass.

A `Watch` sits at a gate's hook point and leaves the stream as it is; the edits of the same `with`
ask it at their own place, later in the same pass. What a row's prompt has shown is kept by the
caller's row, so that rows may leave the batch and the prompt may come in pieces.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import assert_never
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lm.hookpoint import HookPoint
from lm.step import Course, Step
from steering.errors import GateError
from steering.gate import Above, AllOf, AnyOf, Gate, Not, leaves
from steering.reading import Readers, wide_of
from steering.rows import EVERY_LIST


class Watch:
    """The comparisons of all gates at one hook point."""

    def __init__(
        self,
        comparisons: Sequence[Above],
        special_ids: Collection[int] = (),
        device: torch.device | str = "cpu",
    ) -> None:
        self.place = {id(one): number for number, one in enumerate(comparisons)}
        self.over_prompt = any(one.over != "token" for one in comparisons)
        targets = [one.target for one in comparisons]
        self._readers = Readers([targets], targets[0].d_model, device)
        self._least = torch.tensor([one.least for one in comparisons], device=device)
        self._is_of_token = torch.tensor([c.over == "token" for c in comparisons], device=device)
        self._kind = {
            over: torch.tensor([c.over == over for c in comparisons], device=device)
            for over in ("mean", "max")
        }
        self._special = torch.tensor(sorted(special_ids), dtype=torch.int64, device=device)
        self._mine = threading.local()

    def __call__(
        self, resid: Float[Tensor, "batch pos d_model"], step: Step
    ) -> Float[Tensor, "batch pos d_model"]:
        """The very stream it is given, once it has been looked at."""
        reading = self._readers(wide_of(resid), EVERY_LIST)
        above = reading > self._least
        if self.over_prompt:
            verdict = self._prompts(reading, step) > self._least
            above = torch.where(self._is_of_token, above, verdict[:, None])
        self._mine.above = above
        return resid

    @property
    def above(self) -> Bool[Tensor, "batch pos comparison"]:
        """What the comparisons say in the pass that this thread is in the middle of."""
        said: Bool[Tensor, "batch pos comparison"] = self._mine.above
        return said

    def _prompts(
        self, reading: Float[Tensor, "batch pos comparison"], step: Step
    ) -> Float[Tensor, "batch comparison"]:
        """Mean, largest or last reading of each row's prompt so far, as each comparison asks."""
        known, rows = self._known(reading, step), step.rows
        if step.generated is None:  # otherwise no token here is the prompt's
            self._take_in(known, reading, step)
        mean = known.total[rows] / known.count[rows, None]  # no token: NaN, which exceeds nothing
        of_all = torch.where(self._kind["max"], known.largest[rows], known.last[rows])
        return torch.where(self._kind["mean"], mean, of_all)

    def _take_in(
        self, known: _Prompts, reading: Float[Tensor, "batch pos comparison"], step: Step
    ) -> None:
        rows, place, end = step.rows, step.positions, step.prompt_lengths[:, None]
        # A pass without a cache shows the same tokens again.
        is_new = step.is_real & (place < end) & (place >= known.seen[rows, None])
        counts = is_new & (place > 0) & ~torch.isin(step.token_ids, self._special)
        known.seen[rows] = torch.maximum(known.seen[rows], place.amax(1) + 1)
        known.count[rows] += counts.sum(1)
        known.total[rows] += torch.where(counts[..., None], reading, 0.0).sum(1)
        largest = reading.masked_fill(~counts[..., None], -torch.inf).amax(1)
        known.largest[rows] = torch.maximum(known.largest[rows], largest)
        is_last = is_new & (place == end - 1)
        last = torch.where(is_last[..., None], reading, 0.0).sum(1)
        known.last[rows] = torch.where(is_last.any(1, keepdim=True), last, known.last[rows])

    def _known(self, reading: Float[Tensor, "batch pos comparison"], step: Step) -> _Prompts:
        """This thread's memory of the sequences that the pass belongs to."""
        if step.course is None:
            return _Prompts(step.n_rows, reading)
        if step.course.start:
            raise GateError(
                f"a gate over the prompt, of which {step.course.start} tokens were read before; "
                "expected to see all of it; enter the `with` before the prompt is read, or gate "
                "each token (over='token')"
            )
        known: WeakKeyDictionary[Course, _Prompts] | None = getattr(self._mine, "prompts", None)
        if known is None:
            known = self._mine.prompts = WeakKeyDictionary()
        if step.course not in known:
            known[step.course] = _Prompts(step.n_rows, reading)
        return known[step.course]


class _Prompts:
    """What the prompts of all rows have shown so far."""

    def __init__(self, n_rows: int, like: Float[Tensor, "batch pos comparison"]) -> None:
        shape = (n_rows, like.shape[-1])
        self.seen = torch.zeros(n_rows, dtype=torch.int64, device=like.device)
        self.count = torch.zeros(n_rows, dtype=torch.int64, device=like.device)
        self.total, self.last = like.new_zeros(shape), like.new_zeros(shape)
        self.largest = like.new_full(shape, -torch.inf)


class Gates:
    """Distinct gates, asked at the hook point of the edits that they gate."""

    def __init__(self, gates: Sequence[Gate], watches: Mapping[HookPoint, Watch]) -> None:
        self._said = [_asked(gate, watches) for gate in gates]
        self._over_prompt = [any(one.over != "token" for one in leaves(gate)) for gate in gates]

    def __call__(self, step: Step) -> list[Bool[Tensor, "batch pos"]]:
        """True where a gate is open, for each gate."""
        said = [ask() for ask in self._said]
        if step.generated is None:  # the verdict on a prompt holds from its last token on
            for number, over_prompt in enumerate(self._over_prompt):
                if over_prompt:
                    is_after = step.positions >= step.prompt_lengths[:, None] - 1
                    said[number] = said[number] & is_after
        return said


_Said = Callable[[], Bool[Tensor, "batch pos"]]


def _asked(gate: Gate, watches: Mapping[HookPoint, Watch]) -> _Said:
    """What asks the watches for a gate; which of them, and where, is worked out once."""
    match gate:
        case Above():
            watch = watches[HookPoint.parse(gate.target.hook_point)]
            place = watch.place[id(gate)]
            return lambda: watch.above[..., place]
        case Not(inner):
            ask = _asked(inner, watches)
            return lambda: ~ask()
        case AllOf():
            joined = _joined(gate.gates, watches)
            return lambda: joined().all(-1)
        case AnyOf():
            joined = _joined(gate.gates, watches)
            return lambda: joined().any(-1)
        case _:
            assert_never(gate)


def _joined(
    parts: Sequence[Gate], watches: Mapping[HookPoint, Watch]
) -> Callable[[], Bool[Tensor, "batch pos part"]]:
    """The parts side by side; without a copy where one watch makes them next to each other."""
    plain = [part for part in parts if isinstance(part, Above)]
    points = {part.target.hook_point for part in plain}
    if len(plain) == len(parts) and len(points) == 1:
        watch = watches[HookPoint.parse(points.pop())]
        places = [watch.place[id(part)] for part in plain]
        if places == list(range(len(watch.place))):
            return lambda: watch.above
        if places == list(range(places[0], places[0] + len(places))):
            return lambda: watch.above[..., places[0] : places[-1] + 1]
    asked = [_asked(part, watches) for part in parts]
    return lambda: torch.stack([ask() for ask in asked], dim=-1)
