"""Train a sparse autoencoder from an endless stream of activations, and survive being killed.

`train` sees arrays, never files of activations: `batches_from(step)` gives the batches from any
step on, which is what makes a resumed run equal, bit for bit, to one that was never stopped. The
stream is centred and scaled to mean square one first and the scale folded back at the end, so
that one learning rate serves any layer of any model.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, assert_never

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sae import resume
from sae.calibrate import calibrated
from sae.errors import TrainingError
from sae.model import SparseAutoencoder
from sae.sparsity import BatchTopK, TopK
from sae.step import AuxSettings, Outcome, SparseStep, Weights
from sae.threads import fitting_threads

Kind = Literal["topk", "batchtopk"]
Batches = Callable[[int], Iterator[np.ndarray]]
"""From a step number to the batches `[token, d_model]` of that step and all later ones."""


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """What decides the trained weights, beside the activations."""

    kind: Kind = "topk"
    d_sae: int = 1024
    k: int = 16
    """Latents a token: exactly (topk) or on average (batchtopk)."""
    steps: int = 1200
    lr: float = 1e-3
    warmup_steps: int = 50
    decay_share: float = 0.3
    """Share of the steps, at the end, in which the rate falls linearly to zero."""
    aux_k: int = 64
    """Dead latents that explain each token's error."""
    aux_coefficient: float = 1 / 32
    dead_steps: int = 100
    """Steps without firing after which a latent counts as dead."""
    grad_clip: float = 1.0
    """Longest gradient, in the normalised stream's units."""
    seed: int = 0
    checkpoint_steps: int = 200
    report_steps: int = 10

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.d_sae:
            raise TrainingError(f"k is {self.k}; expected 1 to d_sae = {self.d_sae}; correct it")
        if self.steps < 1 or self.lr <= 0 or not 0 <= self.decay_share <= 1:
            raise TrainingError(
                f"steps {self.steps}, lr {self.lr}, decay_share {self.decay_share}; expected "
                "positive steps and lr and a share from 0 to 1; correct them"
            )

        if (
            min(self.checkpoint_steps, self.report_steps) < 1
            or min(self.warmup_steps, self.aux_k) < 0
        ):
            raise TrainingError(
                f"checkpoint_steps {self.checkpoint_steps}, report_steps {self.report_steps}, "
                f"warmup_steps {self.warmup_steps}, aux_k {self.aux_k}; expected the first two "
                "from 1 on and the others from 0; correct them"
            )

    def select(self) -> TopK | BatchTopK:
        """How latents are chosen while training."""
        match self.kind:
            case "topk":
                return TopK(self.k)
            case "batchtopk":
                return BatchTopK(self.k)
            case _:
                assert_never(self.kind)

    def lr_at(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, a plateau, a linear fall to zero."""
        rise = min(1.0, (step + 1) / (self.warmup_steps + 1))
        decay_steps = max(1.0, self.decay_share * self.steps)
        return self.lr * min(rise, (self.steps - step) / decay_steps, 1.0)


@dataclass(frozen=True, slots=True)
class StepReport:
    """How training stands after a step; figures are of that step's batch."""

    step: int
    """Steps done, the last one included."""
    activations: int
    loss: float
    """Squared error a token over the stream's variance a token."""
    explained_variance: float
    l0: float
    dead: float
    """Share of latents idle for longer than `dead_steps`."""
    aux_loss: float
    lr: float


@dataclass(frozen=True, eq=False, slots=True)
class Scale:
    """The affine map from the stream to what the step sees: (x - mean) / unit."""

    mean: Float[Tensor, " d_model"]
    unit: float
    """Root mean square of a centred coordinate."""

    @classmethod
    def of(cls, batch: Float[Tensor, "token d_model"]) -> "Scale":
        """The map that centres a batch and makes its mean square one."""
        mean = batch.double().mean(0)
        unit = float((batch.double() - mean).square().mean().sqrt())
        if not unit > 0 or not np.isfinite(unit):
            raise TrainingError(
                f"the first {batch.shape[0]} activations have scale {unit}; expected finite rows "
                "that differ; check the residuals"
            )
        return cls(mean.float(), unit)

    def apply(self, batch: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_model"]:
        """The batch as the step sees it."""
        return (batch - self.mean).div_(self.unit)


def train(
    batches_from: Batches,
    heldout: np.ndarray,
    config: TrainConfig,
    *,
    checkpoint_dir: Path | None = None,
    on_step: Callable[[StepReport], None] | None = None,
    hook_point: str = "",
) -> tuple[SparseAutoencoder, list[dict[str, Any]]]:
    """A trained autoencoder in the stream's units, and its reports as rows.

    Args:
        batches_from: float32 batches from a step on; a pure function of the step.
        heldout: activations `[token, d_model]` that calibrate the threshold, apart from training.
        checkpoint_dir: where a killed run continues from; a checkpoint of another config or of
            other activations is an error.

    Raises:
        TrainingError: the batches end early, the loss is not finite, or the checkpoint is another
            run's.
    """
    first = _next(batches_from(0), 0)
    with fitting_threads(first.shape[1], config.d_sae):
        step, scale, rows = _run(batches_from, first, config, checkpoint_dir, on_step)
    sae = _folded(step, scale, config, hook_point)
    return calibrated(sae, torch.from_numpy(heldout).float()), rows


def _run(
    batches_from: Batches,
    first: Float[Tensor, "token d_model"],
    config: TrainConfig,
    checkpoint_dir: Path | None,
    on_step: Callable[[StepReport], None] | None,
) -> tuple[SparseStep, Scale, list[dict[str, Any]]]:
    """All steps from the first or from the last checkpoint on."""
    run = resume.run_key(asdict(config), first)
    state = resume.load(checkpoint_dir, run) if checkpoint_dir else None
    scale = Scale.of(first) if state is None else Scale(state.mean, state.unit)
    step = _new_step(scale.apply(first), config)
    if state is not None:
        resume.restore(step, state)
    done = 0 if state is None else state.done
    rows: list[dict[str, Any]] = [] if state is None else state.rows
    batches = batches_from(done)
    for index in range(done, config.steps):
        x = scale.apply(_next(batches, index))
        lr = config.lr_at(index)
        outcome = step(x, lr)
        done, last = index + 1, index + 1 == config.steps
        keeps = checkpoint_dir is not None and not last and done % config.checkpoint_steps == 0
        if last or keeps or done % config.report_steps == 0:
            _require_finite(outcome, done)
        if last or done % config.report_steps == 0:
            report = _report(done, x, outcome, step, lr)
            rows.append(asdict(report))
            if on_step is not None:
                on_step(report)
        if checkpoint_dir and keeps:
            state = resume.State(
                resume.capture(step), done, step.floor, scale.mean, scale.unit, rows
            )
            resume.save(checkpoint_dir, run, state)
    return step, scale, rows


def _new_step(first: Float[Tensor, "token d_model"], config: TrainConfig) -> SparseStep:
    """Random unit decoder rows, the encoder tied to them, no biases."""
    generator = torch.Generator().manual_seed(config.seed)
    rows = torch.randn(config.d_sae, first.shape[1], generator=generator)
    decoder = torch.nn.functional.normalize(rows, dim=1)
    weights = Weights(
        encoder=decoder.clone(),
        decoder=decoder,
        b_enc=torch.zeros(config.d_sae),
        b_dec=torch.zeros(first.shape[1]),
    )
    aux = AuxSettings(
        k=min(config.aux_k, config.d_sae),
        weight=config.aux_coefficient,
        dead_after=config.dead_steps * first.shape[0],
    )
    return SparseStep(weights, config.select(), grad_clip=config.grad_clip, aux=aux)


def _next(batches: Iterator[np.ndarray], index: int) -> Float[Tensor, "token d_model"]:
    try:
        batch = next(batches)
    except StopIteration:
        raise TrainingError(
            f"the batches ended before step {index}; expected one a step; make them endless"
        ) from None
    return torch.from_numpy(np.ascontiguousarray(batch, dtype=np.float32))


def _require_finite(outcome: Outcome, done: int) -> None:
    """Asked before a step is reported or kept, so that no checkpoint holds what cannot go on."""
    loss = float(outcome.loss)
    if not np.isfinite(loss):
        raise TrainingError(
            f"the loss is {loss} at step {done}; expected a finite number; lower train.lr or check "
            "the residuals"
        )


def _report(
    done: int, x: Float[Tensor, "token d_model"], outcome: Outcome, step: SparseStep, lr: float
) -> StepReport:
    loss = float(outcome.loss)
    variance = float((x - x.mean(0)).square().sum(1).mean())
    return StepReport(
        step=done,
        activations=done * x.shape[0],
        loss=loss / variance,
        explained_variance=1.0 - loss / variance,
        l0=outcome.picks.value.numel() / x.shape[0],
        dead=step.dead().numel() / step.idle.numel(),
        aux_loss=float(outcome.aux_loss) / variance,
        lr=lr,
    )


def _folded(
    step: SparseStep, scale: Scale, config: TrainConfig, hook_point: str
) -> SparseAutoencoder:
    """The trained weights in the stream's units: both biases grow by the unit, directions stay."""
    weights = step.weights
    select = config.select()
    return SparseAutoencoder(
        W_enc=weights.encoder.t().contiguous(),
        W_dec=weights.decoder.clone(),
        b_enc=weights.b_enc * scale.unit,
        b_dec=scale.mean + weights.b_dec * scale.unit,
        sparsity=select,
        threshold=torch.zeros(config.d_sae) if isinstance(select, BatchTopK) else None,
        hook_point=hook_point,
        metadata={"training_architecture": config.kind, "k": config.k},
    )
