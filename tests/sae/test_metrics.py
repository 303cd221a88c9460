from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sae.errors import MetricError
from sae.metrics import Replacement, ce_recovered, explained_variance, reconstruction
from sae.model import SparseAutoencoder
from sae.sparsity import ReLU


def test_a_perfect_reconstruction_explains_everything_and_the_mean_nothing() -> None:
    resid = torch.randn(100, 6, generator=torch.Generator().manual_seed(0))
    assert explained_variance(resid, resid) == 1.0
    mean = resid.mean(0).expand_as(resid)
    assert explained_variance(resid, mean) == pytest.approx(0.0, abs=1e-6)


@given(seed=st.integers(0, 100), offset=st.sampled_from([0.0, 1e3, 1e5]))
def test_an_offset_does_not_change_explained_variance(seed: int, offset: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    resid = torch.randn(50, 6, generator=generator, dtype=torch.float64)
    recon = resid + 0.3 * torch.randn(50, 6, generator=generator, dtype=torch.float64)
    assert explained_variance(resid + offset, recon + offset) == pytest.approx(
        explained_variance(resid, recon), abs=1e-6
    )


def test_equal_tokens_have_no_variance_to_explain() -> None:
    with pytest.raises(MetricError, match="all 5 tokens are equal"):
        explained_variance(torch.ones(5, 3), torch.ones(5, 3))


def test_figures_do_not_depend_on_the_batches(
    any_sae: SparseAutoencoder, resid: torch.Tensor
) -> None:
    whole = reconstruction(any_sae, [resid.numpy()])
    split = reconstruction(any_sae, [part.numpy() for part in torch.split(resid, 7)])
    assert whole == pytest.approx(split, rel=1e-5)
    acts = any_sae.encode(resid)
    assert whole["l0"] == pytest.approx(float((acts > 0).sum(1).float().mean()))
    assert whole["n_dead"] == int((acts == 0).all(0).sum())
    assert whole["dead"] == whole["n_dead"] / 24
    assert whole["explained_variance"] == pytest.approx(
        explained_variance(resid, any_sae(resid)), rel=1e-5
    )


def test_no_tokens_are_an_error(any_sae: SparseAutoencoder) -> None:
    with pytest.raises(MetricError, match="0 tokens"):
        reconstruction(any_sae, [np.zeros((0, 8), dtype=np.float32)])


def distance_loss(stream: torch.Tensor) -> Callable[[Replacement | None], float]:
    """A loss of 1 nat plus the squared distance from the clean stream."""

    def loss(replace_by: Replacement | None) -> float:
        if replace_by is None:
            return 1.0
        return 1.0 + float((replace_by(stream) - stream).square().mean())

    return loss


def test_ce_recovered_is_one_for_identity_and_compares_with_both_ablations(
    any_sae: SparseAutoencoder, resid: torch.Tensor
) -> None:
    loss = distance_loss(resid)
    figures = ce_recovered(loss, any_sae, resid.mean(0))
    zero = float(resid.square().mean())
    error = float((any_sae(resid) - resid).square().mean())
    assert figures["ce_recovered_zero"] == pytest.approx((zero - error) / zero)
    assert figures["ce_mean"] < figures["ce_zero"]
    eye = torch.eye(8)
    identity = replace(
        any_sae,
        W_enc=torch.cat([eye, -eye], 1),
        W_dec=torch.cat([eye, -eye]),
        b_enc=torch.zeros(16),
        threshold=torch.zeros(16),
        sparsity=ReLU(),
    )
    perfect = ce_recovered(loss, identity, resid.mean(0))
    assert perfect["ce_recovered_mean"] == pytest.approx(1.0)


def test_ablation_that_costs_nothing_is_an_error(
    any_sae: SparseAutoencoder, resid: torch.Tensor
) -> None:
    with pytest.raises(MetricError, match=r"mean ablation costs 1\.0000 nats"):
        ce_recovered(lambda _replace_by: 1.0, any_sae, resid.mean(0))
