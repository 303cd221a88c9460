"""What is refused before anything is attached: edits that do not fit the model or each other."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lm.hookpoint import HookPoint
from lm.model import LanguageModel
from steering.change import slots_of
from steering.errors import CoefficientError, DirectionError, GateError, InterventionError
from steering.gate import Gate, exclude, leaves
from steering.intervention import (
    Add,
    Cap,
    Floor,
    Intervention,
    KeepNorm,
    place_of,
    targets_of,
)
from steering.positions import may_overlap, require_reachable
from steering.target import Target, reads_alike


def require_fit(lm: LanguageModel, rows: Sequence[Sequence[Intervention]]) -> None:
    """Raises SteeringError unless each edit by itself can act on this model."""
    seen: set[int] = set()
    of_this_model: set[str | None] = {None}
    for intervention in (i for row in rows for i in row):
        require_reachable(intervention.positions, lm.special_ids)
        _check_size(lm, intervention)
        if intervention.when is not None:
            _check_gate(intervention.when, place_of(intervention))
        HookPoint.parse(place_of(intervention)).check(lm)
        for target in targets_of(intervention):
            if id(target) in seen:
                continue
            seen.add(id(target))
            HookPoint.parse(target.hook_point).check(lm)
            if target.d_model != lm.d_model:
                raise DirectionError(
                    f"a direction of {target.d_model} dimensions; {lm.name} has {lm.d_model}; "
                    "take a direction that was made for this model"
                )
            if target.model_sha not in of_this_model:
                _check_model(lm, target)
                of_this_model.add(target.model_sha)


def _check_model(lm: LanguageModel, target: Target) -> None:
    """Refuse what was made on other weights; the model is hashed only where there is a hash."""
    sha = target.model_sha
    if sha is not None and not lm.has_weights(sha):
        raise DirectionError(
            f"{target.source} at {target.hook_point} was made on weights {sha[:12]}; expected "
            f"those of {lm.name}, {lm.weights_sha()[:12]}; make it on this model, or, to try it "
            "here all the same (it is another's, or this one's in a wider type), give "
            "target.for_model(lm)"
        )


def _check_size(lm: LanguageModel, intervention: Intervention) -> None:
    largest = torch.finfo(lm.dtype).max / 2
    if isinstance(intervention, KeepNorm):
        return
    for slot in slots_of(intervention):
        offset, slope = slot.change.offset, slot.change.slope
        usual = slot.reads.max_act or slot.reads.mean_norm or 1.0
        length = max(abs(offset), abs(slope) * usual)
        if length > largest:
            raise CoefficientError(
                f"an edit of length {length:.3g} at {place_of(intervention)}; expected "
                f"less than {largest:.3g}, what {lm.dtype} holds; lower the coefficient"
            )


def _check_gate(gate: Gate, place: str) -> None:
    """Refuse a gate that would be asked before what it looks at has been computed."""
    for leaf in leaves(gate):
        _ = leaf.least
        if HookPoint.parse(leaf.target.hook_point).depth > HookPoint.parse(place).depth:
            raise GateError(
                f"a gate on {leaf.target.source} at {leaf.target.hook_point} for an edit at "
                f"{place}; expected a gate at the edit's hook point or an earlier one, since the "
                "later is not computed yet; gate by a feature of that layer or one before it"
            )


def require_together(row: Sequence[Intervention]) -> None:
    """Refuse two edits that each replace one reading: their sum would do neither.

    Raises:
        InterventionError: two edits of the row contradict each other.
    """
    reading = [i for i in row if not isinstance(i, Add | KeepNorm)]
    for number, first in enumerate(reading):
        for second in reading[number + 1 :]:
            if _contradict(first, second):
                kinds = f"{type(first).__name__} and {type(second).__name__}"
                raise InterventionError(
                    f"{kinds} of one target, maybe on the same tokens, at {place_of(first)}; "
                    "expected one edit of a reading (or a Floor below a Cap), since changes are "
                    "summed; keep one, or nest one `steer` in the other to apply them in turn"
                )
    kept = [i.hook_point for i in row if isinstance(i, KeepNorm)]
    if twice := {place for place in kept if kept.count(place) > 1}:
        raise InterventionError(
            f"two KeepNorm at {sorted(twice)[0]}; expected one a hook point; keep one"
        )


def _contradict(first: Intervention, second: Intervention) -> bool:
    assert not isinstance(first, KeepNorm)
    assert not isinstance(second, KeepNorm)
    if not reads_alike(first.target, second.target):
        return False
    if not may_overlap(first.positions, second.positions) or exclude(first.when, second.when):
        return False
    return not _is_band(first, second)


def _is_band(first: Intervention, second: Intervention) -> bool:
    low, high = (first, second) if isinstance(first, Floor) else (second, first)
    if not (isinstance(low, Floor) and isinstance(high, Cap)):
        return False
    least, most = (slot.change.offset for edit in (low, high) for slot in slots_of(edit))
    return least <= most
