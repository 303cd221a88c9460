"""Tells edits which tokens a forward pass is about: their absolute places.

A pass sees only its own slice of a sequence. Where the slice lies is worked out from the
attention mask and the cache's length, and, inside a generation, from the width of its prompt.
"""

from __future__ import annotations

import inspect
import threading
from contextlib import ExitStack
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Int
from torch import Tensor, nn

from lm.padding import has_window, in_prompt, over_tokens, padded, unpadded
from lm.sequences import Sequences, sequences_now
from lm.step import Course, InnerStep, Step


class Clock:
    """Knows the step of the pass that its thread is in the middle of."""

    def __init__(self) -> None:
        self.now: Step | None = None
        """The step of the running pass, or of the last."""
        self._courses: WeakKeyDictionary[object, Course] = WeakKeyDictionary()
        self._is_windowed = False
        self._counted: Tensor | None = None
        self._makes_cache = False

    def attach(self, model: nn.Module, stem: nn.Module, stack: ExitStack) -> None:
        """Watch this thread's passes through the model until the stack unwinds.

        A model that also reads images embeds the ids before its stem sees them, so they are
        noted at its outermost door; a stem that is the model's own child is given them.
        """
        owner, noted = threading.get_ident(), dict[str, Any]()
        self._is_windowed = has_window(stem)
        names = {m: tuple(inspect.signature(m.forward).parameters) for m in (model, stem)}

        def given_to(module: nn.Module, args: Any, kwargs: Any) -> dict[str, Any]:
            if not args:
                return kwargs or {}
            return {**dict(zip(names[module], args, strict=False)), **(kwargs or {})}

        # `kwargs` has a default because torch may call the hook of another thread, which is
        # just being removed, without it.
        def note(module: nn.Module, args: Any, kwargs: Any = None) -> None:
            if threading.get_ident() == owner:
                noted["input_ids"] = given_to(module, args, kwargs).get("input_ids")

        def begin(module: nn.Module, args: Any, kwargs: Any = None) -> None:
            if threading.get_ident() == owner:
                given = given_to(module, args, kwargs)
                if noted:
                    if given.get("input_ids") is None:
                        given = {**given, **noted}
                    noted.clear()
                self._begin(given)

        def end(_module: nn.Module, _args: Any, out: Any) -> None:
            if self._makes_cache and threading.get_ident() == owner:
                self._end(out)

        if all(child is not stem for child in model.children()):
            stack.callback(model.register_forward_pre_hook(note, with_kwargs=True).remove)
        stack.callback(stem.register_forward_pre_hook(begin, with_kwargs=True).remove)
        stack.callback(stem.register_forward_hook(end).remove)

    def _begin(self, given: dict[str, Any]) -> None:
        token_ids, cache = _token_ids(given), given.get("past_key_values")
        past = int(cache.get_seq_length()) if cache is not None else 0
        sequences, mask = sequences_now(), given.get("attention_mask")
        course = self._course(sequences, cache, past, token_ids)
        if not past:
            self.now = self._outer(token_ids, sequences, course, past, mask)
        else:
            self.now = self._continued(token_ids, sequences, course, past, mask)
        self._makes_cache = cache is None
        course.n_passes += 1
        course.batch = token_ids.shape[0]

    def _continued(
        self,
        token_ids: Int[Tensor, "batch pos"],
        sequences: Sequences | None,
        course: Course,
        past: int,
        mask: Any,
    ) -> Step:
        """The step of a pass that has a past: nearly always one of real tokens only."""
        lengths = sequences.prompt_lengths if sequences is not None else None
        if lengths is None and course.batch == token_ids.shape[0]:
            lengths = course.prompt_lengths
        from_place, behind = 0, past - course.prompt_width
        generated = behind if behind >= 0 else None
        is_told = sequences is not None and sequences.started_by is not None
        if is_told and mask is not None and lengths is not None and generated is not None:
            # What a generation has made is real, whatever its mask hides of the prompt.
            if course.shortest is None:
                course.shortest = int(lengths.min())  # waits for the device, once a generation
            from_place = course.shortest + generated
        elif mask is None or _is_known_all_real(mask):
            course.mask, from_place = None, past
            if course.shortest != course.prompt_width:
                generated = None
        if not from_place:
            return self._outer(token_ids, sequences, course, past, mask)
        rows, n_rows = self._rows_of(sequences, token_ids)
        return InnerStep(token_ids, rows, n_rows, course, past, from_place, generated, lengths)

    def _outer(
        self,
        token_ids: Int[Tensor, "batch pos"],
        sequences: Sequences | None,
        course: Course,
        past: int,
        mask: Any,
    ) -> Step:
        """The step of a pass that may hold a row's first token, or padding."""
        if _is_known_all_real(mask):
            mask = None
        if mask is not None and not (isinstance(mask, Tensor) and mask.ndim == 2):
            known = True if course.mask is None and course.n_passes else course.mask
            mask = over_tokens(mask, past, token_ids, known, self._is_windowed)
        if mask is None:
            positions, is_real = unpadded(token_ids, past)
        else:
            positions, is_real = padded(mask, past, token_ids.shape[1])
        lengths = course.prompt_lengths
        if sequences is not None or lengths is None:
            lengths = sequences.prompt_lengths if sequences is not None else None
            course.shortest = None if mask is not None or lengths is not None else course.shortest
            if lengths is None:
                lengths = in_prompt(mask, course.prompt_width, token_ids)
        course.prompt_lengths, course.mask = lengths, mask
        rows, n_rows = self._rows_of(sequences, token_ids)
        return Step(
            positions=positions,
            token_ids=token_ids,
            is_real=is_real,
            pass_index=course.n_passes,
            rows=rows,
            prompt_lengths=lengths,
            n_rows=n_rows,
            course=course,
        )

    def _course(
        self,
        sequences: Sequences | None,
        cache: Any,
        past: int,
        token_ids: Int[Tensor, "batch pos"],
    ) -> Course:
        """What this pass continues, or a new course. What lies in a cache that no pass of this
        `with` has filled, or whose batch has changed since, counts as prompt."""
        started = sequences.started_by if sequences is not None else None
        key = cache if started is None else started
        batch, width = token_ids.shape
        if key is not None and (past or started is not None):
            known = self._courses.get(key)
            is_whole = known is not None and known.n_passes > 0
            if known is not None and is_whole and (started is not None or known.batch == batch):
                return known
        prompt_width = sequences.prompt_width if sequences is not None else past or width
        course = Course(start=past, prompt_width=prompt_width, shortest=prompt_width)
        for holder in (started, cache):
            if holder is not None:
                self._courses[holder] = course
        return course

    def _end(self, out: Any) -> None:
        """Remember the cache that the pass itself has made."""
        made = getattr(out, "past_key_values", None)
        if made is not None and self.now is not None and self.now.course is not None:
            self._courses[made] = self.now.course

    def _rows_of(
        self, sequences: Sequences | None, token_ids: Int[Tensor, "batch pos"]
    ) -> tuple[Int[Tensor, " batch"], int]:
        """The caller's rows, and how many it has in all; the very tensor of the last pass where
        they are 0, 1, 2, ... again."""
        batch = token_ids.shape[0]
        n_rows = sequences.n_rows if sequences is not None and sequences.n_rows else batch
        if sequences is not None and sequences.rows is not None:
            return sequences.rows, n_rows
        known = self._counted
        if known is None or known.shape[0] != batch or known.device != token_ids.device:
            with torch.inference_mode(False):
                known = self._counted = torch.arange(batch, device=token_ids.device)
        return known, n_rows


def _is_known_all_real(mask: Any) -> bool:
    """Whether a mask over tokens hides none; False where that would wait for the device."""
    is_seen = isinstance(mask, Tensor) and mask.ndim == 2 and mask.is_cpu
    return is_seen and bool(mask.all())


def _token_ids(given: dict[str, Any]) -> Int[Tensor, "batch pos"]:
    ids, embedded = given.get("input_ids"), given.get("inputs_embeds")
    if ids is not None and (embedded is None or ids.shape == embedded.shape[:2]):
        known: Tensor = ids
        return known
    assert embedded is not None  # the model itself refuses a pass with neither
    return torch.full(embedded.shape[:2], -1, device=embedded.device)
