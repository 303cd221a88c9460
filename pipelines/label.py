"""Stage `label`: names for features, with scores on documents that chose nothing.

Reads the corpus, the activations, the residuals (for the probes that say which concepts the
stream carries) and concepts of one's own; writes data/labels and metrics/labels.json. Test
documents are opened only once every rule and slug is settled, but for the places where
concepts of one's own hold in them. Loads no torch.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int

from features.concept_tables import concept_table
from features.documents import Documents, gather, read_documents
from features.label_summary import summarise_labels
from features.label_tables import (
    candidate_table,
    label_table,
    score_table,
    withheld_table,
)
from features.labels import (
    LabelConfig,
    check_withheld,
    choose_labels,
    output_rules,
    with_scores,
)
from features.languages import with_languages
from features.own_concepts import OwnConcepts, find_concepts
from features.probe import ProbeScore, Sample, probe_concepts, sample_rows
from features.vocab import Vocab
from pipelines.concept_inputs import own_concepts
from pipelines.errors import PipelineError, require
from pipelines.label_workers import make_choices, make_scores
from pipelines.language_model import Explainer
from pipelines.params import load_params
from pipelines.stage import run_stage
from store.activations import iter_features
from store.atomic import whole_dir
from store.manifest import write_json
from store.residuals import Residuals
from store.schema import conform, read_metadata_of_runs, read_table, write_table

CORPUS, FEATURES, RESIDUALS = Path("data/corpus"), Path("data/features"), Path("data/residuals")
LABELS, METRICS = Path("data/labels"), Path("metrics/labels.json")
PROBE_TOKENS = 60_000
"""Tokens that a probe is fitted on, and at most as many that it is scored on."""

log = logging.getLogger(__name__)


def main() -> None:
    """Label the features of every SAE in the parameters."""
    params = load_params()
    config = LabelConfig(
        min_firings=params.label.min_firings,
        bootstrap=params.label.bootstrap,
        complexity_penalty=params.label.complexity_penalty,
        withheld=params.label.withheld,
        seed=params.seed,
    )
    require(CORPUS / "vocab.parquet", "corpus")
    require(FEATURES, "harvest")
    metadata = {**read_metadata_of_runs(FEATURES, list(params.sae)), "stage": "label"}
    vocab = Vocab.read(CORPUS)
    own = find_concepts(own_concepts(params.label.concepts), CORPUS)
    learned = {
        name: with_languages(read_documents(CORPUS, name, vocab, own), CORPUS)
        for name in ("label", "train", "score")
    }
    made: dict[str, list[pa.Table]] = {}
    summary: dict[str, Any] = {}
    llm = params.label.llm
    explainer = None if llm is None else Explainer(llm, config, LABELS / "llm_answer.parquet")
    for run_id, sae in params.sae.items():
        tables, summary[run_id] = _label_run(
            run_id, sae.hook_point, learned, own, config, explainer, params.executor.workers
        )
        for name, table in tables.items():
            made.setdefault(name, []).append(table)
        log.info("%s: %s features labelled", run_id, summary[run_id]["labelled"])
    if explainer is not None:
        made["llm_answer"] = [explainer.answers()]
    with whole_dir(LABELS) as folder:
        for name, parts in made.items():
            table = pa.concat_tables(parts)
            write_table(folder / f"{name}.parquet", name, table, metadata)
        if own.concept.num_rows:
            for name, table in (("concept", own.concept), ("concept_label", own.concept_label)):
                write_table(folder / f"{name}.parquet", name, table, metadata)
    write_json(METRICS, summary)


def _label_run(
    run_id: str,
    hook_point: str,
    learned: dict[str, Documents],
    own: OwnConcepts,
    config: LabelConfig,
    explainer: Explainer | None,
    workers: int,
) -> tuple[dict[str, pa.Table], dict[str, Any]]:
    root, vocab = FEATURES / run_id, learned["train"].rows.vocab
    d_sae = read_table(root / "feature_stats.parquet", "feature_stats").num_rows
    label, train, score = gather(
        [learned[name] for name in ("label", "train", "score")], iter_features(root), d_sae
    )
    made_choices = make_choices(label, train, score, config, workers)
    chosen = choose_labels(label, train, score, config, made_choices)
    neighbours = _ranked(root / "neighbour.parquet", ("kind", "dec_cos"), "other_id", d_sae)
    promoted = _ranked(root / "logit.parquet", ("side", "promotes"), "token_id", d_sae)
    learnt = (label, train, score)
    explained = explainer.explain(chosen, learnt, neighbours, promoted) if explainer else ()

    # Nothing below may change a rule or a slug: from here on, test documents are open.
    documents = with_languages(read_documents(CORPUS, "test", vocab, own), CORPUS)
    (test,) = gather([documents], iter_features(root), d_sae)
    groups = (chosen.choices, chosen.withheld)
    scores, withheld_scores = make_scores(test, neighbours, groups, config, workers)
    scored = with_scores(chosen.choices, chosen.slugs, scores)
    withheld = with_scores(chosen.withheld, chosen.withheld_slugs, withheld_scores)
    checks = check_withheld(chosen, test)
    outputs = output_rules(promoted, [one.choice.feature for one in scored])
    alive = score.n_act > 0
    tables = {
        "label": label_table(scored, outputs, vocab, run_id=run_id),
        "label_score": score_table(scored, outputs, run_id=run_id, seed=config.seed),
        "feature_concept": concept_table(chosen.readings, test, alive, run_id=run_id),
        "label_candidate": candidate_table(scored, run_id=run_id),
        "withheld_label": withheld_table(withheld, checks, vocab, run_id=run_id),
    }
    probes = _probes(hook_point, learned["train"], documents, config.seed)
    summary = summarise_labels(chosen, scored, withheld, checks, probes)
    if explainer is not None:
        rows, summary["language_model"] = explainer.judge(
            explained, test, neighbours, tables["label"], run_id
        )
        for name, more in rows.items():
            tables[name] = pa.concat_tables([conform(name, tables[name]), more])
    return tables, summary


def _probes(
    hook_point: str, train: Documents, test: Documents, seed: int
) -> tuple[ProbeScore, ...]:
    if not train.truths:
        return ()
    residuals = Residuals.open(RESIDUALS / hook_point)
    return probe_concepts(_sample(residuals, train, seed), _sample(residuals, test, seed))


def _sample(residuals: Residuals, documents: Documents, seed: int) -> Sample:
    """Residuals of whole documents; the dump holds documents in order, one row a token."""
    row = sample_rows(documents, most=PROBE_TOKENS, seed=seed)
    taken = documents.doc_ids[np.unique(documents.rows.doc[row])]
    found = residuals.rows(taken)
    if len(found) != len(row):
        raise PipelineError(
            f"{residuals.dir} holds {len(found)} rows for {len(taken)} documents; expected "
            f"{len(row)}, one a token of the corpus; run `dvc repro dump` again"
        )
    return Sample(documents, row, residuals.take(found))


def _ranked(
    path: Path, wanted: tuple[str, str], other: str, d_sae: int
) -> Int[np.ndarray, "feature rank"]:
    """A ranked table as one row a feature, −1 where it has fewer.

    Args:
        wanted: a column and the value that rows must have there.
        other: the column to give.
    """
    table = read_table(path, path.stem)
    table = table.filter(pc.equal(table[wanted[0]], wanted[1]))
    rank = table["rank"].to_numpy()
    ranked = np.full((d_sae, int(rank.max(initial=-1)) + 1), -1, dtype=np.int64)
    ranked[table["feature_id"].to_numpy(), rank] = table[other].to_numpy()
    return ranked


if __name__ == "__main__":
    run_stage("label", main)
