"""Schedules at work: how strong an edit is at each token, by one formula with four numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lm.step import Step
from steering.acting import of_each
from steering.positions import Constant, Decay, FirstN, Schedule, WarmUp
from steering.rows import Lists, OfLists


class Strength:
    """The schedules of some lists of edits, each distinct one worked out once a pass."""

    def __init__(
        self,
        choices: Sequence[Schedule],
        choice_of: Int[Tensor, "list edit"],
        device: torch.device | str = "cpu",
    ) -> None:
        numbers = torch.tensor([_numbers(choice) for choice in choices], device=device)
        self._slope, self._base, self._rate, self._last = numbers.T[:, :, None, None]
        self._choice_of = OfLists(choice_of.to(device), choice_of.unsqueeze(1).to(device))
        self._of_generated = torch.empty(0, len(choices), device=device)

    def __call__(self, step: Step, lists: Lists) -> Float[Tensor, "#batch #pos #edit"]:
        """A factor between 0 and 1 for each edit at each token."""
        choice_of, of_one_token = self._choice_of(lists)
        if step.generated is None or step.token_ids.shape[1] != 1:
            generated = step.positions - step.prompt_lengths[:, None]
            return of_each(self._formula(generated.float()), choice_of)
        # One new token a row, as many generated before in each: looked up, not worked out.
        if step.generated >= len(self._of_generated):
            self._of_generated = self._table(2 * step.generated + 64)
        return self._of_generated[step.generated].take(of_one_token)

    def _table(self, length: int) -> Float[Tensor, "generated choice"]:
        """The factors of the first generated tokens, to be used in inference mode and out of it."""
        with torch.inference_mode(False), torch.no_grad():
            generated = torch.arange(length, device=self._rate.device).float()
            return self._formula(generated)[:, 0].T.contiguous()

    def _formula(self, generated: Float[Tensor, "*batch pos"]) -> Float[Tensor, "choice batch pos"]:
        rising = (self._slope * (generated + 1) + self._base).clamp(0, 1)
        falling = torch.exp2(-self._rate * generated.clamp(min=0))
        strength: Tensor = rising * falling * (generated < self._last)
        return strength


def _numbers(choice: Schedule) -> tuple[float, float, float, float]:
    match choice:
        case Constant():
            return 0.0, 1.0, 0.0, float("inf")
        case FirstN(n):
            return 0.0, 1.0, 0.0, float(n)
        case Decay(half_life):
            return 0.0, 1.0, 1.0 / half_life, float("inf")
        case WarmUp(n):
            return 1.0 / n, 0.0, 0.0, float("inf")
        case _:
            assert_never(choice)
