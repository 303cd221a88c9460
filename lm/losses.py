"""How well the model predicts given texts, also while its stream is edited."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor
from torch.nn import functional

from lm.collect import batches_by_length, check_length, right_padded
from lm.errors import LmError
from lm.hookpoint import HookPoint
from lm.model import LanguageModel
from lm.sequences import Sequences, sequences_are
from lm.tap import Edit, edited

Edits = Mapping[HookPoint, Edit | Sequence[Edit]]
LOGITS_AT_ONCE = 1 << 27
"""Bounds a batch by its logits (512 MB in float32), which large vocabularies make the largest."""


def token_losses(
    lm: LanguageModel,
    ids: Sequence[Sequence[int]],
    edits: Edits | None = None,
    batch_tokens: int = 8192,
    *,
    prompt_tokens: Sequence[int] | None = None,
) -> list[Float32[np.ndarray, " predicted"]]:
    """Nats for each id but the first of every sequence, in the order given.

    Args:
        ids: sequences; one of a single id gives an empty array.
        batch_tokens: most tokens a forward pass, padding included.
        prompt_tokens: ids of each sequence that are its prompt; an edit of what was generated
            acts on the others. Left out, all of them are.

    Raises:
        ContextOverflow: a sequence is empty or longer than the model's context.
        LmError: `prompt_tokens` is of another length, or a number lies outside its sequence.
        HookPointError: an edit's place does not exist.
    """

    def nats(batch: _Batch) -> Float[Tensor, "row predicted"]:
        loss = functional.cross_entropy(
            batch.logits(edits)[:, :-1].flatten(0, 1), batch.ids[:, 1:].flatten(), reduction="none"
        )
        return loss.view(len(batch.ids), -1)

    return _by_token(lm, ids, batch_tokens, nats, prompt_tokens)


def token_divergences(
    lm: LanguageModel,
    ids: Sequence[Sequence[int]],
    edits: Edits,
    batch_tokens: int = 8192,
    *,
    prompt_tokens: Sequence[int] | None = None,
) -> list[Float32[np.ndarray, " predicted"]]:
    """KL(unedited || edited) in nats of the prediction of each id but the first.

    Arguments and errors are those of `token_losses`.
    """

    def nats(batch: _Batch) -> Float[Tensor, "row predicted"]:
        clean = batch.logits(None)[:, :-1].log_softmax(dim=-1)
        apart = clean - batch.logits(edits)[:, :-1].log_softmax(dim=-1)
        return (clean.exp() * apart).sum(dim=-1)

    return _by_token(lm, ids, batch_tokens // 2, nats, prompt_tokens)


@dataclass(frozen=True, eq=False, slots=True)
class _Batch:
    """Right-padded sequences, and the model that predicts them."""

    lm: LanguageModel
    ids: Int[Tensor, "row pos"]
    mask: Int[Tensor, "row pos"] | None
    sequences: Sequences

    def logits(self, edits: Edits | None) -> Float[Tensor, "row pos vocab"]:
        """What the model says, edited or not."""
        with ExitStack() as stack:
            if edits:
                stack.enter_context(edited(self.lm, edits))
            stack.enter_context(sequences_are(self.sequences))
            out = self.lm.model(input_ids=self.ids, attention_mask=self.mask, use_cache=False)
        logits: Float[Tensor, "row pos vocab"] = out.logits.float()
        return logits


def _by_token(
    lm: LanguageModel,
    ids: Sequence[Sequence[int]],
    batch_tokens: int,
    nats: Callable[[_Batch], Float[Tensor, "row predicted"]],
    prompt_tokens: Sequence[int] | None,
) -> list[Float32[np.ndarray, " predicted"]]:
    """What `nats` says of every prediction, batch by batch, in the sequences' own order."""
    for row, sequence in enumerate(ids):
        check_length(lm, len(sequence), f"sequence {row}")
    prompts = _prompts(ids, prompt_tokens)
    found: dict[int, Float32[np.ndarray, " predicted"]] = {}
    at_once = max(1, min(batch_tokens, LOGITS_AT_ONCE // lm.n_vocab))
    with torch.inference_mode():
        for numbers in batches_by_length([len(sequence) for sequence in ids], at_once):
            input_ids, mask = right_padded(lm, [ids[i] for i in numbers])
            rows = torch.tensor(numbers, device=lm.device)
            prompt_lengths = torch.tensor([prompts[i] for i in numbers], device=lm.device)
            sequences = Sequences(
                input_ids.shape[1], rows, n_rows=len(ids), prompt_lengths=prompt_lengths
            )
            by_row = nats(_Batch(lm, input_ids, mask, sequences)).cpu().numpy()
            found |= {i: by_row[k, : len(ids[i]) - 1] for k, i in enumerate(numbers)}
    return [found[i] for i in range(len(ids))]


def _prompts(ids: Sequence[Sequence[int]], asked: Sequence[int] | None) -> Sequence[int]:
    """How many ids of each sequence are its prompt."""
    lengths = [len(sequence) for sequence in ids]
    if asked is None:
        return lengths
    if len(asked) != len(ids):
        raise LmError(
            f"got {len(asked)} prompt lengths for {len(ids)} sequences; expected as many; give "
            "one a sequence"
        )
    for row, (prompt, length) in enumerate(zip(asked, lengths, strict=True)):
        if not 0 < prompt <= length:
            raise LmError(
                f"sequence {row} of {length} tokens with a prompt of {prompt}; expected from 1 "
                f"to {length}; count the prompt's own tokens"
            )
    return asked
