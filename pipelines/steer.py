"""steer: solve what each budget buys, then let every arm continue every prompt.

Budgets are solved on one half of the held-out documents. The calibrate prompts are continued
without steering, for what ordinary text is like; the test prompts by every arm at every dose,
with the same random numbers. Nothing is judged here.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipelines.errors import require
from pipelines.params import Params, SteerParams, load_params
from pipelines.stage import model_source, run_stage
from pipelines.trial.arms import (
    PREFIX_TOKENS,
    PROMPT,
    UNSTEERED,
    Arm,
    Half,
    Prompt,
    arms_of,
    budget_name,
    continued,
    direction_id,
    first_copies,
    heldout_documents,
    prefix_of,
    read_prompts,
    sample_seed,
)
from store.atomic import whole_dir
from store.schema import read_metadata, write_table

if TYPE_CHECKING:
    from lm.model import LanguageModel
    from steering.budget import Solution
    from steering.intervention import Intervention
    from steering.sampling import Ask

OUT = Path("data/steer")
DIRECTIONS = Path("data/directions/directions.safetensors")
CURVE_PROMPTS = 16
"""Prompts of the dose-response, one sample each: a curve for the eye, not a score."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Dose:
    """One arm at one coefficient, or a way to go without a direction."""

    concept: str
    method: str
    budget: str | None = None
    coefficient: float | None = None
    edits: tuple[Intervention, ...] = ()
    prefix: tuple[int, ...] = ()
    """Ids put between the prompt's special first token and the rest."""
    made_by: str = UNSTEERED
    """Equal for doses that are the same edit, so that one of them need not run."""


def main() -> None:
    """Solve budgets, generate, and write `data/steer`."""
    from lm.model import open_model
    from steering.direction import load_directions

    params = load_params()
    model = params.model
    lm = open_model(model_source(model), model.device, model.dtype, model.weights)
    arms = arms_of(load_directions(require(DIRECTIONS, "directions")))
    metadata = {**read_metadata(DIRECTIONS.with_name("direction.parquet")), "stage": "steer"}
    solutions = solve(lm, arms, params.steer)
    doses = list(_doses(lm, arms, solutions, params.steer))
    generations = _generate(lm, doses, params)
    with whole_dir(OUT) as scratch:
        solved = _coefficients(arms, solutions, params.steer)
        write_table(scratch / "coefficient.parquet", "coefficient", solved, metadata)
        write_table(scratch / "generation.parquet", "generation", generations, metadata)
    log.info("%d texts from %d doses of %d arms", generations.num_rows, len(doses), len(arms))


def solve(lm: LanguageModel, arms: Sequence[Arm], params: SteerParams) -> list[list[Solution]]:
    """For each arm the coefficient of each budget; arms that push alike are solved once."""
    from steering.budget import solve_alike
    from steering.tax import delta_ce, held_out

    documents = list(heldout_documents("calibrate", params.heldout_tokens).values())
    texts = held_out(lm, documents, max(map(len, documents)))
    first = first_copies(arms)
    own = [place for place, copy_of in enumerate(first) if copy_of == place]

    def cost(which: np.ndarray, doses: np.ndarray) -> np.ndarray:
        pairs = zip(which, doses, strict=True)
        return delta_ce(lm, texts, [arms[own[i]].push(float(dose)) for i, dose in pairs])

    solved = solve_alike(cost, len(own), params.budgets, tolerance=params.tolerance)
    by_arm = dict(zip(own, solved, strict=True))
    for place, solutions in by_arm.items():
        for budget, solution in zip(params.budgets, solutions, strict=True):
            if solution.reason:
                log.warning("%s at %g: %s", arms[place].direction_id, budget, solution.reason)
    return [by_arm[copy_of] for copy_of in first]


def _doses(
    lm: LanguageModel,
    arms: Sequence[Arm],
    solutions: Sequence[Sequence[Solution]],
    params: SteerParams,
) -> Iterator[Dose]:
    """Every dose that is generated: nothing, a prompt prefix, each budget, each coefficient."""
    for concept in dict.fromkeys(arm.concept for arm in arms):
        yield Dose(concept, UNSTEERED)
        prefix = prefix_of(lm, concept)
        if prefix:
            yield Dose(concept, PROMPT, prefix=prefix, made_by=f"{PROMPT} {prefix}")
    for arm, copy_of, solved in zip(arms, first_copies(arms), solutions, strict=True):
        met = [
            (budget_name(budget), solution.coefficient)
            for budget, solution in zip(params.budgets, solved, strict=True)
            if solution.reason is None
        ]
        for budget, coefficient in [*met, *((None, c) for c in params.coefficients)]:
            made_by = f"{arms[copy_of].direction_id} {coefficient}"
            edits = arm.push(coefficient)
            yield Dose(arm.concept, arm.method, budget, coefficient, edits, made_by=made_by)


def _generate(lm: LanguageModel, doses: Sequence[Dose], params: Params) -> pa.Table:
    """Every text of every dose; what would come out the same is made once."""
    from steering.sampling import sample

    steer = params.steer
    room = steer.max_new_tokens + PREFIX_TOKENS
    halves: tuple[Half, ...] = ("calibrate", "test")
    prompts = {
        (concept, half): read_prompts(lm, concept, half, steer.prompts, room)
        for concept in dict.fromkeys(dose.concept for dose in doses)
        for half in halves
    }
    rows: list[dict[str, Any]] = []
    asks: dict[tuple[str, tuple[int, ...], int], Ask] = {}
    keys = []
    for dose in doses:
        for row, ask in _asks(lm, dose, prompts, params):
            keys.append((dose.made_by, ask.prompt_ids, ask.seed))
            asks.setdefault(keys[-1], ask)
            rows.append(row)
    answers = sample(
        lm,
        list(asks.values()),
        max_new_tokens=steer.max_new_tokens,
        temperature=steer.temperature,
        batch_rows=steer.batch_rows,
    )
    answer_of = dict(zip(asks, answers, strict=True))
    for row, key in zip(rows, keys, strict=True):
        answer = answer_of[key]
        row["prompt"], row["text"] = continued(lm, row.pop("prompt_ids"), answer.ids)
        row |= {"ids": list(answer.ids), "nats": answer.nats}
    return pa.Table.from_pylist(rows)


def _asks(
    lm: LanguageModel,
    dose: Dose,
    prompts: Mapping[tuple[str, Half], Sequence[Prompt]],
    params: Params,
) -> Iterator[tuple[dict[str, Any], Ask]]:
    """What a dose is asked: every test prompt, and without steering the calibrate ones too."""
    from steering.sampling import Ask

    halves: tuple[Half, ...] = ("calibrate", "test") if dose.method == UNSTEERED else ("test",)
    is_of_curve = dose.budget is None and bool(dose.edits)
    for half in halves:
        asked_of = prompts[dose.concept, half]
        for prompt in asked_of[:CURVE_PROMPTS] if is_of_curve else asked_of:
            at = 1 if prompt.ids[0] in lm.special_ids else 0
            asked = prompt.ids[:at] + dose.prefix + prompt.ids[at:]
            for sample in range(1 if is_of_curve else params.steer.seeds):
                row = {
                    "prompt_id": prompt.prompt_id,
                    "concept": dose.concept,
                    "method": dose.method,
                    "direction_id": direction_id(dose.concept, dose.method),
                    "budget": dose.budget,
                    "coefficient": dose.coefficient,
                    "unit": "norm" if dose.edits else None,
                    "seed": sample,
                    "split": half,
                    "prompt_ids": prompt.ids,
                }
                seed = sample_seed(params.seed, prompt.prompt_id, sample)
                yield row, Ask(asked, seed, dose.edits, prompt.ids if dose.prefix else None)


def _coefficients(
    arms: Sequence[Arm], solutions: Sequence[Sequence[Solution]], params: SteerParams
) -> pa.Table:
    """What each budget bought, with the cost met on the calibrate half, or why nothing was."""
    rows = [
        {
            "direction_id": arm.direction_id,
            "method": arm.method,
            "concept": arm.concept,
            "budget": budget_name(budget),
            "unit": "norm",
            "coefficient": None if solution.reason else solution.coefficient,
            "cost": None if math.isnan(solution.cost) else solution.cost,
            "evaluations": solution.evaluations,
            "reason": solution.reason,
        }
        for arm, solved in zip(arms, solutions, strict=True)
        for budget, solution in zip(params.budgets, solved, strict=True)
    ]
    return pa.Table.from_pylist(rows)


if __name__ == "__main__":
    run_stage("steer", main)
