"""Read or edit the residual stream for the length of a `with`, then give the model back.

Raw forward hooks on the model's own modules. A tap acts on the passes of the thread that
entered the `with` and on no other, so threads may share a model; code that generates in a
thread of its own enters its `with` there. Taps nest: those entered first act first, so a
`read` inside an `edited` sees the edited stream.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, assert_never

from jaxtyping import Float, Int
from torch import Tensor, nn

from lm.clock import Clock
from lm.errors import UnknownArchitecture
from lm.hookpoint import HookPoint
from lm.model import LanguageModel
from lm.sequences import generating
from lm.step import Step

__all__ = ["Edit", "Step", "edited", "read", "read_until"]

Edit = Callable[[Float[Tensor, "batch pos d_model"], Step], Float[Tensor, "batch pos d_model"]]
_See = Callable[[Tensor], Tensor]


class _PassEnded(Exception):
    """Ends a forward pass whose remaining layers nobody asked for; never leaves this module."""


@contextmanager
def read(
    lm: LanguageModel, points: Sequence[HookPoint]
) -> Iterator[dict[HookPoint, Float[Tensor, "batch pos d_model"]]]:
    """A dictionary that holds, after each forward pass, the stream at these places.

    The tensors are the model's own, with their gradients; each pass replaces the last one's.

    Raises:
        HookPointError: the model has no such place; then nothing was attached.
    """
    for point in points:
        point.check(lm)
    seen: dict[HookPoint, Tensor] = {}
    with ExitStack() as stack:
        for point in points:
            _attach(lm, point, _keep(seen, point), stack)
        yield seen


def read_until(
    lm: LanguageModel,
    points: Sequence[HookPoint],
    input_ids: Int[Tensor, "batch pos"],
    attention_mask: Int[Tensor, "batch pos"] | None = None,
) -> dict[HookPoint, Float[Tensor, "batch pos d_model"]]:
    """The stream at these places in one pass, which ends after the last of them.

    Raises:
        HookPointError: the model has no such place; then nothing was attached.
    """
    for point in points:
        point.check(lm)
    seen: dict[HookPoint, Tensor] = {}
    if not points:
        return seen
    last = max(points, key=lambda point: point.depth)

    def keep_and_end(resid: Tensor) -> Tensor:
        seen[last] = resid
        raise _PassEnded

    with ExitStack() as stack:
        for point in points:
            if point != last:
                _attach(lm, point, _keep(seen, point), stack)
        _attach(lm, last, keep_and_end, stack)
        # Ended by an exception: cutting the list of blocks short would be seen by other
        # threads, and would outlive an error.
        with suppress(_PassEnded):
            lm.stem(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
    return seen


@contextmanager
def edited(lm: LanguageModel, edits: Mapping[HookPoint, Edit | Sequence[Edit]]) -> Iterator[None]:
    """Let the model run on an edited stream.

    An edit is given the stream at its place and the `Step` that says which tokens these are,
    and gives the stream that later computation shall see. Several edits at one place act in
    their order. An edit that gives back its very input leaves every bit as it was. At
    `resid_mid` the change is added to what attention writes, so the skip path carries it too.

    Raises:
        HookPointError: the model has no such place; then nothing was attached.
    """
    for point in edits:
        point.check(lm)
    clock = Clock()
    with ExitStack() as stack:
        if edits:
            clock.attach(lm.model, lm.stem, stack)
            stack.enter_context(generating(lm.model))
        for point, one_or_more in edits.items():
            chain = (one_or_more,) if callable(one_or_more) else tuple(one_or_more)
            _attach(lm, point, _apply(chain, clock), stack)
        yield


def _keep(seen: dict[HookPoint, Tensor], point: HookPoint) -> _See:
    def see(resid: Tensor) -> Tensor:
        seen[point] = resid
        return resid

    return see


def _apply(chain: Sequence[Edit], clock: Clock) -> _See:
    def see(resid: Tensor) -> Tensor:
        step = clock.now
        assert step is not None, "an edit ran outside the model's own forward pass"
        for edit in chain:
            resid = edit(resid, step)
        return resid

    return see


def _attach(lm: LanguageModel, point: HookPoint, see: _See, stack: ExitStack) -> None:
    """Call `see` on the stream at `point` in this thread's passes, until the stack unwinds."""
    block, owner = lm.blocks[point.layer], threading.get_ident()

    def see_mine(resid: Tensor) -> Tensor:
        if threading.get_ident() != owner:
            return resid
        if resid.ndim != 3:
            raise UnknownArchitecture(
                f"the stream of {lm.name} has {resid.ndim} axes; expected batch, pos and "
                "d_model; open another model"
            )
        return see(resid)

    match point.site:
        case "resid_pre":
            _attach_pre(block, see_mine, stack)
        case "resid_mid":
            _attach_mid(lm, block, see_mine, stack)
        case "resid_post":
            handle = block.register_forward_hook(
                lambda _module, _args, out: _replaced(out, see_mine)
            )
            stack.callback(handle.remove)
        case _:
            assert_never(point.site)


def _attach_pre(block: nn.Module, see: _See, stack: ExitStack) -> None:
    # Without the default, torch's check for keywords races with another thread's removal of
    # its own hook, and calls this one with two arguments.
    def hook(_module: nn.Module, args: Any, kwargs: Any = None) -> Any:
        if kwargs is None:
            return None
        given = args[0] if args else kwargs["hidden_states"]
        shown = see(given)
        if shown is given:
            return None
        if args:
            return (shown, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": shown}

    stack.callback(block.register_forward_pre_hook(hook, with_kwargs=True).remove)


def _attach_mid(lm: LanguageModel, block: nn.Module, see: _See, stack: ExitStack) -> None:
    """The stream is first met at the input of the block's first norm, where every edit of
    `resid_pre` has already acted, in whatever order the taps were entered."""
    assert lm.mid is not None  # HookPoint.check has refused models without this place
    streams: dict[int, Tensor] = {}

    def meet(_module: nn.Module, args: Any) -> None:
        streams[threading.get_ident()] = args[0]

    def hook(_module: nn.Module, _args: Any, out: Any) -> Any:
        stream = streams.pop(threading.get_ident())

        def see_write(write: Tensor) -> Tensor:
            mid = stream + write
            shown = see(mid)
            # The change is taken first: were it zero, the write would keep its very bits.
            return write if shown is mid else write + (shown - mid)

        return _replaced(out, see_write)

    reader, writer = getattr(block, lm.mid.reader), getattr(block, lm.mid.writer)
    stack.callback(reader.register_forward_pre_hook(meet).remove)
    stack.callback(writer.register_forward_hook(hook).remove)


def _replaced(out: Any, see: _See) -> Any:
    """`out`, or a copy of it with another stream; None says to leave the output alone.

    Blocks give a tensor since transformers 5, and attention a tuple: taking `out[0]` of a
    tensor would silently be row 0 of the batch.
    """
    stream = out[0] if isinstance(out, tuple) else out
    shown = see(stream)
    if shown is stream:
        return None
    return (shown, *out[1:]) if isinstance(out, tuple) else shown
