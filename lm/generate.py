"""Batched generation, each row with random numbers of its own.

Row i of a steered run and row i of an unsteered one draw the same numbers, so their
difference is the steering's. Knows logits and ids; what an edit does is the caller's business.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

from lm.cache import roomy_cache
from lm.collect import check_length
from lm.errors import ContextOverflow, LmError
from lm.hookpoint import HookPoint
from lm.model import LanguageModel
from lm.sequences import Sequences, Started, sequences_are
from lm.tap import Edit, edited


@dataclass(frozen=True, slots=True, eq=False)
class Generation:
    """One continuation: what was asked, what came, and how likely the model found it."""

    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    """The new ids; an end-of-text id, where one came, is the last of them."""
    logprobs: Float32[np.ndarray, " new"]
    """Nats, each id's under the model that made it (with the edits, at temperature 1)."""


def generate(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float | int,
    seeds: Sequence[int],
    edits: Mapping[HookPoint, Edit | Sequence[Edit]] | None = None,
    batch_rows: int = 256,
    stop_at_eos: bool = True,
) -> list[Generation]:
    """Continuations of the prompts, in their order.

    A token is the one whose share of the cumulated probabilities holds the row's next uniform
    number, so a row depends on its own seed alone, whatever shares its batch.

    Args:
        prompts: ids, with <bos> where the model wants one.
        temperature: 0 takes the likeliest token.
        seeds: one a prompt.
        batch_rows: prompts that run together; those that have ended leave the batch.

    Raises:
        ContextOverflow: a prompt is empty, or does not leave room for the new tokens.
        LmError: seeds do not match, the temperature is negative, or a logit is not a number.
        HookPointError: an edit's place does not exist.
    """
    _check(lm, prompts, max_new_tokens, temperature, seeds)
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    made: dict[int, Generation] = {}
    stop_ids = lm.stop_ids if stop_at_eos else frozenset()
    with ExitStack() as stack, torch.inference_mode():
        if edits:
            stack.enter_context(edited(lm, edits))
        for start in range(0, len(order), batch_rows):
            rows = order[start : start + batch_rows]
            numbers = _uniforms([seeds[row] for row in rows], max_new_tokens, temperature)
            batch = _Batch(lm, prompts, rows, max_new_tokens)
            made.update(batch.run(numbers, temperature, stop_ids))
    return [made[row] for row in range(len(prompts))]


class _Batch:
    """Rows that are continued together."""

    def __init__(
        self,
        lm: LanguageModel,
        prompts: Sequence[Sequence[int]],
        rows: Sequence[int],
        max_new_tokens: int,
    ) -> None:
        self.lm, self.max_new_tokens, self.n_rows = lm, max_new_tokens, len(prompts)
        self.prompts = [prompts[row] for row in rows]
        self.width = max(len(prompt) for prompt in self.prompts)
        self.cache = roomy_cache(lm.n_layers, self.width + max_new_tokens)
        self.rows = torch.tensor(rows, device=lm.device)
        self.alive = torch.arange(len(rows), device=lm.device)
        self.current, self.mask = self._left_padded()
        lengths = torch.tensor([len(prompt) for prompt in self.prompts], device=lm.device)
        self.prompt_lengths = None if self.mask is None else lengths
        self.takes = frozenset(inspect.signature(lm.model.forward).parameters)

    def run(
        self,
        uniforms: Float[Tensor, "row step"],
        temperature: float | int,
        stop_ids: frozenset[int],
    ) -> dict[int, Generation]:
        """The continuation of every row, by the caller's row number."""
        n = len(self.prompts)
        ids = np.zeros((n, self.max_new_tokens), dtype=np.int64)
        logprobs = np.zeros((n, self.max_new_tokens), dtype=np.float32)
        lengths = np.full(n, self.max_new_tokens)
        stops = torch.tensor(sorted(stop_ids), device=self.lm.device, dtype=torch.long)
        ended = torch.zeros(n, dtype=torch.bool, device=self.lm.device)
        caller_rows, uniforms = self.rows.tolist(), uniforms.to(self.lm.device)
        generation = Started()
        for step in range(self.max_new_tokens):
            sequences = Sequences(
                self.width, self.rows, generation, self.n_rows, self.prompt_lengths
            )
            with sequences_are(sequences):
                logits = self._next_logits()
            total = torch.logsumexp(logits, 1)
            self._check_finite(total, step)
            chosen = _choose(logits, uniforms[self.alive, step], temperature)
            alive = self.alive.cpu().numpy()
            ids[alive, step] = chosen.cpu().numpy()
            picked = logits.gather(1, chosen[:, None]).squeeze(1)
            logprobs[alive, step] = (picked - total).cpu().numpy()
            new = torch.isin(chosen, stops) & ~ended[self.alive]
            lengths[self.alive[new].cpu().numpy()] = step + 1
            ended[self.alive[new]] = True
            self.current = chosen[:, None]
            if bool(ended.all()):
                break
            self._drop(ended[self.alive])
        return {
            row: Generation(tuple(self.prompts[i]), tuple(ids[i, :end].tolist()), logprobs[i, :end])
            for i, (row, end) in enumerate(zip(caller_rows, lengths, strict=True))
        }

    def _left_padded(self) -> tuple[Int[Tensor, "row pos"], Int[Tensor, "row all"] | None]:
        lengths = np.array([len(prompt) for prompt in self.prompts])
        real = np.arange(self.width) >= (self.width - lengths)[:, None]
        ids = np.zeros(real.shape, dtype=np.int64)
        ids[real] = np.concatenate([np.asarray(prompt, dtype=np.int64) for prompt in self.prompts])
        current = torch.from_numpy(ids).to(self.lm.device)
        if real.all():
            return current, None
        mask = np.ones((len(lengths), self.width + self.max_new_tokens), dtype=np.int64)
        mask[:, : self.width] = real
        return current, torch.from_numpy(mask).to(self.lm.device)

    def _next_logits(self) -> Float[Tensor, "row vocab"]:
        given: dict[str, Any] = {}
        if self.mask is not None:
            past = self.cache.get_seq_length()
            given["attention_mask"] = self.mask[:, : past + self.current.shape[1]]
            if "position_ids" in self.takes:
                positions = given["attention_mask"].cumsum(1) - 1
                given["position_ids"] = positions[:, past:].clamp(min=0)
        if "logits_to_keep" in self.takes:
            given["logits_to_keep"] = 1
        out = self.lm.model(
            input_ids=self.current, past_key_values=self.cache, use_cache=True, **given
        )
        logits: Tensor = out.logits[:, -1]
        return logits.float()

    def _drop(self, ended: Tensor) -> None:
        """Leave ended rows behind once they are an eighth of the batch: a smaller batch saves
        less than moving the cache costs while only a few have ended."""
        if int(ended.sum()) * 8 < ended.shape[0]:
            return
        kept = torch.nonzero(~ended).squeeze(1)
        self.cache.batch_select_indices(kept)
        self.alive, self.rows, self.current = self.alive[kept], self.rows[kept], self.current[kept]
        if self.mask is not None:
            self.mask = self.mask[kept]
        if self.prompt_lengths is not None:
            self.prompt_lengths = self.prompt_lengths[kept]

    def _check_finite(self, total: Float[Tensor, " row"], step: int) -> None:
        """A logit that is not a number, or too large for one, shows in the sum of all."""
        bad = torch.isnan(total) | (total == float("inf"))
        if bool(bad.any()):
            raise LmError(
                f"the logits of prompt {int(self.rows[bad][0])} are not finite at new token "
                f"{step}; expected numbers; steer with a smaller coefficient or use float32"
            )


def _choose(
    logits: Float[Tensor, "row vocab"], uniforms: Float[Tensor, " row"], temperature: float | int
) -> Int[Tensor, " row"]:
    if temperature == 0:
        return logits.argmax(1)
    cumulated = torch.softmax(logits / temperature, 1).cumsum(1)
    total = cumulated[:, -1]
    # Rounding may carry a number just under 1 up to the total, beyond the last possible token.
    wanted = torch.minimum(uniforms * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulated, wanted[:, None], right=True).squeeze(1)


def _uniforms(
    seeds: Sequence[int], max_new_tokens: int, temperature: float | int
) -> Float[Tensor, "row step"]:
    if temperature == 0:
        return torch.zeros((len(seeds), max_new_tokens))
    rows = [np.random.default_rng(seed).random(max_new_tokens, np.float32) for seed in seeds]
    return torch.from_numpy(np.stack(rows))


def _check(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float | int,
    seeds: Sequence[int],
) -> None:
    if len(seeds) != len(prompts):
        raise LmError(f"got {len(seeds)} seeds for {len(prompts)} prompts; give one a prompt")
    if not 0 <= temperature < float("inf") or max_new_tokens < 1:
        raise LmError(
            f"temperature {temperature:g} and {max_new_tokens} new tokens were asked for; expected "
            "a temperature of 0 or more and at least one token; correct them"
        )
    for row, prompt in enumerate(prompts):
        check_length(lm, len(prompt), f"prompt {row}")
        if len(prompt) + max_new_tokens > lm.context:
            raise ContextOverflow(
                f"prompt {row} has {len(prompt)} tokens and {max_new_tokens} more were asked for; "
                f"expected at most {lm.context} in all, the context of {lm.name}; ask for fewer"
            )
