"""Directions and latents as tensors with their facts beside them, and back to the bit.

A direction called sea is the tensor `sea.vector`. A latent is `sea.reader` and `sea.writer`
(encoder column and decoder row, in the stream's units) with `sea.bias` and `sea.threshold` as
float64 scalars. A latent that is read by encoding all the others names its whole autoencoder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Literal, TypeAlias

import torch
from pydantic import BaseModel, Field, JsonValue
from torch import Tensor

from sae.model import SparseAutoencoder
from steering.direction import Direction, Fact
from steering.target import FullEncode, Latent, Target


class _Facts(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False, strict=True):
    """What every target says of itself, and no tensor holds."""

    hook_point: str
    mean_norm: float | None
    max_act: float | None
    source: str
    concept: str | None
    provenance: dict[str, str | int | float | bool | None]
    model_sha: str | None


class DirectionFacts(_Facts, frozen=True):
    """All of a direction but its vector."""

    kind: Literal["Direction"] = "Direction"
    norm: float
    positive_mean: float | None
    negative_mean: float | None
    sigma: float | None


class WholeFacts(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False, strict=True):
    """The autoencoder that has to be encoded whole, and which of its latents is meant."""

    autoencoder: str
    feature_id: int
    scale: float


class LatentFacts(_Facts, frozen=True):
    """All of a latent but its columns and numbers."""

    kind: Literal["Latent"] = "Latent"
    whole: WholeFacts | None = None


TargetFacts: TypeAlias = Annotated[DirectionFacts | LatentFacts, Field(discriminator="kind")]


def facts_of(target: Target, name_of: Callable[[SparseAutoencoder], str]) -> TargetFacts:
    """Everything that is not a tensor; `name_of` names an autoencoder."""
    shared: dict[str, JsonValue] = {
        "hook_point": target.hook_point,
        "mean_norm": target.mean_norm,
        "max_act": target.max_act,
        "source": target.source,
        "concept": target.concept,
        "provenance": dict(target.provenance),
        "model_sha": target.model_sha,
    }
    if isinstance(target, Direction):
        numbers = ("norm", "positive_mean", "negative_mean", "sigma")
        return DirectionFacts.model_validate(shared | {n: getattr(target, n) for n in numbers})
    if target.full is None:
        return LatentFacts.model_validate(shared)
    whole: dict[str, JsonValue] = {
        "autoencoder": name_of(target.full.sae),
        "feature_id": target.full.feature_id,
        "scale": target.full.scale,
    }
    return LatentFacts.model_validate(shared | {"whole": whole})


def tensors_of(name: str, target: Target) -> dict[str, Tensor]:
    """A target's tensors by their keys, on the CPU, sharing no memory."""
    if isinstance(target, Direction):
        return {f"{name}.vector": _own(target.vector)}
    return {
        f"{name}.reader": _own(target.reader),
        f"{name}.writer": _own(target.writer),
        f"{name}.bias": torch.tensor(target.bias, dtype=torch.float64),
        f"{name}.threshold": torch.tensor(target.threshold, dtype=torch.float64),
    }


def shapes_of(name: str, facts: TargetFacts, d_model: int) -> dict[str, list[int]]:
    """The keys that a target's tensors must have, and their shapes."""
    if isinstance(facts, DirectionFacts):
        return {f"{name}.vector": [d_model]}
    return {
        f"{name}.reader": [d_model],
        f"{name}.writer": [d_model],
        f"{name}.bias": [],
        f"{name}.threshold": [],
    }


def target_of(
    name: str,
    facts: TargetFacts,
    tensors: Mapping[str, Tensor],
    autoencoders: Mapping[str, SparseAutoencoder],
) -> Target:
    """The target.

    Raises:
        DirectionError: a vector is not finite or of another length than 1.
        ValueError: it is of an autoencoder, or of a latent of it, that is not there.
    """
    provenance: dict[str, Fact] = dict(facts.provenance)
    shared = facts.model_dump(exclude={"kind", "whole", "provenance"})
    if isinstance(facts, DirectionFacts):
        return Direction(vector=tensors[f"{name}.vector"], provenance=provenance, **shared)
    return Latent(
        reader=tensors[f"{name}.reader"],
        bias=float(tensors[f"{name}.bias"]),
        threshold=float(tensors[f"{name}.threshold"]),
        writer=tensors[f"{name}.writer"],
        full=None if facts.whole is None else _full(facts.whole, autoencoders),
        provenance=provenance,
        **shared,
    )


def _full(whole: WholeFacts, autoencoders: Mapping[str, SparseAutoencoder]) -> FullEncode:
    sae = autoencoders.get(whole.autoencoder)
    if sae is None or not 0 <= whole.feature_id < sae.d_sae:
        raise ValueError(f"there is no latent {whole.feature_id} of {whole.autoencoder!r} in it")
    return FullEncode(sae, whole.feature_id, whole.scale)


def _own(vector: Tensor) -> Tensor:
    return vector.detach().cpu().contiguous().clone()
