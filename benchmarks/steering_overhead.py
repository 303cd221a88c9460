"""Added processor time of edits in a cached decode step, measured in two ways.

The hooks alone: the same hooks on a model that computes nothing, with and without them. The
step: whole decode steps in rounds of random order, with the unsteered step a second time as the
control. A bare torch hook that adds a vector is measured beside them: no tool can take less.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from benchmarks import steering_models as models
from benchmarks import table
from benchmarks.steering_time import PROMPT_TOKENS, in_turns, milliseconds, over, under
from lm.hookpoint import HookPoint
from lm.model import LanguageModel
from lm.tap import Edit, edited
from steering.steer import edits_for

ROUNDS, HOOK_ROUNDS, HOOK_CALLS = 40, 21, 100
ADD, FEATURES, ROWS = 0.5, 2.0, 3.0
"""Percent of a decode step that may be added."""
COLUMNS = ("what", "hooks alone", "whole step", "added (95 %)", "required", "")

Edits: TypeAlias = Mapping[HookPoint, Edit]
Attach: TypeAlias = Callable[[LanguageModel], AbstractContextManager[None]]
"""Makes the `with` in which a model is steered."""
Arm: TypeAlias = tuple[Attach, float | None]
"""How to steer, and what that may add in percent where something is required of it."""


def main() -> None:
    """Print the tables."""
    for lm, steps in ((models.microworld_model(), 64), (models.gpt2_shaped(), 6)):
        _table(lm, 1, steps, one_row(lm))
        _table(lm, models.N_FEATURES, steps, eight_rows(lm))


def one_row(lm: LanguageModel) -> dict[str, Arm]:
    """What one row is steered with."""
    sae = models.autoencoder(lm)
    whole = models.WholeAutoencoder(sae, range(models.N_FEATURES), models.CAP)
    return {
        "a bare hook that adds a vector": (bare_add, None),
        "one add": (by(edits_for(lm, models.one_add(lm))), ADD),
        "clamp of 8 latents": (by(edits_for(lm, models.clamped(sae))), FEATURES),
        "gate over 8 latents": (by(edits_for(lm, models.gated(lm, sae))), FEATURES),
        "that clamp by a whole encode and decode": (by({models.middle(lm): whole}), None),
    }


def eight_rows(lm: LanguageModel) -> dict[str, Arm]:
    """What eight rows are steered with, each with a list of its own."""
    sae = models.autoencoder(lm)
    return {
        "eight rows, an add each": (by(edits_for(lm, models.rows_of_adds(lm))), ROWS),
        "eight rows, a kind each": (by(edits_for(lm, models.rows_of_kinds(lm, sae))), ROWS),
    }


def by(edits: Edits) -> Attach:
    """Steering by these edits."""
    return lambda lm: edited(lm, edits)


@contextmanager
def bare_add(lm: LanguageModel) -> Iterator[None]:
    """A torch hook that adds a vector to every token and knows nothing else."""
    vector = models.STRENGTH * models.directions(lm, 1)[0].vector
    block = lm.blocks[models.middle(lm).layer]
    handle = block.register_forward_hook(lambda _module, _args, out: out + vector)
    try:
        yield
    finally:
        handle.remove()


def _table(lm: LanguageModel, n_rows: int, steps: int, arms: Mapping[str, Arm]) -> None:
    base = under(nullcontext, lm, n_rows, steps)
    sides: dict[str, Callable[[], float]] = {"base": base, "control": base}
    for name, (attach, _) in arms.items():
        sides[name] = under(partial(attach, lm), lm, n_rows, steps)
    found = in_turns(sides, ROUNDS)
    step = median(found["base"])
    shape = f"{lm.n_layers} blocks of {lm.d_model}, {n_rows} row{'s' * (n_rows > 1)}"
    table.title(f"A decode step of {lm.name}: {shape}, {ROUNDS} rounds of {steps} steps", COLUMNS)
    control = over(found, "control", "base")
    table.row("unsteered, against itself", "", milliseconds(found["base"]), control.added())
    for name, (attach, bar) in arms.items():
        alone, added = hook_seconds(lm, n_rows, attach), over(found, name, "base")
        table.row(
            name,
            f"{1e6 * alone:.0f} µs, {100 * alone / step:.2f} %",
            milliseconds(found[name]),
            added.added(),
            "" if bar is None else f"≤ {bar:g} %",
            None if bar is None else added.low <= 1 + bar / 100,
        )


def hook_seconds(lm: LanguageModel, n_rows: int, attach: Attach) -> float:
    """What the hooks take in one decode step of a model that computes nothing."""
    hollow = Hollow(n_rows, lm.d_model)
    stand_in = replace(
        lm, model=hollow, stem=hollow.stem, blocks=(hollow.stem.block,) * lm.n_layers
    )
    ids = torch.full((n_rows, 1), 5)

    def run(steering: AbstractContextManager[None]) -> float:
        past = _Past()
        with steering, torch.inference_mode():
            hollow(input_ids=ids, past_key_values=past, use_cache=True)
            began = time.process_time()
            for _ in range(HOOK_CALLS):
                past.length += 1
                hollow(input_ids=ids, past_key_values=past, use_cache=True)
            return (time.process_time() - began) / HOOK_CALLS

    sides = {"without": lambda: run(nullcontext()), "with": lambda: run(attach(stand_in))}
    found = in_turns(sides, HOOK_ROUNDS)
    return median(found["with"]) - median(found["without"])


class Hollow(nn.Module):
    """A model of one block that gives the same stream whatever it is asked."""

    def __init__(self, n_rows: int, d_model: int) -> None:
        super().__init__()
        self.stem = _Stem(torch.randn(n_rows, 1, d_model))

    def forward(self, input_ids: Tensor, **given: Any) -> Any:
        return self.stem(input_ids=input_ids, **given)

    def generate(self) -> None:
        """Taps wrap it; nothing here calls it."""


class _Stem(nn.Module):
    def __init__(self, resid: Tensor) -> None:
        super().__init__()
        self.resid, self.block = resid, nn.Identity()

    def forward(self, **_given: Any) -> Any:
        return self.block(self.resid)


class _Past:
    def __init__(self) -> None:
        self.length = PROMPT_TOKENS

    def get_seq_length(self) -> int:
        return self.length
