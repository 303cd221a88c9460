"""Whole autoencoders among an export's tensors, for latents that cannot be read alone.

They are kept as they are used, to the bit: `sae-1.W_enc`, `sae-1.W_dec` and so on, in the type
and at the row lengths that they had. What else their files told of them stays behind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import get_args

from pydantic import BaseModel, Field, TypeAdapter
from torch import Tensor

from sae.model import SparseAutoencoder
from sae.sparsity import Sparsity

MOST_LATENTS = 2**21
_KINDS: dict[str, type[Sparsity]] = {kind.__name__: kind for kind in get_args(Sparsity)}


class AutoencoderFacts(BaseModel, frozen=True, extra="forbid", strict=True, allow_inf_nan=False):
    """All of an autoencoder but its weights."""

    hook_point: str
    d_sae: int = Field(gt=0, le=MOST_LATENTS)
    has_threshold: bool
    sparsity: str
    """Class of `sae.sparsity`."""
    settings: dict[str, bool | int | float]
    """Its fields."""

    def tensors_of(self, name: str, d_model: int) -> dict[str, list[int]]:
        """The keys that its tensors must have, and their shapes."""
        shapes = {
            "W_enc": [d_model, self.d_sae],
            "W_dec": [self.d_sae, d_model],
            "b_enc": [self.d_sae],
            "b_dec": [d_model],
        }
        if self.has_threshold:
            shapes["threshold"] = [self.d_sae]
        return {f"{name}.{key}": shape for key, shape in shapes.items()}

    def autoencoder(self, name: str, tensors: Mapping[str, Tensor]) -> SparseAutoencoder:
        """The autoencoder made of those tensors.

        Raises:
            ValueError: there is no such sparsity, or it has no such settings.
            SaeError: its settings cannot be.
        """
        if self.sparsity not in _KINDS:
            raise ValueError(f"the sparsity of {name} is {self.sparsity!r}")
        sparsity: Sparsity = TypeAdapter(_KINDS[self.sparsity]).validate_python(
            self.settings, strict=False
        )
        return SparseAutoencoder(
            W_enc=tensors[f"{name}.W_enc"],
            W_dec=tensors[f"{name}.W_dec"],
            b_enc=tensors[f"{name}.b_enc"],
            b_dec=tensors[f"{name}.b_dec"],
            sparsity=sparsity,
            threshold=tensors[f"{name}.threshold"] if self.has_threshold else None,
            hook_point=self.hook_point,
        )


def autoencoder_facts(sae: SparseAutoencoder) -> AutoencoderFacts:
    """What an autoencoder says of itself, and no tensor holds."""
    return AutoencoderFacts(
        hook_point=sae.hook_point,
        d_sae=sae.d_sae,
        has_threshold=sae.threshold is not None,
        sparsity=type(sae.sparsity).__name__,
        settings=asdict(sae.sparsity),
    )


def autoencoder_tensors(name: str, sae: SparseAutoencoder) -> dict[str, Tensor]:
    """Its weights by their keys, on the CPU, sharing no memory."""
    held = {key: getattr(sae, key) for key in ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")}
    return {
        f"{name}.{key}": tensor.detach().cpu().contiguous().clone()
        for key, tensor in held.items()
        if tensor is not None
    }
