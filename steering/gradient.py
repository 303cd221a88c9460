"""First-order signs of a direction's effect: the gradient of a word list, and the Fisher matrix.

One forward pass over neutral text with a zero vector added at the hook point, then one backward
pass a question. Small doses only: first-order reasoning ends before the doses that steer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lm.hookpoint import HookPoint
from lm.model import LanguageModel
from lm.tap import Step, edited
from steering.padding import padded, scored, touched


@dataclass(frozen=True, slots=True)
class Probed:
    """Logits of some documents as a function of one vector a document, added at a hook point."""

    added: Float[Tensor, "doc d_model"]
    """Zeros that require a gradient."""
    log_probs: Float[Tensor, "doc pos vocab"]
    scored: Bool[Tensor, "doc pos"]
    """Places whose prediction counts: edited, and with a token to come."""


@contextmanager
def probed(
    lm: LanguageModel, documents: Sequence[Sequence[int]], hook_point: str
) -> Iterator[Probed]:
    """Run the documents with a zero vector added everywhere but at position 0 and specials."""
    ids, is_real = padded(documents, lm.device)
    edited_places = touched(lm, ids, is_real)
    added = torch.zeros(len(documents), lm.d_model, device=lm.device, requires_grad=True)

    def edit(resid: Tensor, _step: Step) -> Tensor:
        return resid + (added[:, None, :] * edited_places[:, :, None]).to(resid.dtype)

    with torch.enable_grad(), edited(lm, {HookPoint.parse(hook_point): edit}):
        logits = lm.model(input_ids=ids, attention_mask=is_real.long(), use_cache=False).logits
        log_probs = torch.log_softmax(logits.float(), dim=-1)
        yield Probed(added, log_probs, scored(edited_places, is_real))


def word_gradients(
    run: Probed,
    words: Mapping[str, Int[Tensor, " word"]],
    neutral: Mapping[str, Bool[Tensor, " doc"]],
) -> dict[str, Float[Tensor, " d_model"]]:
    """For each concept the gradient of the log-share of its words over its neutral documents.

    The share is the mean probability that the next token is one of the words, so its logarithm's
    gradient is nats a unit added.
    """
    found = {}
    for concept, ids in words.items():
        rows = neutral[concept]
        mass = run.log_probs[rows][:, :, ids].exp().sum(dim=-1)[run.scored[rows]]
        (gradient,) = torch.autograd.grad(mass.mean().log(), run.added, retain_graph=True)
        found[concept] = gradient.sum(dim=0)
    return found


def fisher(run: Probed, draws: int, seed: int) -> Float[Tensor, "d_model d_model"]:
    """The Fisher matrix of the next token for an added vector, nats a token and squared unit.

    Half the quadratic form is the KL divergence of a small push, to second order. Estimated from
    `draws` labels sampled at each place from the model itself, one backward pass a draw.
    """
    generator = torch.Generator(device=run.log_probs.device).manual_seed(seed)
    flat = run.log_probs.detach()[run.scored].exp()
    d_model = run.added.shape[1]
    total = torch.zeros(d_model, d_model, dtype=torch.float64)
    for _ in range(draws):
        labels = torch.multinomial(flat, 1, generator=generator)
        score = run.log_probs[run.scored].gather(1, labels).sum()
        (gradient,) = torch.autograd.grad(score, run.added, retain_graph=True)
        total += gradient.double().cpu().T @ gradient.double().cpu()
    return (total / (draws * int(run.scored.sum()))).float()
