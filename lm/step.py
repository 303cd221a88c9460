"""What an edit is told of the pass that it acts in: where its tokens stand, and in which text.

Places are absolute, whatever the cache and padding. Passes that share a cache, or a generation,
are one course; several may take turns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(slots=True, weakref_slot=True, eq=False)
class Course:
    """All passes over the same sequences, which continue each other; equal only to itself."""

    start: int = 0
    """Tokens in the cache before its first pass: nothing here has seen them."""
    batch: int = 0
    n_passes: int = 0
    prompt_width: int = 0
    """Columns of the prompt, padding included."""
    prompt_lengths: Int[Tensor, " batch"] | None = None
    shortest: int | None = None
    """The least of `prompt_lengths`, once it is known here without asking the device."""
    mask: Tensor | None = None
    """Over tokens, of the last pass that had to look: 1 where real. None where all were."""


@dataclass(slots=True, eq=False)
class Step:
    """What an edit is told of the pass that it acts in; it is never written to."""

    positions: Int[Tensor, "batch pos"]
    """Place of each token, 0 at its row's first real token; -1 for padding."""
    token_ids: Int[Tensor, "batch pos"]
    """-1 where the pass was given embeddings instead of ids."""
    is_real: Bool[Tensor, "batch pos"]
    """False for padding."""
    pass_index: int
    """0 for the first pass of a sequence, then 1, 2, ... as it is continued."""
    rows: Int[Tensor, " batch"]
    """The caller's number of each row, which a generation keeps when rows leave the batch."""
    prompt_lengths: Int[Tensor, " batch"]
    """Real tokens in each row's prompt: places from there on were generated."""
    n_rows: int
    """Rows that the caller has in all, in this batch or not."""
    from_place: int = 0
    """Every token is real and lies here or behind, as is known without asking the device; 0
    where no more is known."""
    generated: int | None = None
    """Tokens that every row has generated before this pass, all of whose tokens are generated;
    None where that is not known without asking the device."""
    course: Course | None = None
    """What the pass belongs to; None for a pass that nothing continues."""


class InnerStep(Step):
    """A pass over real tokens only, none its row's first: what most decode steps are.

    Positions, flags and lengths are made when an edit first asks for them. Most never do, and
    making them costs more than the edit itself.
    """

    __slots__ = ("_past",)

    def __init__(
        self,
        token_ids: Int[Tensor, "batch pos"],
        rows: Int[Tensor, " batch"],
        n_rows: int,
        course: Course,
        past: int,
        from_place: int,
        generated: int | None,
        prompt_lengths: Int[Tensor, " batch"] | None,
    ) -> None:
        self.token_ids, self.rows, self.n_rows = token_ids, rows, n_rows
        self.course, self.pass_index = course, course.n_passes
        self.from_place, self.generated, self._past = from_place, generated, past
        if prompt_lengths is not None:
            self.prompt_lengths = prompt_lengths

    def __getattr__(self, name: str) -> Any:
        """Called only for what is not there yet."""
        if name == "is_real":
            self.is_real = torch.ones_like(self.token_ids, dtype=torch.bool)
        elif name == "positions":
            self.positions = self._places()
        elif name == "prompt_lengths":
            assert self.course is not None
            batch, device = self.token_ids.shape[0], self.token_ids.device
            self.prompt_lengths = torch.full((batch,), self.course.prompt_width, device=device)
        else:
            raise AttributeError(name)
        return object.__getattribute__(self, name)

    def _places(self) -> Int[Tensor, "batch pos"]:
        ids = self.token_ids
        if self.from_place == self._past:  # no row has padding
            first: Tensor | int = self._past
        else:
            assert self.generated is not None
            first = self.prompt_lengths[:, None] + self.generated
        if ids.shape[1] == 1:
            return torch.zeros_like(ids, dtype=torch.int64) + first
        return torch.arange(ids.shape[1], device=ids.device).expand(ids.shape) + first
