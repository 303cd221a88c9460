"""The tokens that a push makes a model say, and what a list of them is worth.

What is compared is pushes of one length: a token's gain is its log-probability under the push less
that under random directions of equal length, so that what any disturbance brings out counts for
nothing. Log-probabilities are means over the places of a prompt; prompts are the unit of chance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lm.model import LanguageModel
from steering.errors import EvaluationError
from steering.intervention import Intervention
from steering.padding import padded, touched
from steering.resume import read_once, steered_logits

ROWS: Final = 64
"""Prompts times pushes of one pass, at most."""
LOGITS: Final = 1 << 24
"""Logits of one pass, at most, where a single push has no more."""


@dataclass(frozen=True, slots=True, eq=False)
class Said:
    """What a model says next under some pushes."""

    each: Float[Tensor, "push prompt pos vocab"]
    """Log-probabilities of the next token, nats."""
    weights: Float[Tensor, "prompt pos"]
    """Of a prompt's places in its means; they add up to 1."""

    def log_probs(self) -> Float[Tensor, "push prompt vocab"]:
        """Each prompt's mean log-probabilities, on the CPU."""
        return torch.einsum("aptv,pt->apv", self.each, self.weights).cpu()

    def probs(self) -> Float[Tensor, "push prompt vocab"]:
        """Each prompt's mean probabilities, on the CPU."""
        return torch.einsum("aptv,pt->apv", self.each.exp(), self.weights).cpu()


@torch.no_grad()
def said(
    lm: LanguageModel, prompts: Sequence[Sequence[int]], pushes: Sequence[Sequence[Intervention]]
) -> Iterator[Said]:
    """What the model says under each push, some pushes at a time, in order.

    All places of a prompt count but position 0 and special tokens, which no push edits.

    Raises:
        EvaluationError: there is no prompt, or one without such a place.
    """
    ids, is_real = padded(prompts, lm.device)
    places = touched(lm, ids, is_real)
    if not len(places) or not places.any(dim=1).all():
        raise EvaluationError(
            f"{int(places.any(dim=1).sum())} of {len(places)} prompts have a token to push; "
            "expected one or more prompts, all of which do; give longer prompts"
        )
    weights = places / places.sum(dim=1, keepdim=True)
    texts = read_once(lm, ids, is_real, pushes[:1])
    rows = min(ROWS, LOGITS // (ids.shape[1] * lm.n_vocab))
    size = max(1, rows // len(prompts))
    for start in range(0, len(pushes), size):
        logits = steered_logits(lm, texts, pushes[start : start + size])
        yield Said(logits.log_softmax(dim=-1), weights)


def likelier(
    gain: Float[Tensor, "push vocab"], allowed: Bool[Tensor, " vocab"], k: int
) -> Int[Tensor, "push token"]:
    """The at most `k` allowed tokens of largest gain under each push, largest first."""
    order = gain.masked_fill(~allowed, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    return order[:, : min(k, int(allowed.sum()))]


def own_list(
    each: Float[Tensor, "push *prompt vocab"], lists: Int[Tensor, "push *list token"]
) -> Float[Tensor, "push ... token"]:
    """Of each push the values of its own list's tokens, or of its several lists'."""
    return torch.stack([values[..., own] for values, own in zip(each, lists, strict=True)])


def beyond_others(each: Float[Tensor, "push *rest"]) -> Float[Tensor, "push *rest"]:
    """Each push's value less the mean of the others': what a push of a null gains by chance.

    Raises:
        EvaluationError: fewer than two pushes.
    """
    n = len(each)
    if n < 2:
        raise EvaluationError(f"{n} random pushes; expected two or more; draw more of them")
    return (each - each.mean(dim=0)) * (n / (n - 1))
