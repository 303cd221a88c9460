"""Three sparse sums, in two ways that give the same numbers.

`Bags` is the fast path: torch's embedding bags for both weighted sums, MKL's sampled product for
the dots. `Gathers` needs neither and serves where MKL is absent; it is also the simpler text.
"""

import warnings
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sae.picks import ByLatent, Picks

_GATHER_PICKS = 8192


@dataclass(frozen=True, slots=True)
class Bags:
    """Embedding bags and MKL's sampled product; float32 and float64."""

    def decode(
        self, picks: Picks, table: Float[Tensor, "latent d_model"]
    ) -> Float[Tensor, "row d_model"]:
        """For each row, the sum of its latents' table rows weighted by the picks' values."""
        return _bag(picks.latent, picks.offsets(), picks.value, table)

    def collect(
        self,
        by_latent: ByLatent,
        weight: Float[Tensor, " pick"],
        table: Float[Tensor, "row d_model"],
    ) -> Float[Tensor, "latent d_model"]:
        """For each latent, the sum of its rows' table rows weighted by `weight`."""
        return _bag(by_latent.row, by_latent.offsets, weight[by_latent.order], table)

    def dots(
        self,
        picks: Picks,
        left: Float[Tensor, "row d_model"],
        right: Float[Tensor, "latent d_model"],
    ) -> Float[Tensor, " pick"]:
        """For each pick, the dot product of its row of `left` and its latent's row of `right`."""
        if picks.value.numel() == 0:
            return torch.zeros_like(picks.value)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
            pattern = torch.sparse_csr_tensor(
                picks.offsets(),
                picks.latent,
                torch.zeros_like(picks.value),
                (picks.n_rows, picks.n_latents),
                check_invariants=False,
            )
        product: Tensor = torch.sparse.sampled_addmm(pattern, left, right.t(), beta=0.0)
        return product.values()


@dataclass(frozen=True, slots=True)
class Gathers:
    """Index, multiply, add: any dtype, any build of torch, any device."""

    def decode(
        self, picks: Picks, table: Float[Tensor, "latent d_model"]
    ) -> Float[Tensor, "row d_model"]:
        """For each row, the sum of its latents' table rows weighted by the picks' values."""
        return _scattered(picks.row, picks.latent, picks.value, table, picks.n_rows)

    def collect(
        self,
        by_latent: ByLatent,
        weight: Float[Tensor, " pick"],
        table: Float[Tensor, "row d_model"],
    ) -> Float[Tensor, "latent d_model"]:
        """For each latent, the sum of its rows' table rows weighted by `weight`."""
        n_latents = by_latent.offsets.numel() - 1
        latent = torch.repeat_interleave(by_latent.offsets.diff())
        return _scattered(latent, by_latent.row, weight[by_latent.order], table, n_latents)

    def dots(
        self,
        picks: Picks,
        left: Float[Tensor, "row d_model"],
        right: Float[Tensor, "latent d_model"],
    ) -> Float[Tensor, " pick"]:
        """For each pick, the dot product of its row of `left` and its latent's row of `right`."""
        out = torch.zeros_like(picks.value)
        for start in range(0, out.numel(), _GATHER_PICKS):
            part = slice(start, start + _GATHER_PICKS)
            out[part] = (left[picks.row[part]] * right[picks.latent[part]]).sum(1)
        return out


Kernels = Bags | Gathers


def kernels_for(weights: Tensor) -> Kernels:
    """The fastest kernels that this build of torch has for such weights."""
    fast = weights.dtype in (torch.float32, torch.float64)
    if fast and weights.device.type == "cpu" and torch.backends.mkl.is_available():  # type: ignore[no-untyped-call]
        return Bags()
    return Gathers()


def _bag(
    index: Tensor, offsets: Tensor, weight: Tensor, table: Float[Tensor, "entry d_model"]
) -> Float[Tensor, "bag d_model"]:
    return F.embedding_bag(
        index, table, offsets, mode="sum", per_sample_weights=weight, include_last_offset=True
    )


def _scattered(
    target: Tensor, source: Tensor, weight: Tensor, table: Tensor, n_targets: int
) -> Float[Tensor, "target d_model"]:
    out = table.new_zeros(n_targets, table.shape[1])
    for start in range(0, weight.numel(), _GATHER_PICKS):
        part = slice(start, start + _GATHER_PICKS)
        out.index_add_(0, target[part], table[source[part]] * weight[part].unsqueeze(1))
    return out
