"""Everything about one feature on one card: statistics, contexts, logits, neighbours, scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import duckdb

from features.contexts import HARD, TOP
from features.hits import NEIGHBOUR_KINDS
from features.refs import FeatureRef, resolve, rows_of

GRADED = (8, 5, 2)
"""Tenths of the activations of which one context each is shown, the stronger first."""
SILENT_SHOWN = 2
"""Contexts shown where the feature is silent on a piece that it often fires on."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A token of a context and the feature's activation there, 0 where silent."""

    text: str
    value: float
    is_peak: bool


@dataclass(frozen=True, slots=True)
class Context:
    """The text around one token of a feature's `topk`."""

    doc_id: int
    split: str
    stratum: int
    """0 the largest activations, 1 to 9 tenths of them, 11 silent on a piece that it fires on."""
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class LabelScore:
    """One figure of a name on test documents, of an output name on calibrate prompts; no value
    where it is undefined, with the reason."""

    metric: str
    value: float | None
    lo: float | None
    hi: float | None
    null_value: float | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class CardLabel:
    """One label of the feature, and what it is worth."""

    slug: str
    text: str
    side: str
    """input: what it fires on; output: what it makes the model say."""
    status: str
    """ok, weak or unscored."""
    scores: tuple[LabelScore, ...]


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Another feature and how near it is, by one kind of nearness."""

    slug: str
    feature_id: int
    score: float


@dataclass(frozen=True, slots=True)
class ConceptReading:
    """How well the activation tells a concept, on the score split."""

    name: str
    auroc: float
    lo: float | None
    hi: float | None
    q_value: float | None


@dataclass(frozen=True, slots=True)
class FeatureCard:
    """One feature as a person wants to see it."""

    ref: FeatureRef
    labels: tuple[CardLabel, ...]
    """Of the input side first; none where it has none."""
    statistics: Mapping[str, Any]
    """The row of `feature_stats`."""
    contexts: tuple[Context, ...]
    promotes: tuple[tuple[str, float], ...]
    """Pieces, and the logit that one unit along the decoder row adds to each."""
    suppresses: tuple[tuple[str, float], ...]
    neighbours: Mapping[str, tuple[Neighbour, ...]]
    """By kind: dec_cos, coact_jaccard, value_corr."""
    concepts: tuple[ConceptReading, ...]
    """Those that it reads best."""
    steering: Mapping[str, Any]
    """The row of `steerability`; empty where steering was not tried."""


def show(
    con: duckdb.DuckDBPyConnection, name: str, *, contexts: int = 8, run_id: str | None = None
) -> FeatureCard:
    """The card of a feature; weak names are shown too.

    Args:
        contexts: most of the largest activations to show; those of other strata come on top.

    Raises:
        UnknownFeature: there is none; the message gives the nearest names.
        AmbiguousFeature: several runs have one.
    """
    ref = resolve(con, name, run_id, allow_weak=True)
    key = {"run": ref.run_id, "feature": ref.feature_id}
    own = "WHERE run_id = $run AND feature_id = $feature"
    (statistics,) = rows_of(con, f"FROM feature_stats {own}", key)
    steering = rows_of(con, f"FROM steerability {own}", key)
    return FeatureCard(
        ref=ref,
        labels=_labels(con, key),
        statistics=statistics,
        contexts=_contexts(con, ref, contexts),
        promotes=_logits(con, key, "promotes"),
        suppresses=_logits(con, key, "suppresses"),
        neighbours=_neighbours(con, key),
        concepts=_concepts(con, key),
        steering=steering[0] if steering else {},
    )


def _labels(con: duckdb.DuckDBPyConnection, key: dict[str, Any]) -> tuple[CardLabel, ...]:
    labels = rows_of(
        con,
        """
        SELECT l.label_id, l.slug, l.text, l.side, l.status FROM label AS l
        JOIN feature AS f ON f.run_id = l.run_id AND f.feature_id = l.feature_id
        WHERE l.run_id = $run AND l.feature_id = $feature
        ORDER BY l.side = 'output', l.label_id IS DISTINCT FROM f.label_id, l.label_id
        """,
        key,
    )
    scores = rows_of(
        con,
        """
        SELECT s.label_id, s.metric, s.value, s.lo, s.hi, s.null_value, s.reason
        FROM label_score AS s
        JOIN label AS l ON l.run_id = s.run_id AND l.label_id = s.label_id
        WHERE l.run_id = $run AND l.feature_id = $feature
          AND (s.split = 'test' OR s.metric = 'output_gain')
        ORDER BY s.metric, s.scorer, s.seed
        """,
        key,
    )
    return tuple(
        CardLabel(
            slug=label["slug"],
            text=label["text"],
            side=label["side"],
            status=label["status"],
            scores=tuple(
                LabelScore(**{name: value for name, value in row.items() if name != "label_id"})
                for row in scores
                if row["label_id"] == label["label_id"]
            ),
        )
        for label in labels
    )


def _contexts(con: duckdb.DuckDBPyConnection, ref: FeatureRef, most: int) -> tuple[Context, ...]:
    """One context a document and stratum, twelve tokens before the peak and eight after."""
    rows = rows_of(
        con,
        """
        WITH once AS (
            SELECT k.stratum, k.rank, k.tok, k.split, t.doc_id
            FROM topk AS k JOIN token AS t ON t.tok = k.tok
            WHERE k.run_id = $run AND k.feature_id = $feature
              AND (k.stratum IN ($top, $hard) OR list_contains($graded, k.stratum))
            QUALIFY row_number() OVER (PARTITION BY k.stratum, t.doc_id ORDER BY k.rank) = 1
        ),
        peak AS (
            SELECT o.*, row_number() OVER (PARTITION BY o.stratum ORDER BY o.rank) AS place
            FROM once AS o
            QUALIFY place <= CASE o.stratum WHEN $top THEN $most WHEN $hard THEN $silent ELSE 1 END
        ),
        fired AS (
            SELECT a.tok, a.value FROM act_file AS a
            WHERE a.run_id = $run AND a.feature_id = $feature
              AND a.bucket = act_bucket($run, $feature)
        )
        SELECT p.stratum, p.place, p.doc_id, p.split, v.text, coalesce(f.value, 0) AS value,
               t.tok = p.tok AS is_peak
        FROM peak AS p
        JOIN token AS t ON t.doc_id = p.doc_id AND t.tok BETWEEN p.tok - 12 AND p.tok + 8
        JOIN vocab AS v ON v.token_id = t.token_id
        LEFT JOIN fired AS f ON f.tok = t.tok
        WHERE NOT t.is_special
        ORDER BY CASE p.stratum WHEN $top THEN 0 WHEN $hard THEN 20 ELSE 10 - p.stratum END,
                 p.place, t.tok
        """,
        {
            "run": ref.run_id,
            "feature": ref.feature_id,
            "top": TOP,
            "hard": HARD,
            "graded": list(GRADED),
            "most": most,
            "silent": SILENT_SHOWN,
        },
    )
    found: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["stratum"], row["place"]), []).append(row)
    return tuple(
        Context(
            doc_id=pieces[0]["doc_id"],
            split=pieces[0]["split"],
            stratum=stratum,
            pieces=tuple(Piece(p["text"] or "", p["value"], p["is_peak"]) for p in pieces),
        )
        for (stratum, _), pieces in found.items()
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
) -> dict[str, tuple[Neighbour, ...]]:
    rows = rows_of(
        con,
        """
        SELECT n.kind, n.score, n.other_id AS feature_id,
               coalesce(f.slug, CAST(n.other_id AS VARCHAR)) AS slug
        FROM neighbour AS n
        LEFT JOIN feature AS f ON f.run_id = n.run_id AND f.feature_id = n.other_id
        WHERE n.run_id = $run AND n.feature_id = $feature AND n.rank < 6
        ORDER BY n.kind, n.rank
        """,
        key,
    )
    return {
        kind: tuple(
            Neighbour(row["slug"], row["feature_id"], row["score"])
            for row in rows
            if row["kind"] == kind
        )
        for kind in NEIGHBOUR_KINDS
    }


def _concepts(con: duckdb.DuckDBPyConnection, key: dict[str, Any]) -> tuple[ConceptReading, ...]:
    rows = rows_of(
        con,
        """
        SELECT c.name, fc.auroc, fc.lo, fc.hi, fc.q_value
        FROM feature_concept AS fc JOIN concept AS c ON c.concept_id = fc.concept_id
        WHERE fc.run_id = $run AND fc.feature_id = $feature AND fc.split = 'score'
          AND fc.auroc IS NOT NULL
        ORDER BY fc.auroc DESC, c.name LIMIT 5
        """,
        key,
    )
    return tuple(ConceptReading(**row) for row in rows)
