"""One training step whose cost follows the picks, not the latents.

Dense work is one matrix product, the encoder's. Everything after selection touches only the
picks: reconstruction, the loss's exact gradients, and AuxK's, which brings dead latents back by
letting them explain what the living ones left over. The step knows no data, schedule or files.

Weights are kept in the step's own layout: both matrices as `[d_sae, d_model]`, decoder rows of
unit length, so that a pick's value is the length that its latent writes.

Source: Gao et al. 2024, "Scaling and evaluating sparse autoencoders" (TopK, AuxK); Bussmann et
al. 2024, "BatchTopK sparse autoencoders".
"""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae.kernels import Kernels, kernels_for
from sae.picks import Encoder, Picks, batch_top_k, top_k
from sae.sparsity import BatchTopK, TopK

FLOOR_SHARE = 0.8
"""BatchTopK looks first above this share of the last batch's cut; it changes time, not picks."""


@dataclass(frozen=True, eq=False, slots=True)
class Weights:
    """An autoencoder in training, or the gradient of its loss."""

    encoder: Float[Tensor, "d_sae d_model"]
    decoder: Float[Tensor, "d_sae d_model"]
    b_enc: Float[Tensor, " d_sae"]
    b_dec: Float[Tensor, " d_model"]

    def tensors(self) -> dict[str, Tensor]:
        """The four tensors by name, in a fixed order."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, eq=False, slots=True)
class Aux:
    """The dead latents that AuxK trains, `k` of them a token, at `weight` times their loss."""

    dead: Int[Tensor, " dead"]
    k: int
    weight: float


@dataclass(frozen=True, eq=False, slots=True)
class Outcome:
    """What one batch said: losses, gradient, picks, and what is left of each token."""

    loss: Float[Tensor, ""]
    aux_loss: Float[Tensor, ""]
    gradient: Weights
    picks: Picks
    residual: Float[Tensor, "token d_model"]


def loss_and_gradient(
    weights: Weights,
    x: Float[Tensor, "token d_model"],
    select: TopK | BatchTopK,
    *,
    aux: Aux | None = None,
    floor: float = 0.0,
    kernels: Kernels | None = None,
) -> Outcome:
    """Mean squared length of the reconstruction's error, and its exact gradient.

    loss = mean |x_hat - x|^2, plus with AuxK weight · mean |e_hat - e|^2 where e = x - x_hat is
    held constant and e_hat decodes the dead latents' `k` largest pre-activations, whatever their
    sign. Equal to autograd on the dense formulation.
    """
    kernels = kernels or kernels_for(weights.encoder)
    centred = x - weights.b_dec
    encoder = Encoder(weights.encoder, weights.b_enc)
    picks = (
        top_k(encoder, centred, select.k)
        if isinstance(select, TopK)
        else batch_top_k(encoder, centred, select.k, floor)
    )
    residual = kernels.decode(picks, weights.decoder).sub_(centred)
    upstream = residual * (2.0 / x.shape[0])
    encoder_grad, decoder_grad, bias_grad = _through(
        picks, upstream, centred, weights.decoder, kernels
    )
    aux_loss = x.new_zeros(())
    if aux is not None and aux.dead.numel() > 0:
        aux_loss, aux_grads = _aux_gradient(weights, centred, residual, aux, kernels)
        for total, part in zip((encoder_grad, decoder_grad, bias_grad), aux_grads, strict=True):
            total[aux.dead] += part
    # b_dec is added to the output and, negated, to the encoder's input.
    b_dec_grad = upstream.sum(0).sub_(bias_grad @ weights.encoder)
    gradient = Weights(encoder_grad, decoder_grad, bias_grad, b_dec_grad)
    return Outcome(residual.square().sum(1).mean(), aux_loss, gradient, picks, residual)


def _aux_gradient(
    weights: Weights,
    centred: Float[Tensor, "token d_model"],
    residual: Float[Tensor, "token d_model"],
    aux: Aux,
    kernels: Kernels,
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    decoder = weights.decoder[aux.dead]
    pre = torch.addmm(weights.b_enc[aux.dead], centred, weights.encoder[aux.dead].t())
    k = min(aux.k, aux.dead.numel())
    value, latent = pre.topk(k, dim=1)
    latent, order = latent.sort(dim=1)
    row = torch.arange(pre.shape[0], device=pre.device).repeat_interleave(k)
    picks = Picks(row, latent.reshape(-1), value.gather(1, order).reshape(-1), *pre.shape)
    error = kernels.decode(picks, decoder).add_(residual)  # e_hat - e, since e = -residual
    upstream = error * (2.0 * aux.weight / pre.shape[0])
    loss = aux.weight * error.square().sum(1).mean()
    return loss, _through(picks, upstream, centred, decoder, kernels)


def _through(
    picks: Picks,
    upstream: Float[Tensor, "token d_model"],
    centred: Float[Tensor, "token d_model"],
    decoder: Float[Tensor, "latent d_model"],
    kernels: Kernels,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of encoder, decoder and encoder bias, given dL/dx_hat."""
    by_latent = picks.by_latent()
    pull = kernels.dots(picks, upstream, decoder)  # dL/d(value)
    bias = pull.new_zeros(decoder.shape[0]).index_add_(0, picks.latent, pull)
    return (
        kernels.collect(by_latent, pull, centred),
        kernels.collect(by_latent, picks.value, upstream),
        bias,
    )


@dataclass(frozen=True, slots=True)
class AuxSettings:
    """How dead latents are brought back."""

    k: int
    """Dead latents that explain each token's error."""
    weight: float
    """Share of their loss in the total, when at least `k` latents are dead."""
    dead_after: int
    """Tokens without firing after which a latent counts as dead."""
    max_latents: int = 256
    """Most dead latents trained in one step: bounds the cost when many are dead."""


class SparseStep:
    """Weights, Adam's moments and each latent's idle time: all that training changes.

    `decoder` stays on the unit sphere: the gradient's radial part is dropped before Adam sees it,
    and rows are brought back to length one after the step.
    """

    def __init__(
        self, weights: Weights, select: TopK | BatchTopK, *, grad_clip: float, aux: AuxSettings
    ) -> None:
        self.weights, self.select, self.grad_clip, self.aux = weights, select, grad_clip, aux
        self.optimizer = torch.optim.Adam(list(weights.tensors().values()), fused=True)
        self.idle = torch.zeros(weights.encoder.shape[0], dtype=torch.int64)
        """Tokens since each latent last fired."""
        self.floor = 0.0

    @torch.no_grad()
    def __call__(self, x: Float[Tensor, "token d_model"], lr: float) -> Outcome:
        """Learn from one batch at learning rate `lr`."""
        outcome = loss_and_gradient(self.weights, x, self.select, aux=self._aux(), floor=self.floor)
        gradient = outcome.gradient
        radial = (gradient.decoder * self.weights.decoder).sum(1, keepdim=True)
        gradient.decoder.addcmul_(radial, self.weights.decoder, value=-1.0)
        for name, tensor in self.weights.tensors().items():
            tensor.grad = gradient.tensors()[name]
        torch.nn.utils.clip_grad_norm_(self.weights.tensors().values(), self.grad_clip)
        self.optimizer.param_groups[0]["lr"] = lr
        self.optimizer.step()
        decoder = self.weights.decoder
        decoder.div_(decoder.norm(dim=1, keepdim=True).clamp_min(1e-8))
        self.idle.add_(x.shape[0])
        self.idle[outcome.picks.latent] = 0
        if outcome.picks.value.numel() > 0:
            self.floor = FLOOR_SHARE * float(outcome.picks.value.min())
        return outcome

    def dead(self) -> Int[Tensor, " dead"]:
        """Latents that have been idle for longer than the settings allow, by index."""
        return (self.idle > self.aux.dead_after).nonzero().squeeze(1)

    def _aux(self) -> Aux | None:
        dead = self.dead()
        if dead.numel() == 0 or self.aux.weight == 0:
            return None
        if dead.numel() > self.aux.max_latents:
            longest = self.idle[dead].argsort(descending=True, stable=True)
            dead = dead[longest[: self.aux.max_latents]].sort().values
        scale = min(dead.numel() / self.aux.k, 1.0)
        return Aux(dead, self.aux.k, self.aux.weight * scale)
