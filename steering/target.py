"""What an edit reads and writes: a direction of the stream, or one latent of an autoencoder.

For a `Direction` u the reading is <h, u>. For a `Latent` it is the latent's activation, in the
stream's units, whatever kind of autoencoder it belongs to.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from lm.hookpoint import HookPoint
from lm.model import LanguageModel
from sae.model import SparseAutoencoder
from steering.direction import Direction, Fact
from steering.errors import DirectionError


@dataclass(frozen=True, eq=False)
class FullEncode:
    """The whole autoencoder, for a latent that cannot be read without all the others."""

    sae: SparseAutoencoder
    feature_id: int
    scale: float
    """Length of its decoder row: what turns the autoencoder's activation into a length."""


@dataclass(frozen=True, eq=False)
class Latent:
    """One latent of a sparse autoencoder: reads z = <h, reader> + bias where z > threshold, else 0.

    For the TopK family, whose activations depend on the other latents, the threshold is the
    calibrated one and stands in for the competition; for JumpReLU it is the latent's own. With
    `full` the whole autoencoder is encoded instead, at its cost, and the competition is its own.
    """

    reader: Float[Tensor, " d_model"]
    bias: float
    threshold: float
    writer: Float[Tensor, " d_model"]
    """Decoder row, length 1, so that activations are lengths in the stream."""
    hook_point: str
    max_act: float | None = None
    mean_norm: float | None = None
    source: str = "latent"
    full: FullEncode | None = None
    concept: str | None = None
    provenance: Mapping[str, Fact] = field(default_factory=dict)
    model_sha: str | None = None
    """sha256 of the weights of the model that its autoencoder reads; None where not known."""

    def __post_init__(self) -> None:
        HookPoint.parse(self.hook_point)
        Direction(self.writer, self.hook_point, mean_norm=self.mean_norm, max_act=self.max_act)
        finite = bool(torch.isfinite(self.reader).all()) and math.isfinite(self.bias)
        if not finite or self.reader.shape != self.writer.shape or math.isnan(self.threshold):
            raise DirectionError(
                f"a latent that reads {tuple(self.reader.shape)} and writes "
                f"{tuple(self.writer.shape)} or holds NaN; expected finite columns of one width; "
                "check the autoencoder's file"
            )

    def for_model(self, lm: LanguageModel) -> Latent:
        """The same latent, said to belong to this model; its scales stay as they are."""
        return replace(self, model_sha=lm.weights_sha())

    @property
    def d_model(self) -> int:
        """Width of the stream that it belongs to."""
        return int(self.writer.shape[0])


Target: TypeAlias = Direction | Latent


def writer_of(target: Target) -> Float[Tensor, " d_model"]:
    """The vector that an edit of this target writes."""
    return target.vector if isinstance(target, Direction) else target.writer


def reader_of(target: Target) -> tuple[Float[Tensor, " d_model"], float, float]:
    """The vector, bias and threshold with which a target reads the stream."""
    if isinstance(target, Direction):
        return target.vector, 0.0, -math.inf
    return target.reader, target.bias, target.threshold


def full_encode_of(target: Target) -> FullEncode | None:
    """The autoencoder that must be encoded whole to read the target, where it must."""
    return target.full if isinstance(target, Latent) else None


def reads_alike(one: Target, other: Target) -> bool:
    """Whether two targets are the same reading written along the same vector."""
    if one is other:
        return True
    if one.hook_point != other.hook_point or one.d_model != other.d_model:
        return False
    return torch.equal(writer_of(one), writer_of(other)) and torch.equal(
        reader_of(one)[0], reader_of(other)[0]
    )
