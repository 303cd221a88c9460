"""What a generation tells the taps of the sequences it is making, and a single pass cannot see."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from typing import Any

from jaxtyping import Int
from torch import Tensor


class Started:
    """Stands for one generation."""


@dataclass(frozen=True, slots=True, eq=False)
class Sequences:
    """The sequences that the passes of a generation, or of a reading of many texts, belong to."""

    prompt_width: int
    """Columns of the prompt, padding included."""
    rows: Int[Tensor, " batch"] | None = None
    """The caller's number of each row still in the batch; None for 0, 1, 2, ..."""
    started_by: Started | None = None
    """The same for all passes of one generation; what lies behind its prompt is real."""
    n_rows: int | None = None
    """Rows that the caller has in all; None for as many as are in the batch."""
    prompt_lengths: Int[Tensor, " batch"] | None = None
    """Real tokens in each row's prompt; None where the first `prompt_width` columns are it."""


_SEQUENCES: ContextVar[Sequences | None] = ContextVar("_SEQUENCES", default=None)
_LEASES = threading.Lock()

sequences_now = _SEQUENCES.get
"""What this thread's passes belong to; None where nobody has said."""


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
        # With a static cache on a GPU, generate compiles the model, and a compiled pass calls
        # no hook that came after it.
        kwargs.setdefault("disable_compile", True)
        given = args[0] if args else kwargs.get("inputs", kwargs.get("input_ids"))
        if given is None:
            given = kwargs.get("inputs_embeds")
        if given is None:
            return generate(*args, **kwargs)
        with sequences_are(Sequences(int(given.shape[1]), started_by=Started())):
            return generate(*args, **kwargs)

    wrapper.leases = 0  # type: ignore[attr-defined]
    return wrapper
