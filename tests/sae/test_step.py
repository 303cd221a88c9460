import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sae.kernels import Bags, Gathers
from sae.sparsity import BatchTopK, TopK
from sae.step import Aux, AuxSettings, SparseStep, Weights, loss_and_gradient


def random_weights(seed: int, dtype: torch.dtype, d_model: int = 10, d_sae: int = 30) -> Weights:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    return Weights(normal(d_sae, d_model), normal(d_sae, d_model), normal(d_sae), normal(d_model))


def dense_loss(
    w: dict[str, Tensor], x: Tensor, select: TopK | BatchTopK, aux: Aux | None
) -> Tensor:
    """The same loss as plain tensor algebra that autograd can follow."""
    pre = (x - w["b_dec"]) @ w["encoder"].t() + w["b_enc"]
    positive = pre.relu()
    if isinstance(select, TopK):
        cut = positive.topk(select.k, dim=1).values[:, -1:]
    else:
        cut = positive.flatten().topk(select.k * x.shape[0]).values[-1]
    acts = torch.where(positive >= cut, positive, 0.0)
    recon = acts @ w["decoder"] + w["b_dec"]
    loss = (recon - x).square().sum(1).mean()
    if aux is not None:
        error = (x - recon).detach()
        value, latent = pre[:, aux.dead].topk(min(aux.k, aux.dead.numel()), dim=1)
        revived = torch.zeros_like(pre[:, aux.dead]).scatter(1, latent, value)
        guess = revived @ w["decoder"][aux.dead]
        loss = loss + aux.weight * (guess - error).square().sum(1).mean()
    return loss


@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 40),
    k=st.integers(1, 30),
    batch_wide=st.booleans(),
    n_dead=st.sampled_from([0, 3, 12]),
    exact=st.booleans(),
    kernels=st.sampled_from([Bags(), Gathers()]),
)
def test_gradients_equal_autograd_on_the_dense_formulation(
    seed: int,
    rows: int,
    k: int,
    batch_wide: bool,
    n_dead: int,
    exact: bool,
    kernels: Bags | Gathers,
) -> None:
    dtype, tolerance = (torch.float64, 1e-10) if exact else (torch.float32, 1e-5)
    weights = random_weights(seed, dtype)
    generator = torch.Generator().manual_seed(seed + 1)
    x = torch.randn(rows, 10, generator=generator, dtype=dtype)
    select = BatchTopK(k) if batch_wide else TopK(k)
    aux = Aux(torch.arange(n_dead) * 2, 4, 0.3) if n_dead else None
    outcome = loss_and_gradient(weights, x, select, aux=aux, floor=0.5, kernels=kernels)
    leaves = {name: t.clone().requires_grad_() for name, t in weights.tensors().items()}
    loss = dense_loss(leaves, x, select, aux)
    torch.autograd.backward(loss)
    total = outcome.loss + outcome.aux_loss
    assert abs(float(total - loss.detach())) <= tolerance * max(1.0, float(loss.detach()))
    for name, expected in leaves.items():
        found = outcome.gradient.tensors()[name]
        assert expected.grad is not None
        scale = max(1.0, float(expected.grad.abs().max()))
        assert float((found - expected.grad).abs().max()) <= tolerance * scale, name


def new_step(select: TopK | BatchTopK, seed: int = 0, dead_after: int = 10**9) -> SparseStep:
    weights = random_weights(seed, torch.float32)
    weights.decoder.div_(weights.decoder.norm(dim=1, keepdim=True))
    aux = AuxSettings(k=4, weight=0.3, dead_after=dead_after, max_latents=8)
    return SparseStep(weights, select, grad_clip=1.0, aux=aux)


@pytest.mark.parametrize("select", [TopK(4), BatchTopK(4)])
def test_decoder_rows_stay_on_the_unit_sphere_and_the_loss_falls(select: TopK | BatchTopK) -> None:
    step = new_step(select)
    x = torch.randn(64, 10, generator=torch.Generator().manual_seed(5))
    losses = [float(step(x, 0.01).loss) for _ in range(60)]
    torch.testing.assert_close(step.weights.decoder.norm(dim=1), torch.ones(30))
    assert losses[-1] < 0.5 * losses[0]


def test_the_cost_of_an_offset_is_no_digit() -> None:
    weights = random_weights(2, torch.float32)
    x = torch.randn(50, 10, generator=torch.Generator().manual_seed(6))
    near = loss_and_gradient(weights, x, TopK(4))
    offset = torch.full((10,), 4096.0)  # a power of two: the shift itself is nearly exact
    x_far = ((x.double() + offset) * 1024).round().div(1024).float()
    x_near = (x_far - offset).float()
    moved = Weights(weights.encoder, weights.decoder, weights.b_enc, weights.b_dec.mul(0) + offset)
    centred = Weights(weights.encoder, weights.decoder, weights.b_enc, weights.b_dec.mul(0))
    far, near = (
        loss_and_gradient(moved, x_far, TopK(4)),
        loss_and_gradient(centred, x_near, TopK(4)),
    )
    torch.testing.assert_close(far.loss, near.loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(far.gradient.encoder, near.gradient.encoder, rtol=1e-5, atol=1e-6)


def test_a_latent_picked_at_zero_has_not_fired() -> None:
    step = new_step(TopK(30))
    step.weights.b_enc.fill_(-1e6)
    outcome = step(torch.randn(16, 10), 0.0)
    assert outcome.picks.value.numel() == 0
    assert bool((step.idle == 16).all())


def test_too_few_positives_do_not_hang_batch_top_k() -> None:
    step = new_step(BatchTopK(20))
    step.floor = 100.0
    step.weights.b_enc.fill_(-20.0)
    x = torch.randn(16, 10, generator=torch.Generator().manual_seed(3))
    assert step(x, 0.001).picks.value.numel() < 20 * 16


def test_aux_k_brings_dead_latents_back_and_leaves_living_ones_alone() -> None:
    weights = random_weights(4, torch.float64)
    x = torch.randn(40, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    dead = torch.tensor([3, 9])
    plain = loss_and_gradient(weights, x, TopK(4)).gradient
    with_aux = loss_and_gradient(weights, x, TopK(4), aux=Aux(dead, 2, 1.0)).gradient
    changed = (plain.encoder != with_aux.encoder).any(1).nonzero().squeeze(1)
    assert changed.tolist() == [3, 9]


def test_dead_latents_are_trained_a_bounded_number_at_a_time() -> None:
    step = new_step(TopK(2), dead_after=5)
    step.idle = torch.arange(30)
    aux = step._aux()
    assert aux is not None
    assert aux.dead.tolist() == list(range(22, 30))
    assert step.dead().tolist() == list(range(6, 30))


def test_aux_k_revives_what_would_stay_dead() -> None:
    x = torch.randn(200, 10, generator=torch.Generator().manual_seed(8))
    alive = {}
    for dead_after in (400, 10**9):
        step = new_step(TopK(3), dead_after=dead_after)
        step.weights.b_enc[:20] = -30.0
        for _ in range(400):
            step(x, 0.02)
        alive[dead_after] = int((step.idle < 400).sum())
    assert alive[400] > alive[10**9]
