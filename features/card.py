"""Everything about one feature on one card: statistics, contexts, logits, neighbours, scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import duckdb

from features.search import FeatureRef, resolve, rows_of


@dataclass(frozen=True, slots=True)
class Piece:
    """A token of a context and the feature's activation there, 0 where silent."""

    text: str
    value: float
    is_peak: bool


@dataclass(frozen=True, slots=True)
class Context:
    """The text around a token on which the feature fires strongly."""

    doc_id: int
    split: str
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class LabelScore:
    """One figure of the feature's name; no value where it is undefined, with the reason."""

    metric: str
    value: float | None
    lo: float | None
    hi: float | None
    null_value: float | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class FeatureCard:
    """One feature as a person wants to see it."""

    ref: FeatureRef
    text: str
    """What its label says; empty where it has none."""
    statistics: Mapping[str, Any]
    """The row of `feature_stats`."""
    contexts: tuple[Context, ...]
    promotes: tuple[tuple[str, float], ...]
    suppresses: tuple[tuple[str, float], ...]
    neighbours: tuple[tuple[str, float], ...]
    """Names and cosines of the nearest decoder rows."""
    concepts: tuple[tuple[str, float], ...]
    """Concepts that it reads best and its AUROC, on the score split."""
    scores: tuple[LabelScore, ...]


def show(
    con: duckdb.DuckDBPyConnection, name: str, *, contexts: int = 8, run_id: str | None = None
) -> FeatureCard:
    """The card of a feature; weak names are shown too.

    Raises:
        UnknownFeature: there is none; the message gives the nearest names.
        AmbiguousFeature: several runs have one.
    """
    ref = resolve(con, name, run_id, allow_weak=True)
    key = {"run": ref.run_id, "feature": ref.feature_id}
    label = rows_of(
        con,
        """
        SELECT label_id, text FROM label
        WHERE run_id = $run AND feature_id = $feature AND side <> 'output' ORDER BY label_id
        """,
        key,
    )
    statistics = rows_of(
        con, "FROM feature_stats WHERE run_id = $run AND feature_id = $feature", key
    )[0]
    return FeatureCard(
        ref=ref,
        text=label[0]["text"] if label else "",
        statistics=statistics,
        contexts=_contexts(con, ref, contexts),
        promotes=_logits(con, key, "promotes"),
        suppresses=_logits(con, key, "suppresses"),
        neighbours=_neighbours(con, key),
        concepts=_concepts(con, key),
        scores=_scores(con, ref.run_id, label[0]["label_id"]) if label else (),
    )


def _contexts(con: duckdb.DuckDBPyConnection, ref: FeatureRef, most: int) -> tuple[Context, ...]:
    """One context a document, twelve tokens before the peak and eight after."""
    rows = rows_of(
        con,
        """
        WITH peak AS (
            SELECT k.rank, k.tok, k.split, t.doc_id
            FROM topk AS k JOIN token AS t ON t.tok = k.tok
            WHERE k.run_id = $run AND k.feature_id = $feature AND k.stratum = 0
            QUALIFY row_number() OVER (PARTITION BY t.doc_id ORDER BY k.rank) = 1
            ORDER BY k.rank LIMIT $most
        ),
        fired AS (
            SELECT a.tok, a.value FROM act_file AS a
            WHERE a.run_id = $run AND a.feature_id = $feature
              AND a.bucket = act_bucket($run, $feature)
        )
        SELECT p.rank, p.doc_id, p.split, v.text, coalesce(f.value, 0) AS value,
               t.tok = p.tok AS is_peak
        FROM peak AS p
        JOIN token AS t ON t.doc_id = p.doc_id AND t.tok BETWEEN p.tok - 12 AND p.tok + 8
        JOIN vocab AS v ON v.token_id = t.token_id
        LEFT JOIN fired AS f ON f.tok = t.tok
        WHERE NOT t.is_special
        ORDER BY p.rank, t.tok
        """,
        {"run": ref.run_id, "feature": ref.feature_id, "most": most},
    )
    found: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["rank"], []).append(row)
    return tuple(
        Context(
            doc_id=pieces[0]["doc_id"],
            split=pieces[0]["split"],
            pieces=tuple(Piece(p["text"] or "", p["value"], p["is_peak"]) for p in pieces),
        )
        for pieces in found.values()
    )


def _logits(
    con: duckdb.DuckDBPyConnection, key: dict[str, Any], side: str
) -> tuple[tuple[str, float], ...]:
    rows = rows_of(
        con,
        """
        SELECT v.text, g.logit FROM logit AS g JOIN vocab AS v ON v.token_id = g.token_id
        WHERE g.run_id = $run AND g.feature_id = $feature AND g.side = $side
        ORDER BY g.rank LIMIT 10
        """,
        {**key, "side": side},
    )
    return tuple((row["text"] or "", row["logit"]) for row in rows)


def _neighbours(
    con: duckdb.DuckDBPyConnection, key: dict[str, Any]
) -> tuple[tuple[str, float], ...]:
    rows = rows_of(
        con,
        """
        SELECT coalesce(f.slug, CAST(n.other_id AS VARCHAR)) AS slug, n.score
        FROM neighbour AS n
        LEFT JOIN feature AS f ON f.run_id = n.run_id AND f.feature_id = n.other_id
        WHERE n.run_id = $run AND n.feature_id = $feature AND n.kind = 'dec_cos'
        ORDER BY n.rank LIMIT 6
        """,
        key,
    )
    return tuple((row["slug"], row["score"]) for row in rows)


def _concepts(con: duckdb.DuckDBPyConnection, key: dict[str, Any]) -> tuple[tuple[str, float], ...]:
    rows = rows_of(
        con,
        """
        SELECT c.name, fc.auroc
        FROM feature_concept AS fc JOIN concept AS c ON c.concept_id = fc.concept_id
        WHERE fc.run_id = $run AND fc.feature_id = $feature AND fc.split = 'score'
        ORDER BY fc.auroc DESC, c.name LIMIT 5
        """,
        key,
    )
    return tuple((row["name"], row["auroc"]) for row in rows)


def _scores(con: duckdb.DuckDBPyConnection, run_id: str, label_id: int) -> tuple[LabelScore, ...]:
    rows = rows_of(
        con,
        """
        SELECT metric, value, lo, hi, null_value, reason FROM label_score
        WHERE run_id = $run AND label_id = $label AND split = 'test' ORDER BY metric
        """,
        {"run": run_id, "label": label_id},
    )
    return tuple(LabelScore(**row) for row in rows)
