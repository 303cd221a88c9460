"""evaluate: judge the test prompts' texts once, and say what each method bought for what cost.

Solves nothing and generates nothing. The tax is measured again, on held-out documents that the
budgets were not solved on.
"""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from pipelines.errors import require
from pipelines.params import Params, load_params
from pipelines.stage import model_source, run_stage
from pipelines.trial.arms import (
    CORPUS,
    PROMPT,
    UNSTEERED,
    arms_of,
    heldout_documents,
    prefix_of,
)
from pipelines.trial.cells import (
    Cell,
    Key,
    Resampling,
    cell,
    frontier_rows,
    score_rows,
    with_tax,
)
from pipelines.trial.judges import Judge, open_judge
from pipelines.trial.scoring import Texts, baseline, score_judged
from pipelines.trial.summary import dose_rows, frontier_summary, summary
from steering.fluency import mean_nats, reference
from store.atomic import whole_dir, whole_file
from store.manifest import write_json
from store.schema import read_metadata, read_table, write_table

if TYPE_CHECKING:
    from steering.tax import Tax

OUT = Path("data/evaluation")
METRICS = Path("metrics/steering.json")
PLOTS = Path("plots")
GENERATIONS = Path("data/steer/generation.parquet")
DIRECTIONS = Path("data/directions/directions.safetensors")
log = logging.getLogger(__name__)


def main() -> None:
    """Score what `steer` generated and write `data/evaluation`, metrics and plots."""
    params = load_params()
    generations = read_table(require(GENERATIONS, "steer"), "generation")
    judge = open_judge(CORPUS, params.executor.workers)
    # All concepts at once, so that worker processes start once.
    probabilities = judged_once(judge, texts_of(generations))
    names = np.array(generations["concept"].to_pylist())
    cells = []
    for concept in sorted(set(names.tolist())):
        own = names == concept
        cells += concept_cells(judge, concept, generations.filter(own), probabilities[own])
    cells = taxed(cells, params)
    _write(cells, Resampling(params.evaluate.bootstrap, params.evaluate.permutations, params.seed))


def concept_cells(
    judge: Judge, concept: str, rows: pa.Table, probabilities: Float[np.ndarray, "row column"]
) -> list[Cell]:
    """Every dose of one concept, scored on the test prompts."""
    texts, keys = texts_of(rows), _keys(rows)
    is_test = np.array(rows["split"].to_pylist()) == "test"
    is_unsteered = np.array([key.method == UNSTEERED for key in keys])
    quiet = _pick(texts, is_unsteered & ~is_test)
    ref = reference(mean_nats(quiet.nats), quiet.ids)
    plain = is_unsteered & is_test
    base = baseline(judge, concept, _pick(texts, plain), ref, probabilities[plain])
    others = ~judge.rivals(concept)
    cells = []
    for key in dict.fromkeys(keys):
        chosen = is_test & np.array([other == key for other in keys])
        mine = _pick(texts, chosen)
        scores = score_judged(judge, base, mine, probabilities[chosen])
        cells.append(cell(key, mine, scores, base, others=others, target=judge.column(concept)))
    return cells


def texts_of(rows: pa.Table) -> Texts:
    """Rows of `generations` as columns."""
    lists = {name: rows[name].combine_chunks() for name in ("ids", "nats")}
    parts = {
        name: np.split(column.flatten().to_numpy(), np.cumsum(column.value_lengths())[:-1])
        if rows.num_rows
        else []
        for name, column in lists.items()
    }
    return Texts(
        prompt_ids=rows["prompt_id"].to_numpy().astype(np.int64),
        seeds=rows["seed"].to_numpy().astype(np.int64),
        prompts=rows["prompt"].to_pylist(),
        texts=rows["text"].to_pylist(),
        ids=parts["ids"],
        nats=parts["nats"],
    )


def taxed(cells: Sequence[Cell], params: Params) -> list[Cell]:
    """The cells of budgets and prompts with their cost on the other half of the held-out text."""
    from lm.model import open_model
    from steering.direction import load_directions
    from steering.tax import held_out, measure_tax, prefix_tax

    model = params.model
    lm = open_model(model_source(model), model.device, model.dtype, model.weights)
    documents = list(heldout_documents("test", params.evaluate.heldout_tokens).values())
    texts = held_out(lm, documents, max(map(len, documents)))
    arms = {(arm.concept, arm.method): arm for arm in arms_of(load_directions(DIRECTIONS))}
    steered = [one for one in cells if one.key.budget is not None]
    pushes = [
        arms[one.key.concept, one.key.method].push(one.key.coefficient or 0.0) for one in steered
    ]
    taxes: dict[Key, Tax] = {
        one.key: tax for one, tax in zip(steered, measure_tax(lm, texts, pushes), strict=True)
    }
    for one in cells:
        if one.key.method == PROMPT:
            taxes[one.key] = prefix_tax(lm, texts, prefix_of(lm, one.key.concept))
    return [with_tax(one, taxes[one.key]) if one.key in taxes else one for one in cells]


def judged_once(judge: Judge, texts: Texts) -> Float[np.ndarray, "row column"]:
    """The judge's probabilities; a text that several methods wrote is read once."""
    asked = list(zip(texts.texts, map(len, texts.prompts), strict=True))
    place: dict[tuple[str, int], int] = {}
    for one in asked:
        place.setdefault(one, len(place))
    found = judge.probabilities([text for text, _ in place], [start for _, start in place])
    return found[[place[one] for one in asked]]


def _keys(rows: pa.Table) -> list[Key]:
    names = ("concept", "method", "budget", "coefficient")
    return [Key(*row) for row in zip(*(rows[name].to_pylist() for name in names), strict=True)]


def _pick(texts: Texts, chosen: np.ndarray) -> Texts:
    at = np.flatnonzero(chosen).tolist()
    return Texts(
        texts.prompt_ids[at],
        texts.seeds[at],
        [texts.prompts[i] for i in at],
        [texts.texts[i] for i in at],
        [texts.ids[i] for i in at],
        [texts.nats[i] for i in at],
    )


def _write(cells: Sequence[Cell], how: Resampling) -> None:
    scores, frontier = score_rows(cells, how), frontier_rows(cells, how)
    metadata = {**read_metadata(GENERATIONS), "stage": "evaluate"}
    with whole_dir(OUT) as scratch:
        write_table(
            scratch / "steer_score.parquet", "steer_score", pa.Table.from_pylist(scores), metadata
        )
        write_table(
            scratch / "frontier.parquet", "frontier", pa.Table.from_pylist(frontier), metadata
        )
    write_json(METRICS, summary(cells, how))
    _write_csv(PLOTS / "steering-frontier.csv", frontier_summary(cells, how))
    _write_csv(PLOTS / "steering-dose.csv", dose_rows(cells, how))
    log.info("%d scores of %d doses", len(scores), len(cells))


def _write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    sink = io.StringIO(newline="")
    if rows:
        writer = csv.DictWriter(sink, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    with whole_file(path) as scratch:
        scratch.write_text(sink.getvalue(), encoding="utf-8")


if __name__ == "__main__":
    run_stage("evaluate", main)
