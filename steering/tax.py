"""What steering costs on text that it should not touch: dCE, KL and agreement.

Always teacher-forced on held-out documents, at every place whose prediction an edit may reach by
default (position 0 and specials apart), and never the cross-entropy of the steered model's own
words. Knows interventions and documents, no concept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lm.model import LanguageModel
from steering.errors import EvaluationError
from steering.intervention import Intervention
from steering.padding import padded, scored, touched
from steering.resume import forward, read_once, steered_logits

BATCH_TOKENS: Final = 4096
"""Tokens a forward pass, padding included; fewer where the vocabulary is large."""
LOGITS: Final = 2**25
"""Most logits held at once."""


@dataclass(frozen=True, slots=True)
class Tax:
    """Cost of an intervention on held-out documents, steered against unsteered."""

    delta_ce: float
    """Nats a token; above 0 is a worse model."""
    kl_mean: float
    """KL(unsteered || steered), nats a token."""
    kl_p95: float
    agreement: float
    """Share of places where both models' likeliest tokens are the same."""
    n_tokens: int


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Held-out documents in one padded batch."""

    ids: Int[Tensor, "doc pos"]
    is_real: Bool[Tensor, "doc pos"]
    scored: Bool[Tensor, "doc pos"]
    """Places whose next token is predicted and counts."""
    starts_special: bool
    """Whether every document begins with a special token, which a prefix must follow."""


def held_out(lm: LanguageModel, documents: Sequence[Sequence[int]], max_tokens: int) -> HeldOut:
    """The documents cut to `max_tokens`, ready to be costed.

    Raises:
        EvaluationError: no document has a place to score.
    """
    ids, is_real = padded([document[:max_tokens] for document in documents], lm.device)
    places = scored(touched(lm, ids, is_real), is_real)
    if not places.any():
        raise EvaluationError(
            f"{len(documents)} held-out documents hold no token to score; expected some of three "
            "tokens or more; give corpus.split.heldout a larger share"
        )
    special = torch.tensor(sorted(lm.special_ids), device=lm.device)
    return HeldOut(ids, is_real, places, bool(torch.isin(ids[:, 0], special).all()))


def delta_ce(
    lm: LanguageModel, texts: HeldOut, arms: Sequence[Sequence[Intervention]]
) -> Float[np.ndarray, " arm"]:
    """Each arm's dCE in nats a token; NaN where the steered model's loss is not finite."""
    total = np.zeros(len(arms))
    for rows, group, clean, steered in _passes(lm, texts, arms):
        base = _losses(clean, texts, rows).sum()
        loss = _losses(steered, texts, rows).sum(dim=-1) - base
        total[group] += loss.double().cpu().numpy()
    return total / int(texts.scored.sum())


def measure_tax(
    lm: LanguageModel, texts: HeldOut, arms: Sequence[Sequence[Intervention]]
) -> list[Tax]:
    """The whole tax of each arm, in the order given."""
    parts: list[list[Float[Tensor, "kind token"]]] = [[] for _ in arms]
    for rows, group, clean, steered in _passes(lm, texts, arms):
        for place, logits in zip(range(group.start, group.stop), steered, strict=True):
            parts[place].append(_compare(clean, logits, texts, rows))
    return [_tax(torch.cat(part, dim=1)) for part in parts]


def prefix_tax(lm: LanguageModel, texts: HeldOut, prefix: Sequence[int]) -> Tax:
    """The tax of a text put in front of every document, after its special first token.

    The same places of the same documents are scored as for an intervention.

    Raises:
        EvaluationError: prefix and document do not fit into the model's context together.
    """
    at = 1 if texts.starts_special else 0
    if texts.ids.shape[1] + len(prefix) > lm.context:
        raise EvaluationError(
            f"a prefix of {len(prefix)} tokens before documents of {texts.ids.shape[1]}; expected "
            f"{lm.context} together at most; shorten the prefix or the held-out documents"
        )
    parts = []
    for rows in _slices(lm, texts):
        ids, is_real = texts.ids[rows], texts.is_real[rows]
        clean = _unsteered(lm, ids, is_real)
        front = torch.tensor(list(prefix), dtype=ids.dtype, device=ids.device).expand(len(ids), -1)
        longer = torch.cat([ids[:, :at], front, ids[:, at:]], dim=1)
        mask = torch.cat([is_real[:, :at], torch.ones_like(front).bool(), is_real[:, at:]], dim=1)
        logits = _unsteered(lm, longer, mask)
        # Scored places start at 1, so what stands before the prefix is never among them.
        kept = torch.cat([logits[:, :at], logits[:, at + len(prefix) :]], dim=1)
        parts.append(_compare(clean, kept, texts, rows))
    return _tax(torch.cat(parts, dim=1))


def _passes(
    lm: LanguageModel, texts: HeldOut, arms: Sequence[Sequence[Intervention]]
) -> Iterator[
    tuple[slice, slice, Float[Tensor, "doc pos vocab"], Float[Tensor, "arm doc pos vocab"]]
]:
    """(documents, arms, unsteered logits, steered logits), as many at a time as fit a pass."""
    if not arms:
        return
    for rows in _slices(lm, texts):
        known = read_once(lm, texts.ids[rows], texts.is_real[rows], arms)
        size = max(1, _rows(lm, texts) // len(known.ids))
        for start in range(0, len(arms), size):
            group = slice(start, min(start + size, len(arms)))
            yield rows, group, known.logits, steered_logits(lm, known, arms[group])


def _slices(lm: LanguageModel, texts: HeldOut) -> Iterator[slice]:
    size = _rows(lm, texts)
    for start in range(0, len(texts.ids), size):
        yield slice(start, min(start + size, len(texts.ids)))


def _rows(lm: LanguageModel, texts: HeldOut) -> int:
    """Documents in a forward pass."""
    tokens = max(1, min(BATCH_TOKENS, LOGITS // lm.n_vocab))
    return max(1, tokens // texts.ids.shape[1])


@torch.no_grad()
def _unsteered(
    lm: LanguageModel, ids: Int[Tensor, "row pos"], is_real: Bool[Tensor, "row pos"]
) -> Float[Tensor, "row pos vocab"]:
    return forward(lm.model, is_real, input_ids=ids)


def _losses(
    logits: Float[Tensor, "*arm doc pos vocab"], texts: HeldOut, rows: slice
) -> Float[Tensor, "*arm token"]:
    """Nats of the next token at every scored place."""
    targets = _targets(texts, rows)
    chosen = logits[..., texts.scored[rows], :]
    picked = chosen.gather(-1, targets.expand(chosen.shape[:-1])[..., None])[..., 0]
    return chosen.logsumexp(dim=-1) - picked


def _targets(texts: HeldOut, rows: slice) -> Int[Tensor, " token"]:
    return texts.ids[rows].roll(-1, dims=1)[texts.scored[rows]]


def _compare(
    clean: Float[Tensor, "doc pos vocab"],
    steered: Float[Tensor, "doc pos vocab"],
    texts: HeldOut,
    rows: slice,
) -> Float[Tensor, "kind token"]:
    """Change of loss, KL and agreement at every scored place."""
    places = texts.scored[rows]
    log_p = clean[places].log_softmax(dim=-1)
    log_q = steered[places].log_softmax(dim=-1)
    targets = _targets(texts, rows)[:, None]
    change = (log_p - log_q).gather(1, targets)[:, 0]
    divergence = (log_p.exp() * (log_p - log_q)).sum(dim=-1)
    agree = (log_p.argmax(dim=-1) == log_q.argmax(dim=-1)).float()
    return torch.stack([change, divergence, agree])


def _tax(parts: Float[Tensor, "kind token"]) -> Tax:
    change, divergence, agree = parts.double().cpu()
    if not bool(torch.isfinite(parts).all()):
        return Tax(math.nan, math.nan, math.nan, math.nan, parts.shape[1])
    return Tax(
        delta_ce=float(change.mean()),
        kl_mean=float(divergence.mean()),
        kl_p95=float(divergence.quantile(0.95)),
        agreement=float(agree.mean()),
        n_tokens=parts.shape[1],
    )
