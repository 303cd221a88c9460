"""The sparse training step against SAELens' dense one: same sizes, same batches, one run.

Both sides do a whole step from the same weights: forward, gradients, clipping at 1, Adam. One
thread, processor time, the median of interleaved rounds; the ratio is what travels between
machines. First the gradients are compared, since a faster step must be the same step.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sae.sparsity import BatchTopK, TopK
from sae.step import AuxSettings, SparseStep, Weights, loss_and_gradient

D_MODEL, D_SAE, K, BATCH = 128, 1024, 16, 4096
ROUNDS = 15


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: processor time of a step in milliseconds, and how gradients differ."""

    name: str
    ours: float
    theirs: float
    gradient_error: float
    """Largest relative difference over the four gradients."""


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print(f"d_model {D_MODEL}, {D_SAE} latents, k {K}, batch {BATCH}, one thread, float32")
    print(f"{'':12}{'ours':>10}{'SAELens':>10}{'ratio':>8}{'act/s':>10}{'grad err':>10}")
    for select in (TopK(K), BatchTopK(K)):
        row = measure(select)
        print(
            f"{row.name:12}{row.ours:8.1f}ms{row.theirs:8.1f}ms{row.theirs / row.ours:7.1f}x"
            f"{1000 * BATCH / row.ours:10.0f}{row.gradient_error:10.1e}"
        )


def measure(select: TopK | BatchTopK, rounds: int = ROUNDS) -> Row:
    """Both steps on the same batches, in turns."""
    generator = torch.Generator().manual_seed(0)
    decoder = torch.nn.functional.normalize(torch.randn(D_SAE, D_MODEL, generator=generator), dim=1)
    directions = torch.randn(2 * D_MODEL, D_MODEL, generator=generator)
    batches = [
        torch.rand(BATCH, 2 * D_MODEL, generator=generator).pow(8) @ directions for _ in range(4)
    ]
    batches = [batch - batch.mean(0) for batch in batches]
    weights = Weights(decoder.clone(), decoder.clone(), torch.zeros(D_SAE), torch.zeros(D_MODEL))
    aux = AuxSettings(k=64, weight=1 / 32, dead_after=10**12)
    ours = SparseStep(weights, select, grad_clip=1.0, aux=aux)
    theirs, their_gradients = _sae_lens_step(select, decoder)
    error = _gradient_error(weights, select, batches[0], their_gradients)
    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    for index in range(rounds + 3):
        x = batches[index % len(batches)]
        times["ours"].append(_cpu_ms(lambda: ours(x, 1e-3)))  # noqa: B023
        times["theirs"].append(_cpu_ms(lambda: theirs(x)))  # noqa: B023
    ours_ms, theirs_ms = (statistics.median(values[3:]) for values in times.values())
    return Row(type(select).__name__, ours_ms, theirs_ms, error)


def _sae_lens_step(
    select: TopK | BatchTopK, decoder: Tensor
) -> tuple[Callable[[Tensor], object], Callable[[Tensor], dict[str, Tensor]]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
        from sae_lens.saes.sae import TrainStepInput
        from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig

        size = {"d_in": D_MODEL, "d_sae": D_SAE, "k": select.k}
        sae = (
            TopKTrainingSAE(TopKTrainingSAEConfig(**size))
            if isinstance(select, TopK)
            else BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(**size))
        )
    sae.W_dec.data, sae.W_enc.data = decoder.clone(), decoder.t().contiguous().clone()
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-3)

    def backward(x: Tensor) -> None:
        optimizer.zero_grad()
        given = TrainStepInput(x, {}, None, 0, is_logging_step=False)
        sae.training_forward_pass(given).loss.backward()

    def step(x: Tensor) -> None:
        backward(x)
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        optimizer.step()

    def gradients(x: Tensor) -> dict[str, Tensor]:
        backward(x)
        found = {"encoder": sae.W_enc.grad.t(), "decoder": sae.W_dec.grad}
        return {**found, "b_enc": sae.b_enc.grad, "b_dec": sae.b_dec.grad}

    return step, gradients


def _gradient_error(
    weights: Weights,
    select: TopK | BatchTopK,
    x: Tensor,
    theirs: Callable[[Tensor], dict[str, Tensor]],
) -> float:
    ours = loss_and_gradient(weights, x, select).gradient.tensors()
    expected = theirs(x)
    return max(float((ours[name] - expected[name]).norm() / expected[name].norm()) for name in ours)


def _cpu_ms(step: Callable[[], object]) -> float:
    start = time.process_time()
    step()
    return 1000 * (time.process_time() - start)


if __name__ == "__main__":
    main()
