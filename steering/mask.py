"""Positions at work: which tokens of a pass are chosen, by a few comparisons of tensors.

In a decode step the answer is nearly always known before it is computed: every token was just
generated, and so lies behind the prompt. Then nothing is compared.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import chain

import torch
from jaxtyping import Bool
from torch import Tensor

from lm.step import Step
from steering.errors import PositionError
from steering.positions import (
    FAR,
    NOWHERE,
    Everywhere,
    Except,
    Interval,
    Places,
    Positions,
    Tokens,
    intervals_of,
)

READ_ON_HOST = 64
"""Ids that are compared one by one, where they lie in the host's memory, rather than as tensors."""


class Mask:
    """Distinct choices of positions."""

    def __init__(
        self,
        choices: Sequence[Positions],
        special_ids: Collection[int],
        device: torch.device | str = "cpu",
    ) -> None:
        def tensor(rows: Sequence[Sequence[int]], fill: Sequence[int]) -> Tensor:
            width = max(len(row) // len(fill) for row in rows) or 1
            padded = [[*row, *list(fill) * (width - len(row) // len(fill))] for row in rows]
            return torch.tensor(padded, dtype=torch.int64, device=device)

        def flags(values: Sequence[bool]) -> Tensor:
            return torch.tensor(values, device=device)[:, None, None]

        inner = [c.inner if isinstance(c, Except) else c for c in choices]
        flat = [[n for interval in intervals_of(c) for n in interval] for c in inner]
        bounds = tensor(flat, NOWHERE).view(len(choices), -1, 4)
        self._start, self._start_from_end, self._stop, self._stop_from_end = (
            bounds[:, :, None, None, column] for column in range(4)
        )
        ids = [c.ids if isinstance(c, Tokens) else () for c in inner]
        self._token_ids = tensor(ids, (-1,))[:, :, None, None] if any(ids) else None
        self._is_everywhere = all(isinstance(c, Everywhere) for c in choices)
        self._is_negated = flags([isinstance(c, Except) for c in choices])
        self._is_prompt_only = flags([isinstance(c, Places) and c.prompt_only for c in inner])
        self._is_any_token = flags([c.include_special for c in choices])
        self._is_ordinary_only = not any(c.include_special for c in choices)
        self._is_any_only = all(c.include_special for c in choices)
        self._special_ids = frozenset(special_ids)
        self._special = torch.tensor(sorted(special_ids), dtype=torch.int64, device=device)
        settled = [_settled(choice) for choice in choices]
        self._all_from = max(chosen for chosen, _ in settled)
        self._none_from = max(shunned for _, shunned in settled)

    def known(self, step: Step) -> bool | None:
        """True where every choice has every token, False where none has any; None unless that is
        known without asking the device."""
        if step.generated is None:
            return None
        if step.from_place >= self._none_from:
            return False
        if step.from_place >= self._all_from and (self._is_any_only or self._is_ordinary(step)):
            return True
        return None

    def __call__(self, step: Step) -> Bool[Tensor, "choice batch pos"]:
        """True where a choice edits; padding is never edited."""
        may_be_edited = self._may_be_edited(step)
        if self._is_everywhere:
            return may_be_edited
        place, end = step.positions, step.prompt_lengths[:, None]
        start = self._start + self._start_from_end * end
        stop = self._stop + self._stop_from_end * end
        chosen = ((place >= start) & (place < stop)).any(1)
        if self._token_ids is not None:
            chosen |= (step.token_ids == self._token_ids).any(1)
        chosen &= ~self._is_prompt_only | (place < end)
        chosen ^= self._is_negated
        return chosen & may_be_edited

    def _is_ordinary(self, step: Step) -> bool:
        """Whether the pass is known to hold no special token: a look at few ids on the host."""
        ids = step.token_ids
        if not ids.is_cpu or ids.numel() > READ_ON_HOST:
            return False
        return self._special_ids.isdisjoint(chain.from_iterable(ids.tolist()))

    def _may_be_edited(self, step: Step) -> Bool[Tensor, "choice batch pos"]:
        """Real tokens; only ordinary ones behind the first place, where a choice asks no more."""
        if self._is_any_only:
            return step.is_real[None]
        allowed = torch.isin(step.token_ids, self._special, invert=True)
        if not step.from_place:
            allowed &= step.positions > 0
        choices = allowed[None]
        if not self._is_ordinary_only:
            choices = self._is_any_token | choices
        return choices if step.from_place else choices & step.is_real


def require_inside(choices: Sequence[Positions], step: Step) -> None:
    """Raises PositionError for a place counted from a prompt's end that lies before its start.

    Asked in the first pass over a prompt only, since it waits for the device.
    """
    back = [
        -place
        for choice in choices
        if isinstance(choice, Places) and not choice.prompt_only
        for place in choice.places
        if place < 0
    ]
    if not back or not len(step.prompt_lengths):
        return
    shortest = int(step.prompt_lengths.min())
    if max(back) > shortest:
        raise PositionError(
            f"place {-max(back)}, counted from the end of the prompt, and a prompt of {shortest} "
            "tokens; expected a place inside every prompt; name another, or pass prompt_only=True "
            "to skip shorter prompts"
        )


def _settled(choice: Positions) -> tuple[int, int]:
    """The places from which on a choice has every generated token, and from which on none.

    Special tokens apart; FAR where there is no such place.
    """
    if isinstance(choice, Except):
        chosen, shunned = _settled(choice.inner)
        return shunned, chosen
    if isinstance(choice, Tokens):
        return FAR, FAR
    if isinstance(choice, Places) and choice.prompt_only:
        return FAR, 0
    each = [_settled_by(interval) for interval in intervals_of(choice)]
    return min(chosen for chosen, _ in each), max(shunned for _, shunned in each)


def _settled_by(interval: Interval) -> tuple[int, int]:
    """The same of one interval; a generated token lies at the prompt's end or behind it."""
    start, start_from_end, stop, stop_from_end = interval
    first = start if not start_from_end else 0 if start <= 0 else FAR
    last = stop if not stop_from_end else 0 if stop <= 0 else FAR
    return (first if stop == FAR else FAR), max(0, last)
