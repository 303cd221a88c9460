"""A sweep of coefficients, directions and prompts: one batched call against loops of calls.

Every way makes the same greedy texts with this project's own engine, so that only the batching
differs. Other tools steer a whole batch alike, so that they need one call for each coefficient
and direction; many scripts generate one prompt at a time. How much less a row costs the unsteered
model in a large batch bounds what batching can give.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from statistics import median

import torch

from benchmarks import steering_models as models
from benchmarks import table
from benchmarks.steering_time import in_turns, under
from lm.generate import Generation, generate
from lm.model import LanguageModel
from steering.direction import Direction
from steering.intervention import Add
from steering.steer import edits_for

N_COEFFICIENTS, N_PROMPTS, N_DIRECTIONS = 8, 16, 12
NEW_TOKENS, ROUNDS, REQUIRED = 32, 3, 8.0
BATCH_ROWS = 512
"""Rows of the one call that run together: more are no faster here, once the cores are busy."""
SINGLE_SHARE = 12
"""The loop over single prompts is run on one cell in so many, spread evenly, and scaled up."""
COLUMNS = ("what", "one call", "the loop", "ratio (from–to)", "required", "")

Cell = tuple[Direction, float]


def main() -> None:
    """Print the table."""
    lm = models.microworld_model()
    prompts, cells = prompts_of(lm), cells_of(lm)
    found: dict[str, list[float]] = {"one": [], "calls": [], "single": []}
    few = cells[::SINGLE_SHARE]
    for _ in range(ROUNDS):
        found["one"].append(_seconds(lambda: in_one_batch(lm, prompts, cells)))
        found["calls"].append(_seconds(lambda: in_calls(lm, prompts, cells)))
        single = _seconds(lambda: one_by_one(lm, prompts, few))
        found["single"].append(single * len(cells) / len(few))
    shape = f"{N_COEFFICIENTS} x {N_PROMPTS} x {N_DIRECTIONS} texts of {NEW_TOKENS} tokens"
    table.title(f"A sweep of {lm.name}: {shape}, {ROUNDS} rounds", COLUMNS)
    _row("one call for each coefficient and direction", found["one"], found["calls"])
    _row("one call for each text", found["one"], found["single"])
    _bound(lm)
    same, n_texts = agreement(lm, prompts, few)
    table.row("texts equal to the text made alone", f"{same} of {n_texts}")


def prompts_of(lm: LanguageModel) -> list[list[int]]:
    """Prompts of unequal lengths."""
    drawn = random.Random(0)
    first = max(lm.special_ids, default=-1) + 1
    return [
        [drawn.randrange(first, lm.n_vocab) for _ in range(drawn.randrange(6, 17))]
        for _ in range(N_PROMPTS)
    ]


def cells_of(lm: LanguageModel) -> list[Cell]:
    """Every direction at every coefficient."""
    coefficients = [-2.0, -1.0, -0.5, -0.25, 0.25, 0.5, 1.0, 2.0]
    return [(u, c) for u in models.directions(lm, N_DIRECTIONS) for c in coefficients]


def in_one_batch(
    lm: LanguageModel, prompts: Sequence[list[int]], cells: Sequence[Cell]
) -> list[Generation]:
    """All texts in one call, a list of edits a row."""
    rows = [[Add(u, c)] for u, c in cells for _ in prompts]
    return _texts(lm, list(prompts) * len(cells), rows)


def in_calls(
    lm: LanguageModel, prompts: Sequence[list[int]], cells: Sequence[Cell]
) -> list[Generation]:
    """One call for each cell, all its prompts together."""
    return [text for u, c in cells for text in _texts(lm, prompts, [Add(u, c)])]


def one_by_one(
    lm: LanguageModel, prompts: Sequence[list[int]], cells: Sequence[Cell]
) -> list[Generation]:
    """One call for each text."""
    return list(_each(lm, prompts, cells))


def agreement(
    lm: LanguageModel, prompts: Sequence[list[int]], cells: Sequence[Cell]
) -> tuple[int, int]:
    """How many texts of one batch are the very texts made alone, and how many there are."""
    together, alone = in_one_batch(lm, prompts, cells), one_by_one(lm, prompts, cells)
    pairs = zip(together, alone, strict=True)
    return sum(one.ids == other.ids for one, other in pairs), len(alone)


def _each(
    lm: LanguageModel, prompts: Sequence[list[int]], cells: Sequence[Cell]
) -> Iterator[Generation]:
    for u, c in cells:
        for prompt in prompts:
            yield from _texts(lm, [prompt], [Add(u, c)])


def _texts(
    lm: LanguageModel, prompts: Sequence[list[int]], rows: list[Add] | list[list[Add]]
) -> list[Generation]:
    return generate(
        lm,
        prompts,
        max_new_tokens=NEW_TOKENS,
        temperature=0,
        seeds=[0] * len(prompts),
        edits=edits_for(lm, rows),
        batch_rows=BATCH_ROWS,
        stop_at_eos=False,
    )


def _row(what: str, one: Sequence[float], loop: Sequence[float]) -> None:
    ratios = [slow / fast for slow, fast in zip(loop, one, strict=True)]
    table.row(
        what,
        f"{median(one):.3g} s",
        f"{median(loop):.4g} s",
        f"{median(ratios):.1f} ({min(ratios):.1f}–{max(ratios):.1f})",
        f"≥ {REQUIRED:g}",
        median(ratios) >= REQUIRED,
    )


def _bound(lm: LanguageModel) -> None:
    """What batching alone can give against one call a cell: nothing is steered here."""
    sizes = {"one": BATCH_ROWS, "calls": N_PROMPTS}
    sides = {side: under(nullcontext, lm, n_rows, NEW_TOKENS) for side, n_rows in sizes.items()}
    found = in_turns(sides, 5 * ROUNDS)
    a_row = {side: median(found[side]) / n_rows for side, n_rows in sizes.items()}
    table.row(
        f"a row of an unsteered decode step: {BATCH_ROWS} rows, {N_PROMPTS} rows",
        f"{1e6 * a_row['one']:.0f} µs",
        f"{1e6 * a_row['calls']:.0f} µs",
        f"{a_row['calls'] / a_row['one']:.1f}",
    )


def _seconds(run: Callable[[], object]) -> float:
    with torch.inference_mode():
        began = time.process_time()
        run()
        return time.process_time() - began
