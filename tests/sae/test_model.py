import importlib
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sae.errors import SaeShapeError
from sae.model import SparseAutoencoder
from sae.sparsity import BatchTopK, JumpReLU, ReLU, TopK


def test_sparse_and_dense_encoding_agree(any_sae: SparseAutoencoder, resid: torch.Tensor) -> None:
    row, latent, value = any_sae.encode_sparse(resid)
    dense = torch.zeros(40, 24)
    dense[row, latent] = value
    torch.testing.assert_close(dense, any_sae.encode(resid), rtol=1e-5, atol=1e-6)
    assert bool((value > 0).all())


def test_batch_and_position_axes_do_not_matter(
    any_sae: SparseAutoencoder, resid: torch.Tensor
) -> None:
    shaped = resid.reshape(4, 10, 8)
    torch.testing.assert_close(any_sae.encode(shaped).reshape(40, 24), any_sae.encode(resid))
    torch.testing.assert_close(any_sae(shaped).reshape(40, 8), any_sae(resid))


def test_the_reconstruction_is_decode_of_encode(
    any_sae: SparseAutoencoder, resid: torch.Tensor
) -> None:
    torch.testing.assert_close(any_sae(resid), any_sae.decode(any_sae.encode(resid)))
    assert any_sae(resid[:0]).shape == (0, 8)


def test_chosen_latents_equal_their_columns_of_the_whole(
    any_sae: SparseAutoencoder, resid: torch.Tensor
) -> None:
    chosen = [5, 0, 23]
    if isinstance(any_sae.sparsity, TopK):
        any_sae = replace(any_sae, sparsity=ReLU())
    torch.testing.assert_close(
        any_sae.encode_latents(resid, chosen), any_sae.encode(resid)[:, chosen]
    )


@given(scale=st.floats(-3, 3), seed=st.integers(0, 100))
def test_decoding_is_linear_up_to_its_bias(scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(24, 8, generator=generator)
    sae = SparseAutoencoder(
        rows.t(), rows, rows[:, 0], torch.ones(8), ReLU(), None, "blocks.0.hook_resid_post"
    )
    left, right = torch.rand(2, 5, 24, generator=generator)
    mixed = sae.decode(left + scale * right) - sae.b_dec
    parts = (sae.decode(left) - sae.b_dec) + scale * (sae.decode(right) - sae.b_dec)
    torch.testing.assert_close(mixed, parts, rtol=1e-4, atol=1e-4)


def test_top_k_keeps_at_most_k(any_sae: SparseAutoencoder, resid: torch.Tensor) -> None:
    top = replace(any_sae, sparsity=TopK(3))
    assert int((top.encode(resid) > 0).sum(1).max()) == 3


def test_folding_norms_changes_no_reconstruction(
    any_sae: SparseAutoencoder, resid: torch.Tensor
) -> None:
    norm = torch.linspace(0.5, 2.0, 24)
    if isinstance(any_sae.sparsity, TopK):
        norm = torch.full((24,), 2.5)
    stretched = replace(any_sae, W_dec=any_sae.W_dec * norm.unsqueeze(1))
    folded = stretched.fold_norms()
    torch.testing.assert_close(folded.W_dec.norm(dim=1), torch.ones(24))
    torch.testing.assert_close(folded(resid), stretched(resid), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(folded.encode(resid), stretched.encode(resid) * norm)


def test_a_top_k_with_unequal_norms_is_not_folded(any_sae: SparseAutoencoder) -> None:
    uneven = any_sae.W_dec * torch.linspace(0.5, 2.0, 24).unsqueeze(1)
    with pytest.raises(SaeShapeError, match=r"norms from 0\.5 to 2"):
        replace(any_sae, W_dec=uneven, sparsity=TopK(3)).fold_norms()


def test_encoding_at_a_large_offset_keeps_its_digits(any_sae: SparseAutoencoder) -> None:
    near = torch.randn(20, 8, generator=torch.Generator().manual_seed(2)).mul(64).round().div(64)
    offset = torch.full((8,), 2048.0)
    at_zero = replace(any_sae, b_dec=torch.zeros(8))
    far = replace(any_sae, b_dec=offset)
    torch.testing.assert_close(far.encode(near + offset), at_zero.encode(near), rtol=0, atol=0)


def test_a_latent_that_does_not_exist_is_an_error(any_sae: SparseAutoencoder) -> None:
    with pytest.raises(SaeShapeError, match="latent 24 does not exist; expected 0 to 23"):
        any_sae.encode_latents(torch.zeros(1, 8), [24])


def test_single_latents_of_an_uncalibrated_top_k_are_refused(any_sae: SparseAutoencoder) -> None:
    bare = replace(any_sae, sparsity=TopK(3), threshold=None)
    with pytest.raises(SaeShapeError, match="calibrate"):
        bare.encode_latents(torch.zeros(1, 8), [0])


@pytest.mark.parametrize("rule", [BatchTopK(2), JumpReLU()])
def test_rules_with_thresholds_need_them(
    any_sae: SparseAutoencoder, rule: BatchTopK | JumpReLU
) -> None:
    with pytest.raises(SaeShapeError, match="has no threshold"):
        replace(any_sae, sparsity=rule, threshold=None)


def test_weights_the_wrong_way_round_are_named(any_sae: SparseAutoencoder) -> None:
    with pytest.raises((SaeShapeError, TypeError)):
        replace(any_sae, W_dec=any_sae.W_enc)


def test_k_below_one_is_refused() -> None:
    with pytest.raises(SaeShapeError, match="k is 0"):
        TopK(0)


def test_the_package_exports_what_it_lists() -> None:
    package = importlib.import_module("sae")
    for name in package.__all__:
        assert getattr(package, name).__module__.startswith("sae.")
    assert package.__all__ == sorted(package.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getattr(package, "nothing")  # noqa: B009
