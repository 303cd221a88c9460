"""Stage `label`: names for features, with scores on documents that chose nothing.

Reads the corpus, the activations and the residuals (for the probes that say which concepts
the stream carries); writes data/labels and metrics/labels.json. Test documents are opened
only once every rule and slug is settled. Loads no torch.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Int

from features.auroc import read_concepts
from features.concept_tables import concept_table
from features.documents import Documents, gather, read_documents
from features.label_summary import summarise_labels
from features.label_tables import (
    evidence_table,
    label_table,
    score_table,
    withheld_table,
)
from features.labels import (
    LabelConfig,
    check_withheld,
    choose_labels,
    output_rules,
    score_labels,
)
from features.probe import ProbeScore, Sample, probe_concepts, sample_rows
from features.scoring import Scorer
from features.vocab import Vocab
from pipelines.errors import PipelineError, require
from pipelines.params import load_params
from pipelines.stage import run_stage
from store.activations import iter_features
from store.atomic import whole_dir, whole_file
from store.manifest import write_json
from store.residuals import Residuals
from store.schema import read_table, write_table

CORPUS, FEATURES, RESIDUALS = Path("data/corpus"), Path("data/features"), Path("data/residuals")
LABELS, METRICS = Path("data/labels"), Path("metrics/labels.json")
PROBE_TOKENS = 60_000
"""Tokens that a probe is fitted on, and at most as many that it is scored on."""
STORE_TABLES = ("label", "label_score", "feature_concept")

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
    vocab = Vocab.read(CORPUS)
    learned = {name: read_documents(CORPUS, name, vocab) for name in ("label", "train", "score")}
    made: dict[str, list[pa.Table]] = {}
    summary: dict[str, Any] = {}
    for run_id, sae in params.sae.items():
        tables, summary[run_id] = _label_run(run_id, sae.hook_point, learned, vocab, config)
        for name, table in tables.items():
            made.setdefault(name, []).append(table)
        log.info("%s: %s features labelled", run_id, summary[run_id]["labelled"])
    with whole_dir(LABELS) as folder:
        for name, parts in made.items():
            table = pa.concat_tables(parts)
            if name in STORE_TABLES:
                write_table(folder / f"{name}.parquet", name, table, {"stage": "label"})
            else:
                _write_own(folder / f"{name}.parquet", table)
    write_json(METRICS, summary)


def _label_run(
    run_id: str, hook_point: str, learned: dict[str, Documents], vocab: Vocab, config: LabelConfig
) -> tuple[dict[str, pa.Table], dict[str, Any]]:
    root = FEATURES / run_id
    d_sae = read_table(root / "feature_stats.parquet", "feature_stats").num_rows
    label, train, score = gather(
        [learned[name] for name in ("label", "train", "score")], iter_features(root), d_sae
    )
    chosen = choose_labels(label, train, score, config)

    # Nothing below may change a rule or a slug: from here on, test documents are open.
    documents = read_documents(CORPUS, "test", vocab)
    (test,) = gather([documents], iter_features(root), d_sae)
    scorer = Scorer(
        test,
        _ranked(root / "neighbour.parquet", ("kind", "dec_cos"), "other_id", d_sae),
        bootstrap=config.bootstrap,
        seed=config.seed,
    )
    scored = score_labels(chosen.choices, chosen.slugs, scorer)
    withheld = score_labels(chosen.withheld, chosen.withheld_slugs, scorer)
    checks = check_withheld(chosen, test)
    promoted = _ranked(root / "logit.parquet", ("side", "promotes"), "token_id", d_sae)
    outputs = output_rules(promoted, [one.choice.feature for one in scored])
    alive = score.n_act > 0
    tables = {
        "label": label_table(scored, outputs, vocab, run_id=run_id),
        "label_score": score_table(scored, outputs, run_id=run_id, seed=config.seed),
        "feature_concept": concept_table(chosen, read_concepts(test), alive, run_id=run_id),
        "evidence": evidence_table(scored, run_id=run_id),
        "withheld": withheld_table(withheld, checks, vocab, run_id=run_id),
    }
    probes = _probes(hook_point, learned["train"], documents, config.seed)
    return tables, summarise_labels(chosen, scored, withheld, checks, probes)


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


def _write_own(path: Path, table: pa.Table) -> None:
    """A table that is no part of the store."""
    with whole_file(path) as scratch:
        pq.write_table(table, scratch, compression="zstd", compression_level=3)


if __name__ == "__main__":
    run_stage("label", main)
