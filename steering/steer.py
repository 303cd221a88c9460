"""The one door: steer a model for the length of a `with`, then give it back.

Everything is checked before anything is attached. How a text is cut into passes, padded or
expanded into beams changes nothing: `lm.tap` says where each token stands.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias, cast

import torch
from jaxtyping import Float
from torch import Tensor

from lm.hookpoint import HookPoint
from lm.model import LanguageModel
from lm.step import Step
from lm.tap import Edit, edited
from steering.batch import refused_early
from steering.change import changes_nothing
from steering.edit import HookEdit
from steering.errors import InterventionError
from steering.fit import require_fit, require_together
from steering.gate import Above, leaves
from steering.intervention import Intervention, KeepNorm, place_of, targets_of
from steering.unmoved import require_as_opened, while_unmoved
from steering.watch import Watch

Rows: TypeAlias = Iterable[Intervention] | Iterable[Sequence[Intervention]]
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
    require_as_opened(lm)
    require_fit(lm, rows)
    for row in rows:
        require_together(row)
    acting = [_acting(row) for row in rows]
    watches = _watches(lm, acting)
    edits: dict[HookPoint, Edit] = dict(watches)
    for point in {HookPoint.parse(place_of(i)): None for row in acting for i in row}:
        edit = HookEdit(
            [[i for i in row if place_of(i) == str(point)] for row in acting],
            is_per_row=is_per_row,
            copies=copies,
            special_ids=lm.special_ids,
            device=lm.device,
            watches=watches,
        )
        edits[point] = _in_turn(watches[point], edit) if point in watches else edit
    if edits:
        first = min(edits, key=lambda point: point.depth)
        edits[first] = while_unmoved(lm, edits[first], first.layer)
    return refused_early(edits, len(rows), copies) if edits and is_per_row else edits


def _acting(row: Sequence[Intervention]) -> list[Intervention]:
    """The edits that may change something; a norm is kept only where something else acts."""
    moving = [i for i in row if not changes_nothing(i)]
    places = {place_of(i) for i in moving}
    norms = [i for i in row if isinstance(i, KeepNorm) and i.hook_point in places]
    return [*moving, *norms]


def _watches(lm: LanguageModel, rows: Sequence[Sequence[Intervention]]) -> dict[HookPoint, Watch]:
    """What the gates look at, by hook point."""
    seen: dict[HookPoint, dict[int, Above]] = {}
    for gate in (i.when for row in rows for i in row if i.when is not None):
        for leaf in leaves(gate):
            seen.setdefault(HookPoint.parse(leaf.target.hook_point), {})[id(leaf)] = leaf
    return {
        point: Watch(list(found.values()), lm.special_ids, lm.device)
        for point, found in seen.items()
    }


def _in_turn(watch: Watch, edit: HookEdit) -> Edit:
    def both(
        resid: Float[Tensor, "batch pos d_model"], step: Step
    ) -> Float[Tensor, "batch pos d_model"]:
        return edit(watch(resid, step), step)

    return both


def apply(
    interventions: Sequence[Intervention], resid: Float[Tensor, "batch pos d_model"]
) -> Float[Tensor, "batch pos d_model"]:
    """The edited stream without a model: each row is a prompt's places 1, 2, ..., none special.

    Raises:
        InterventionError: the edits belong to several hook points or contradict each other.
    """
    require_together(interventions)
    points = {target.hook_point for i in interventions for target in targets_of(i)}
    points |= {place_of(i) for i in interventions}
    if len(points) > 1:
        raise InterventionError(
            f"edits at {sorted(points)}; expected one hook point, since this is one stream; "
            "apply them one hook point at a time"
        )
    acting = _acting(interventions)
    if not acting:
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
    found = {id(leaf): leaf for i in acting if i.when is not None for leaf in leaves(i.when)}
    watches: dict[HookPoint, Watch] = {}
    if found:
        watch = Watch(list(found.values()), device=resid.device)
        watches[HookPoint.parse(points.pop())] = watch
        watch(resid, step)
    return HookEdit([acting], is_per_row=False, device=resid.device, watches=watches)(resid, step)


def _as_rows(interventions: Rows) -> tuple[list[list[Intervention]], bool]:
    """One list for all, or the lists of the rows; and which of the two it is."""
    given = list(interventions)
    is_list = [isinstance(item, Sequence) for item in given]
    if any(is_list) and not all(is_list):
        raise InterventionError(
            f"{sum(is_list)} lists among {len(is_list)} items; expected edits for every row, or "
            "one list of edits for each row; put every row's edits in a list of its own"
        )
    if any(is_list):
        return [list(row) for row in cast(list[Sequence[Intervention]], given)], True
    return [cast(list[Intervention], given)], False
