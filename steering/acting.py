"""Where and when each edit of each row acts: at its places, while its gate is open."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from jaxtyping import Shaped
from torch import Tensor

from lm.hookpoint import HookPoint
from lm.step import Step
from steering.gate import Gate
from steering.mask import Mask
from steering.positions import Positions
from steering.rows import Lists, OfLists
from steering.watch import Gates, Watch

Chosen = tuple[Positions, Gate | None]
"""What an edit has chosen."""


class Acting:
    """The places and gates of some lists of edits, each distinct one worked out once a pass.

    Lists of unequal length are filled up with the first choice of all.
    """

    def __init__(
        self,
        lists: Sequence[Sequence[Chosen]],
        special_ids: Collection[int],
        device: torch.device | str,
        watches: Mapping[HookPoint, Watch],
    ) -> None:
        chosen = [one for row in lists for one in row]
        places = {place: None for place, _ in chosen}
        self.positions: tuple[Positions, ...] = tuple(places)
        gates = tuple({gate: None for _, gate in chosen})
        asked = tuple(gate for gate in gates if gate is not None)
        self._mask = Mask(self.positions, special_ids, device)
        self._gates = Gates(asked, watches) if asked else None
        self._is_always_gated = len(asked) == len(gates)
        numbers = torch.zeros(3, len(lists), max(map(len, lists)), dtype=torch.int64)
        for r, row in enumerate(lists):
            for k, (place, gate) in enumerate(row):
                numbers[0, r, k] = self.positions.index(place)
                numbers[1, r, k] = asked.index(gate) if gate is not None else 0
                numbers[2, r, k] = gate is None
        place_of, gate_of, is_free = numbers.to(device)
        self._of_lists = OfLists(place_of, gate_of, is_free.bool().unsqueeze(1))

    def __call__(self, step: Step, lists: Lists) -> bool | Shaped[Tensor, "batch pos #edit"]:
        """True where an edit acts; one flag for all where that is known without computing it."""
        known = self._mask.known(step)
        if known is False:
            return False
        if known and self._gates is None:
            return True
        place, gate, is_free = self._of_lists(lists)
        at_place = None if known else of_each(self._mask(step), place)
        if self._gates is None:
            assert at_place is not None
            return at_place
        said = self._gates(step)
        is_open = said[0].unsqueeze(-1) if len(said) == 1 else of_each(torch.stack(said), gate)
        if not self._is_always_gated:
            is_open = is_open | is_free
        return is_open if at_place is None else at_place & is_open


def of_each(
    chosen: Shaped[Tensor, "choice batch pos"], choice: Shaped[Tensor, "list edit"]
) -> Shaped[Tensor, "batch pos #edit"]:
    """For each edit of each row, the values of the choice that it made."""
    if chosen.shape[0] == 1:
        return chosen[0].unsqueeze(-1)
    batch = torch.arange(chosen.shape[1], device=chosen.device)[:, None]
    return chosen[choice, batch].transpose(1, 2)
