"""What holds in each document of a split, and which features read it or are named after it."""

from __future__ import annotations

import json
from dataclasses import dataclass

import duckdb
import numpy as np
from jaxtyping import Bool, Float, Int

AS_GOOD = 0.01
"""AUROC by which a feature may fall short of a concept's best and count as good as it."""
NO_CONCEPT = -1


@dataclass(frozen=True, eq=False)
class Texts:
    """The documents of one split: activations, and the concepts that hold in the whole of each."""

    acts: tuple[Float[np.ndarray, "_ d_sae"], ...]
    """Of each document, special tokens left out."""
    holds: Bool[np.ndarray, "doc concept"]


@dataclass(frozen=True, eq=False)
class Features:
    """What is known of an SAE's features, from the corpus and from the score split."""

    density: Float[np.ndarray, " d_sae"]
    n_docs: Int[np.ndarray, " d_sae"]
    mean: Float[np.ndarray, " d_sae"]
    """Mean activation where it fires."""
    std: Float[np.ndarray, " d_sae"]
    best: Int[np.ndarray, " concept"]
    """The feature that reads each concept best."""
    as_good: Bool[np.ndarray, "d_sae concept"]
    reads: Int[np.ndarray, " d_sae"]
    """The concept that each reads best, where with an AUROC of .9 or more."""
    named: Int[np.ndarray, " d_sae"]
    """The concept that each is named after."""

    def reads_of(self, holds: Bool[np.ndarray, " concept"]) -> Bool[np.ndarray, " d_sae"]:
        """The features that read one of these concepts."""
        return np.asarray((self.reads != NO_CONCEPT) & holds[self.reads])

    def best_of(self, holds: Bool[np.ndarray, " concept"]) -> Bool[np.ndarray, " d_sae"]:
        """The features that read one of these concepts best."""
        return np.isin(np.arange(len(self.reads)), self.best[holds])


def features(con: duckdb.DuckDBPyConnection, run_id: str) -> Features:
    """The features of a run against the concepts that hold in whole documents."""
    stats = con.execute(
        """
        SELECT greatest(coalesce(s.density, 0), 1 / r.n_tokens) AS density, s.n_docs,
               coalesce(s.mean_value, 1) AS mean, coalesce(s.std_value, 1) AS std
        FROM feature_stats AS s JOIN run AS r ON r.run_id = s.run_id
        WHERE s.run_id = $run ORDER BY s.feature_id
        """,
        {"run": run_id},
    ).fetchnumpy()
    concepts = _concepts(con)
    d_sae = len(stats["density"])
    auroc, f1 = np.zeros((d_sae, len(concepts))), np.zeros((d_sae, len(concepts)))
    read = con.execute(
        """
        SELECT c.name, x.feature_id, x.auroc, coalesce(x.best_f1, 0)
        FROM feature_concept AS x JOIN concept AS c ON c.concept_id = x.concept_id
        WHERE x.run_id = $run AND x.split = 'score' AND c.kind = 'document'
            AND x.auroc IS NOT NULL
        """,
        {"run": run_id},
    ).fetchall()
    for name, feature, area, f1_of in read:
        auroc[feature, concepts[name]], f1[feature, concepts[name]] = area, f1_of
    best = [int(np.lexsort((-f1[:, c], -auroc[:, c]))[0]) for c in range(len(concepts))]
    named = np.full(d_sae, NO_CONCEPT)
    rules = con.execute(
        "SELECT f.feature_id, l.rule FROM feature AS f JOIN label AS l "
        "ON l.run_id = f.run_id AND l.label_id = f.label_id WHERE f.run_id = $run",
        {"run": run_id},
    ).fetchall()
    for feature, rule in rules:
        said = json.loads(rule)
        if said.get("kind") == "concept":
            named[feature] = concepts.get(said["name"], NO_CONCEPT)
    return Features(
        np.asarray(stats["density"], dtype=np.float64),
        np.asarray(stats["n_docs"], dtype=np.int64),
        np.asarray(stats["mean"], dtype=np.float64),
        np.asarray(stats["std"], dtype=np.float64),
        np.array(best),
        auroc >= auroc.max(axis=0) - AS_GOOD,
        np.where(auroc.max(axis=1) >= 0.9, auroc.argmax(axis=1), NO_CONCEPT),
        named,
    )


def texts(con: duckdb.DuckDBPyConnection, run_id: str, split: str, d_sae: int) -> Texts:
    """Every document of a split, ascending."""
    concepts = _concepts(con)
    place = con.execute(
        """
        SELECT t.doc_id, t.tok FROM token AS t JOIN doc AS d ON d.doc_id = t.doc_id
        WHERE d.split = $split AND NOT t.is_special ORDER BY t.tok
        """,
        {"split": split},
    ).fetchnumpy()
    docs, doc = np.unique(np.asarray(place["doc_id"]), return_inverse=True)
    fired = con.execute(
        """
        SELECT a.tok, a.feature_id, a.value FROM act_token AS a
        JOIN token AS t ON t.tok = a.tok JOIN doc AS d ON d.doc_id = t.doc_id
        WHERE a.run_id = $run AND d.split = $split AND NOT t.is_special
        """,
        {"run": run_id, "split": split},
    ).fetchnumpy()
    acts = np.zeros((len(doc), d_sae), dtype=np.float32)
    acts[np.searchsorted(place["tok"], fired["tok"]), fired["feature_id"]] = fired["value"]
    holds = np.zeros((len(docs), len(concepts)), dtype=bool)
    labelled = con.execute(
        """
        SELECT x.doc_id, c.name FROM concept_label AS x
        JOIN concept AS c ON c.concept_id = x.concept_id
        WHERE x.tok IS NULL AND x.y = 1 AND c.kind = 'document'
            AND list_contains($docs, x.doc_id)
        """,
        {"docs": docs.tolist()},
    ).fetchall()
    for number, name in labelled:
        holds[np.searchsorted(docs, number), concepts[name]] = True
    return Texts(tuple(np.split(acts, np.flatnonzero(np.diff(doc)) + 1)), holds)


def _concepts(con: duckdb.DuckDBPyConnection) -> dict[str, int]:
    names = con.execute("SELECT name FROM concept WHERE kind = 'document' ORDER BY concept_id")
    return {str(name): number for number, (name,) in enumerate(names.fetchall())}
