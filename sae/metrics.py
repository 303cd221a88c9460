"""What an autoencoder keeps: of the stream's variance, and of the model's predictions.

This file knows no language model: whoever has one passes `loss`, which runs it with the stream
replaced and says what the predictions then cost.
"""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sae.errors import MetricError
from sae.kernels import kernels_for
from sae.model import SparseAutoencoder

Replacement = Callable[[Float[Tensor, "token d_model"]], Float[Tensor, "token d_model"]]
"""What the stream becomes at the tokens that are replaced."""


@torch.no_grad()
def explained_variance(
    resid: Float[Tensor, "token d_model"], recon: Float[Tensor, "token d_model"]
) -> float:
    """Share of the residual stream's variance that the reconstruction keeps.

    1 - sum |x - x_hat|^2 / sum |x - mean x|^2, dimensionless; 1 is perfect, 0 is no better than
    the mean, and below 0 is possible.

    Raises:
        MetricError: all tokens are equal, so there is no variance to explain.
    """
    figures = Reconstruction(resid.shape[1], 1)
    figures.add(resid, recon, np.zeros(0, dtype=np.int64))
    return figures.explained_variance()


class Reconstruction:
    """Running sums over batches of tokens, the variance's in float64 about a guess of the mean.

    The variance is a small difference of large numbers where the mean is large, as it is in late
    layers; shifting by the first batch's mean keeps its digits.
    """

    def __init__(self, d_model: int, d_sae: int) -> None:
        self.n_tokens, self.n_acts, self.squared_error, self.squared = 0, 0, 0.0, 0.0
        self.total = torch.zeros(d_model, dtype=torch.float64)
        self.shift: Tensor | None = None
        self.fired = np.zeros(d_sae, dtype=np.int64)

    def add(
        self,
        resid: Float[Tensor, "token d_model"],
        recon: Float[Tensor, "token d_model"],
        fired: np.ndarray,
    ) -> None:
        """Count tokens, their reconstructions and the latents that fired on them."""
        exact = resid.double().cpu()
        if self.shift is None:
            self.shift = exact.mean(0)
        exact = exact - self.shift
        self.n_tokens += resid.shape[0]
        self.n_acts += len(fired)
        self.squared_error += float((resid.double() - recon.double()).square().sum())
        self.squared += float(exact.square().sum())
        self.total += exact.sum(0)
        self.fired += np.bincount(fired, minlength=len(self.fired))

    def explained_variance(self) -> float:
        """As the function of that name, over all tokens so far."""
        if self.n_tokens < 2:
            raise MetricError(
                f"{self.n_tokens} tokens; explained variance needs at least two; give more tokens"
            )
        variance = self.squared - float(self.total.square().sum()) / self.n_tokens
        if variance <= 1e-12 * max(self.squared, 1e-300):
            raise MetricError(
                f"all {self.n_tokens} tokens are equal; expected some variance to explain; "
                "give other tokens"
            )
        return 1.0 - self.squared_error / variance

    def figures(self) -> dict[str, float | int]:
        """L0, explained variance, squared error a token, dead latents and the median density.

        `dead` is the share of latents that fired on none of the tokens.
        """
        density = self.fired / max(self.n_tokens, 1)
        return {
            "n_tokens": self.n_tokens,
            "l0": self.n_acts / max(self.n_tokens, 1),
            "explained_variance": self.explained_variance(),
            "squared_error": self.squared_error / max(self.n_tokens, 1),
            "n_dead": int((self.fired == 0).sum()),
            "dead": float((self.fired == 0).mean()),
            "density_median": float(np.median(density)),
            "density_max": float(density.max()),
            "dense": float((density > 0.1).mean()),
        }


@torch.no_grad()
def reconstruction(sae: SparseAutoencoder, batches: Iterable[np.ndarray]) -> dict[str, float | int]:
    """`Reconstruction.figures` of an autoencoder over batches `[token, d_model]`.

    Raises:
        MetricError: fewer than two tokens, or no variance.
    """
    sums, kernels = Reconstruction(sae.d_model, sae.d_sae), kernels_for(sae.W_dec)
    for batch in batches:
        resid = torch.as_tensor(batch).to(sae.W_dec.dtype)
        picks = sae.picks(resid)
        sums.add(resid, kernels.decode(picks, sae.W_dec) + sae.b_dec, picks.latent.numpy())
    return sums.figures()


def ce_recovered(
    loss: Callable[[Replacement | None], float],
    sae: SparseAutoencoder,
    mean: Float[Tensor, " d_model"],
) -> dict[str, float]:
    """Share of the model's predictions that survive the reconstruction, in nats a token.

    (CE_ablated - CE_sae) / (CE_ablated - CE_clean), against the stream's mean and against zero;
    1 is perfect, 0 is no better than the ablation.

    Args:
        loss: mean cross entropy in nats with the stream replaced (None: as it is) at every token
            that is not special.
        mean: the stream's mean over such tokens.

    Raises:
        MetricError: an ablation costs nothing, so there is nothing to recover.
    """
    clean = loss(None)
    with_sae = loss(sae.forward)
    ablated = {
        "mean": loss(lambda resid: mean.to(resid).expand_as(resid)),
        "zero": loss(torch.zeros_like),
    }
    figures = {"ce_clean": clean, "ce_sae": with_sae}
    for name, value in ablated.items():
        if value <= clean:
            raise MetricError(
                f"{name} ablation costs {value:.4f} nats, the clean model {clean:.4f}; expected "
                "ablation to cost more; measure on text that the model predicts better than that"
            )
        figures[f"ce_{name}"] = value
        figures[f"ce_recovered_{name}"] = (value - with_sae) / (value - clean)
    return figures
