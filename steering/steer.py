"""The one door: steer a model for the length of a `with`, then give it back.

Everything is checked before anything is attached. How a text is cut into passes, padded or
expanded into beams changes nothing: `lm.tap` says where each token stands.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias, cast

import torch
from jaxtyping import Float
from torch import Tensor

from lm.hookpoint import HookPoint
from lm.model import LanguageModel
from lm.step import Step
from lm.tap import Edit, edited
from steering.edit import HookEdit
from steering.errors import CoefficientError, DirectionError, InterventionError
from steering.intervention import (
    Add,
    Cap,
    Floor,
    Intervention,
    change_of,
    reader_of,
    writer_of,
)
from steering.positions import require_reachable

Rows: TypeAlias = Sequence[Intervention] | Sequence[Sequence[Intervention]]
"""Edits for every row alike, or one list of edits for each row of the batch."""


@contextmanager
def steer(lm: LanguageModel, interventions: Rows, *, copies: int = 1) -> Iterator[None]:
    """Steer everything that `lm.model` computes inside the `with`.

    Args:
        lm: works with `lm.model.generate`, a plain forward pass and `lm.generate`.
        interventions: a flat list acts on every row; a list of lists gives row i its own.
        copies: beams, or returned sequences, into which `generate` expands each row.

    Raises:
        SteeringError: the edits do not fit the model or each other; nothing was attached.
    """
    with edited(lm, edits_for(lm, interventions, copies=copies)):
        yield


def edits_for(lm: LanguageModel, interventions: Rows, *, copies: int = 1) -> dict[HookPoint, Edit]:
    """The same edits as functions, one a hook point, for `lm.generate` and `token_losses`.

    Edits that change nothing, such as adding 0, are left out: the model then runs untouched.

    Raises:
        SteeringError: the edits do not fit the model or each other.
    """
    rows, is_per_row = _as_rows(interventions)
    if copies < 1:
        raise InterventionError(
            f"copies is {copies}; expected 1 or more; it counts beams or returned sequences"
        )
    _check_each(lm, rows)
    for row in rows:
        _check_together(row)
    points = {i.target.hook_point: None for row in rows for i in row}
    edits: dict[HookPoint, Edit] = {}
    for text in points:
        here = [
            [i for i in row if i.target.hook_point == text and not change_of(i).is_identity]
            for row in rows
        ]
        if any(here):
            edits[HookPoint.parse(text)] = HookEdit(
                here,
                is_per_row=is_per_row,
                copies=copies,
                special_ids=lm.special_ids,
                device=lm.device,
            )
    return edits


def apply(
    interventions: Sequence[Intervention], resid: Float[Tensor, "batch pos d_model"]
) -> Float[Tensor, "batch pos d_model"]:
    """The edited stream without a model: each row is a prompt's places 1, 2, ..., none special.

    Raises:
        InterventionError: the edits belong to several hook points or contradict each other.
    """
    _check_together(interventions)
    points = {i.target.hook_point for i in interventions}
    if len(points) > 1:
        raise InterventionError(
            f"edits at {sorted(points)}; expected one hook point, since this is one stream; "
            "apply them one hook point at a time"
        )
    if not any(not change_of(i).is_identity for i in interventions):
        return resid
    batch, pos = resid.shape[:2]
    place = torch.arange(1, pos + 1, device=resid.device).expand(batch, pos)
    step = Step(
        positions=place,
        token_ids=torch.zeros_like(place),
        is_real=torch.ones_like(place, dtype=torch.bool),
        pass_index=0,
        rows=torch.arange(batch, device=resid.device),
        prompt_lengths=torch.full((batch,), pos + 1, device=resid.device),
        n_rows=batch,
    )
    return HookEdit([interventions], is_per_row=False, device=resid.device)(resid, step)


def _as_rows(interventions: Rows) -> tuple[list[list[Intervention]], bool]:
    """One list for all, or the lists of the rows; and which of the two it is."""
    is_list = [isinstance(item, Sequence) for item in interventions]
    if any(is_list) and not all(is_list):
        raise InterventionError(
            f"{sum(is_list)} lists among {len(is_list)} items; expected edits for every row, or "
            "one list of edits for each row; put every row's edits in a list of its own"
        )
    if any(is_list):
        return [list(row) for row in cast(Sequence[Sequence[Intervention]], interventions)], True
    return [list(cast(Sequence[Intervention], interventions))], False


def _check_each(lm: LanguageModel, rows: Sequence[Sequence[Intervention]]) -> None:
    largest = torch.finfo(lm.dtype).max / 2
    seen: set[int] = set()
    for intervention in (i for row in rows for i in row):
        target = intervention.target
        change = change_of(intervention)
        require_reachable(intervention.positions, lm.special_ids)
        if abs(change.offset) > largest:
            raise CoefficientError(
                f"an edit of length {change.offset:.3g} at {target.hook_point}; expected less than "
                f"{largest:.3g}, what {lm.dtype} holds; lower the coefficient"
            )
        if id(target) in seen:
            continue
        seen.add(id(target))
        HookPoint.parse(target.hook_point).check(lm)
        if target.d_model != lm.d_model:
            raise DirectionError(
                f"a direction of {target.d_model} dimensions; {lm.name} has {lm.d_model}; "
                "take a direction that was made for this model"
            )


def _check_together(row: Sequence[Intervention]) -> None:
    """Refuse two edits that each replace one reading: their sum would do neither."""
    reading = [i for i in row if not isinstance(i, Add)]
    for number, first in enumerate(reading):
        for second in reading[number + 1 :]:
            if _is_same_reading(first, second) and not _is_band(first, second):
                kinds = f"{type(first).__name__} and {type(second).__name__}"
                raise InterventionError(
                    f"{kinds} of one target on the same tokens at {first.target.hook_point}; "
                    "expected one edit of a reading (or a Floor below a Cap), since changes are "
                    "summed; keep one, or nest one `steer` in the other to apply them in turn"
                )


def _is_same_reading(first: Intervention, second: Intervention) -> bool:
    one, other = first.target, second.target
    if one.hook_point != other.hook_point or first.positions != second.positions:
        return False
    if one is other:
        return True
    return one.d_model == other.d_model and all(
        torch.equal(mine, theirs)
        for mine, theirs in (
            (writer_of(one), writer_of(other)),
            (reader_of(one)[0], reader_of(other)[0]),
        )
    )


def _is_band(first: Intervention, second: Intervention) -> bool:
    low, high = (first, second) if isinstance(first, Floor) else (second, first)
    if not (isinstance(low, Floor) and isinstance(high, Cap)):
        return False
    return change_of(low).offset <= change_of(high).offset
