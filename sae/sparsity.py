"""Which latents survive: four small values, closed by `assert_never` wherever they are read.

They say how pre-activations become activations and hold no tensors; thresholds that differ
from latent to latent live beside the weights, in `SparseAutoencoder.threshold`.
"""

from dataclasses import dataclass

from sae.errors import SaeShapeError


@dataclass(frozen=True, slots=True)
class ReLU:
    """Every positive pre-activation survives."""


@dataclass(frozen=True, slots=True)
class TopK:
    """The `k` largest positive pre-activations of each token survive.

    Source: Gao et al. 2024, "Scaling and evaluating sparse autoencoders".
    """

    k: int

    def __post_init__(self) -> None:
        _check_k(self.k)


@dataclass(frozen=True, slots=True)
class BatchTopK:
    """Trained to keep `k` a token on average over a batch; afterwards whatever exceeds `threshold`.

    `threshold` is in the stream's units, one for all latents, calibrated on held-out tokens.

    Source: Bussmann et al. 2024, "BatchTopK sparse autoencoders".
    """

    k: int
    threshold: float = 0.0

    def __post_init__(self) -> None:
        _check_k(self.k)


@dataclass(frozen=True, slots=True)
class JumpReLU:
    """A pre-activation survives above its latent's own threshold.

    Source: Rajamanoharan et al. 2024, "Jumping ahead".
    """


Sparsity = ReLU | TopK | BatchTopK | JumpReLU


def _check_k(k: int) -> None:
    if k < 1:
        raise SaeShapeError(f"k is {k}; expected at least 1 latent a token; raise k")
