"""actadd: one pair of texts, a vector a place, c (h_i(p+) - h_i(p-)) for i < S.

The vectors are added to the first S places of the prompt, in the pass that reads it; generated
tokens are never edited. Where both texts begin with the same special token, place 0 cancels
exactly and has no vector. The shorter text is padded with spaces at its end, as its authors do.

Source: Turner et al. 2023, "Activation Addition: Steering Language Models Without Optimization".
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lm.hookpoint import HookPoint
from lm.model import LanguageModel
from lm.tap import read_until
from steering.direction import Direction, Unit
from steering.errors import DirectionError
from steering.intervention import Add
from steering.positions import Places
from steering.sources.reading import mean_norm_of

PADDING = " "


def actadd(
    lm: LanguageModel,
    positive: str,
    negative: str,
    hook_point: str,
    *,
    mean_norm: float | None = None,
    concept: str | None = None,
) -> tuple[Direction, ...]:
    """The directions of a pair, one for each place at which the two texts' streams differ.

    Raises:
        DirectionError: the texts' streams differ nowhere.
    """
    ids = _aligned(lm, positive, negative)
    stream = _read(lm, ids, hook_point)
    difference = stream[0] - stream[1]
    norms = difference.norm(dim=1)
    # Equal prefixes differ by rounding alone, since the two texts are rows of one batch.
    places = [place for place, norm in enumerate(norms.tolist()) if norm > 1e-5]
    if not places:
        raise DirectionError(
            f"{positive!r} and {negative!r} give the same stream at {hook_point}; expected two "
            "texts that differ; change one of them"
        )
    if mean_norm is None:
        mean_norm = mean_norm_of(stream[:, 1:].flatten(0, 1))
    return tuple(
        Direction.from_vector(
            difference[place],
            hook_point,
            mean_norm=mean_norm,
            source="actadd",
            concept=concept,
            provenance={"place": place, "positive": positive, "negative": negative},
            model_sha=lm.weights_sha(),
        )
        for place in places
    )


def edits(directions: Sequence[Direction], coefficient: float, unit: Unit = "norm") -> list[Add]:
    """The edits that add a pair's directions, each at its own place of the prompt.

    In unit `raw` the coefficient multiplies the differences themselves. In unit `norm` one factor
    for all places makes their mean length that many times the stream's mean norm.

    Raises:
        CoefficientError: the unit's scale is not known.
    """
    mean_length = sum(direction.norm for direction in directions) / max(len(directions), 1)
    return [
        Add(
            direction,
            coefficient * direction.norm
            if unit == "raw"
            else direction.length(coefficient, unit) * direction.norm / mean_length,
            "raw",
            positions=Places((_place(direction),), prompt_only=True, include_special=True),
        )
        for direction in directions
    ]


def _place(direction: Direction) -> int:
    place = direction.provenance.get("place")
    if not isinstance(place, int):
        raise DirectionError(
            f"a direction of source {direction.source!r} that names no place; expected the "
            "directions that `actadd` gave; use Add for others"
        )
    return place


def _aligned(lm: LanguageModel, positive: str, negative: str) -> list[list[int]]:
    """Both texts' ids, the shorter one filled up with spaces at its end."""
    ids = [lm.encode(positive), lm.encode(negative)]
    space = [token for token in lm.encode(PADDING) if token not in lm.special_ids]
    longest = max(map(len, ids))
    return [row + (space * longest)[: longest - len(row)] for row in ids]


@torch.no_grad()
def _read(
    lm: LanguageModel, ids: Sequence[Sequence[int]], hook_point: str
) -> Float[Tensor, "text place d_model"]:
    point = HookPoint.parse(hook_point)
    stream = read_until(lm, [point], torch.tensor(ids, device=lm.device))
    return stream[point].float().cpu()
