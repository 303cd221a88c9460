"""Which tokens a forward pass is about: their absolute places, whatever the cache and padding.

A pass sees only its own slice of a sequence. Where the slice lies is worked out from the
attention mask and the cache's length, and, inside a generation, from the width of its prompt.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """What an edit is told of the pass that it acts in."""

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


@dataclass(frozen=True, slots=True, eq=False)
class Sequences:
    """What a generation knows of the sequences it is making, and a single pass cannot see."""

    prompt_width: int
    """Columns of the prompt, padding included."""
    rows: Int[Tensor, " batch"] | None = None
    """The caller's number of each row still in the batch; None for 0, 1, 2, ..."""
    started_by: object = None
    """The same object for all passes of one generation."""
    n_rows: int | None = None
    """Rows that the caller has in all; None for as many as are in the batch."""


_SEQUENCES: ContextVar[Sequences | None] = ContextVar("_SEQUENCES", default=None)
_LEASES = threading.Lock()


class Clock:
    """Knows the step of the pass that its thread is in the middle of."""

    def __init__(self) -> None:
        self._step: Step | None = None
        self._generation: object = None

    @property
    def step(self) -> Step:
        """The step of the running pass."""
        assert self._step is not None, "an edit ran outside the model's own forward pass"
        return self._step

    def attach(self, model: nn.Module, stem: nn.Module, stack: ExitStack) -> None:
        """Watch this thread's passes through the model until the stack unwinds.

        A model that also reads images embeds the ids before its stem sees them, so they are
        noted at its outermost door.
        """
        owner, noted = threading.get_ident(), dict[str, Any]()
        names = {m: tuple(inspect.signature(m.forward).parameters) for m in (model, stem)}

        def given_to(module: nn.Module, args: Any, kwargs: Any) -> dict[str, Any]:
            return {**dict(zip(names[module], args, strict=False)), **kwargs}

        # `kwargs` has a default because torch may call the hook of another thread, which is
        # just being removed, without it.
        def note(module: nn.Module, args: Any, kwargs: Any = None) -> None:
            if threading.get_ident() == owner:
                noted["input_ids"] = given_to(module, args, kwargs).get("input_ids")

        def begin(module: nn.Module, args: Any, kwargs: Any = None) -> None:
            if threading.get_ident() == owner:
                given = given_to(module, args, kwargs)
                if given.get("input_ids") is None:
                    given["input_ids"] = noted.get("input_ids")
                noted.clear()
                self._begin(given)

        stack.callback(model.register_forward_pre_hook(note, with_kwargs=True).remove)
        stack.callback(stem.register_forward_pre_hook(begin, with_kwargs=True).remove)

    def _begin(self, given: dict[str, Any]) -> None:
        token_ids = _token_ids(given)
        past = _past_length(given.get("past_key_values"))
        mask = _padding_mask(given.get("attention_mask"), past + token_ids.shape[1])
        if mask is None:
            positions, is_real = _unpadded(token_ids, past)
        else:
            positions, is_real = _padded(mask, past, token_ids.shape[1])
        sequences, before = _SEQUENCES.get(), self._step
        generation = sequences.started_by if sequences is not None else None
        goes_on = before is not None and generation is self._generation
        goes_on = goes_on and (generation is not None or past > 0)
        rows = sequences.rows if sequences is not None else None
        batch = token_ids.shape[0]
        n_rows = sequences.n_rows if sequences is not None else None
        if rows is None:
            rows = torch.arange(batch, device=token_ids.device)
        if sequences is not None:
            prompt_lengths = _in_prompt(mask, sequences.prompt_width, token_ids)
        elif goes_on and before is not None and before.prompt_lengths.shape[0] == batch:
            prompt_lengths = before.prompt_lengths
        else:
            prompt_lengths = _in_prompt(mask, past or token_ids.shape[1], token_ids)
        pass_index = before.pass_index + 1 if goes_on and before is not None else 0
        self._generation = generation
        self._step = Step(
            positions, token_ids, is_real, pass_index, rows, prompt_lengths, n_rows or batch
        )


@contextmanager
def sequences_are(sequences: Sequences) -> Iterator[None]:
    """Tell the taps of this thread, for the length of a `with`, what its passes belong to."""
    token = _SEQUENCES.set(sequences)
    try:
        yield
    finally:
        _SEQUENCES.reset(token)


@contextmanager
def generating(model: Any) -> Iterator[None]:
    """Let `model.generate` tell the taps how long its prompts are.

    Without it, a generation that feeds the prompt in pieces, or runs without a cache, cannot
    be told from passes over longer and longer prompts. The wrapper is shared by nested and by
    concurrent taps, and removed by the last that leaves.
    """
    with _LEASES:
        wrapper = model.__dict__.get("generate")
        if not hasattr(wrapper, "leases"):
            wrapper = _telling(model.generate)
            model.generate = wrapper
        wrapper.leases += 1
    try:
        yield
    finally:
        with _LEASES:
            wrapper.leases -= 1
            if wrapper.leases == 0 and model.__dict__.get("generate") is wrapper:
                del model.generate


def _telling(generate: Any) -> Any:
    @wraps(generate)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        given = args[0] if args else kwargs.get("inputs", kwargs.get("input_ids"))
        if given is None:
            given = kwargs.get("inputs_embeds")
        if given is None:
            return generate(*args, **kwargs)
        with sequences_are(Sequences(int(given.shape[1]), started_by=object())):
            return generate(*args, **kwargs)

    wrapper.leases = 0  # type: ignore[attr-defined]
    return wrapper


def _past_length(cache: Any) -> int:
    return int(cache.get_seq_length()) if cache is not None else 0


def _token_ids(given: dict[str, Any]) -> Int[Tensor, "batch pos"]:
    ids, embedded = given.get("input_ids"), given.get("inputs_embeds")
    if ids is not None and (embedded is None or ids.shape == embedded.shape[:2]):
        known: Tensor = ids
        return known
    assert embedded is not None  # the model itself refuses a pass with neither
    return torch.full(embedded.shape[:2], -1, device=embedded.device)


def _padding_mask(mask: Any, length: int) -> Tensor | None:
    """A mask over tokens, 1 where real: a mask over pairs has it in its last query's row."""
    if isinstance(mask, dict):
        mask = mask.get("full_attention")
    if mask is None:
        return None
    row: Tensor = mask if mask.ndim == 2 else mask[:, 0, -1, :length]
    adds = mask.ndim != 2 and mask.is_floating_point()
    return row == 0 if adds else row


def _unpadded(
    token_ids: Int[Tensor, "batch pos"], past: int
) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
    places = torch.arange(past, past + token_ids.shape[1], device=token_ids.device)[None]
    is_real = torch.ones_like(token_ids, dtype=torch.bool)
    return places.expand(token_ids.shape), is_real


def _padded(
    mask: Tensor, past: int, width: int
) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
    mask = mask.to(torch.long)
    if mask.shape[1] < past + width:  # a mask of the new tokens only: all before them is real
        mask = torch.nn.functional.pad(mask, (past + width - mask.shape[1], 0), value=1)
    is_real = mask[:, past : past + width].bool()
    positions = mask.cumsum(1)[:, past : past + width] - 1
    return positions.masked_fill(~is_real, -1), is_real


def _in_prompt(
    mask: Tensor | None, width: int, token_ids: Int[Tensor, "batch pos"]
) -> Int[Tensor, " batch"]:
    """Real tokens among the first `width` columns; those the mask does not reach yet are real."""
    if mask is None:
        return torch.full((token_ids.shape[0],), width, device=token_ids.device)
    unreached = max(0, width - mask.shape[1])
    return mask[:, :width].to(torch.long).sum(1) + unreached
