"""A key-value cache with room for the whole generation from the start.

Growing a cache by concatenation copies all of it for every new token, which costs a small
model more than its matrix products do.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class RoomyLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """Keys and values of one layer, written in place up to `room` tokens.

    It keeps every token, also for layers that look at a window only: their mask hides the rest.
    """

    def __init__(self, room: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.room = room
        self.length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Take the room, now that the shapes are known."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys = _with_room(key_states, self.room)
        self.values = _with_room(value_states, self.room)
        self.is_initialized = True

    def update(
        self,
        key_states: Float[Tensor, "batch head pos d_key"],
        value_states: Float[Tensor, "batch head pos d_value"],
        *_args: Any,
        **_kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """Write the new tokens and give all so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        end = self.length + key_states.shape[2]
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_seq_length(self) -> int:
        """Tokens so far."""
        return self.length

    def batch_select_indices(self, indices: Int[Tensor, " kept"]) -> None:
        """Keep only these rows of the batch."""
        if self.keys is not None and self.values is not None:
            self.keys = _kept(self.keys, indices, self.length)
            self.values = _kept(self.values, indices, self.length)


def roomy_cache(n_layers: int, room: int) -> Cache:
    """An empty cache of so many layers, for sequences of up to `room` tokens."""
    return Cache(layers=[RoomyLayer(room) for _ in range(n_layers)])


def _with_room(states: Tensor, room: int) -> Tensor:
    batch, heads, _, width = states.shape
    return states.new_empty((batch, heads, room, width))


def _kept(full: Tensor, indices: Tensor, length: int) -> Tensor:
    kept = full.new_empty((indices.shape[0], *full.shape[1:]))
    kept[:, :, :length] = full[indices, :, :length]
    return kept
