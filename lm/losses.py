"""How well the model predicts given texts, also while its stream is edited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import numpy as np
import torch
from jaxtyping import Float32
from torch.nn import functional

from lm.collect import batches_by_length, check_length, right_padded
from lm.hookpoint import HookPoint
from lm.model import LanguageModel
from lm.step import Sequences, sequences_are
from lm.tap import Edit, edited

LOGITS_AT_ONCE = 1 << 27
"""Bounds a batch by its logits (512 MB in float32), which large vocabularies make the largest."""


def token_losses(
    lm: LanguageModel,
    ids: Sequence[Sequence[int]],
    edits: Mapping[HookPoint, Edit | Sequence[Edit]] | None = None,
    batch_tokens: int = 8192,
) -> list[Float32[np.ndarray, " predicted"]]:
    """Nats for each id but the first of every sequence, in the order given.

    Args:
        ids: sequences; one of a single id gives an empty array.
        batch_tokens: most tokens a forward pass, padding included.

    Raises:
        ContextOverflow: a sequence is empty or longer than the model's context.
        HookPointError: an edit's place does not exist.
    """
    for row, sequence in enumerate(ids):
        check_length(lm, len(sequence), f"sequence {row}")
    losses: dict[int, Float32[np.ndarray, " predicted"]] = {}
    at_once = max(1, min(batch_tokens, LOGITS_AT_ONCE // lm.n_vocab))
    with ExitStack() as stack, torch.inference_mode():
        if edits:
            stack.enter_context(edited(lm, edits))
        for batch in batches_by_length([len(sequence) for sequence in ids], at_once):
            input_ids, mask = right_padded(lm, [ids[i] for i in batch])
            rows = torch.tensor(batch, device=lm.device)
            with sequences_are(Sequences(input_ids.shape[1], rows, n_rows=len(ids))):
                logits = lm.model(input_ids=input_ids, attention_mask=mask, use_cache=False).logits
            loss = functional.cross_entropy(
                logits[:, :-1].float().flatten(0, 1), input_ids[:, 1:].flatten(), reduction="none"
            )
            by_row = loss.view(len(batch), -1).cpu().numpy()
            losses |= {i: by_row[k, : len(ids[i]) - 1] for k, i in enumerate(batch)}
    return [losses[i] for i in range(len(ids))]
