"""The features worth showing: which, and each with its contexts, tokens and scores.

Reads the store's views only; what it gives is plain values for a page.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import duckdb

BEFORE, AFTER = 10, 8
"""Tokens shown around a context's peak."""


@dataclass(frozen=True, slots=True)
class ShownToken:
    """A token of a context, and how strongly the feature fires on it."""

    text: str
    strength: float
    """Share of the feature's largest activation, 0 to 1."""
    peak: bool


@dataclass(frozen=True, slots=True)
class Card:
    """One feature of the gallery."""

    run_id: str
    feature_id: int
    slug: str
    method: str
    score: str
    density: str
    contexts: tuple[tuple[ShownToken, ...], ...]
    promotes: tuple[str, ...]
    suppresses: tuple[str, ...]
    says: str
    """What a push makes the model say, with its score; empty where that was not tried."""


def cards(
    con: duckdb.DuckDBPyConnection, *, features: int, contexts: int, first: tuple[str, ...]
) -> list[Card]:
    """The best-scored named features; those of the concepts in `first` come first.

    Half of the rest are named after a concept of the corpus, half after tokens or classes, so
    that a page shows more than one kind of name; of several features with one name, the first.
    """
    rows = con.execute(
        """
        WITH named AS (
            SELECT run_id, feature_id, slug, method, score, lo, hi, null_value, density, max_value,
                   output_text, output_gain, output_lo, output_hi, output_null,
                   row_number() OVER (
                       PARTITION BY method = 'concept' ORDER BY lo - null_value DESC, slug
                   ) AS place
            FROM feature
            WHERE slug IS NOT NULL AND NOT is_weak AND score IS NOT NULL
              AND NOT regexp_matches(slug, '-[0-9]+$')
        )
        SELECT * FROM named
        ORDER BY list_position($first, slug) IS NULL, place, slug
        LIMIT $features
        """,
        {"first": list(first), "features": features},
    ).fetchall()
    columns = [column[0] for column in con.description or []]
    return [_card(con, dict(zip(columns, row, strict=True)), contexts) for row in rows]


def _card(con: duckdb.DuckDBPyConnection, row: dict[str, Any], contexts: int) -> Card:
    key = {"run": row["run_id"], "feature": row["feature_id"]}
    peaks = con.execute(
        """
        SELECT tok FROM topk
        WHERE run_id = $run AND feature_id = $feature AND stratum = 0
        ORDER BY rank LIMIT $contexts
        """,
        {**key, "contexts": contexts},
    ).fetchall()
    return Card(
        run_id=row["run_id"],
        feature_id=row["feature_id"],
        slug=row["slug"],
        method=row["method"],
        score=_score(row),
        density=f"{row['density']:.2%}",
        contexts=tuple(_context(con, key, peak, row["max_value"]) for (peak,) in peaks),
        promotes=_tokens(con, key, "promotes"),
        suppresses=_tokens(con, key, "suppresses"),
        says=_says(row),
    )


def _score(row: dict[str, Any]) -> str:
    null = "" if row["null_value"] is None else f", null {row['null_value']:.2f}"
    interval = "" if row["lo"] is None else f" [{row['lo']:.2f}, {row['hi']:.2f}]"
    return f"score {row['score']:.2f}{interval}{null}"


def _says(row: dict[str, Any]) -> str:
    if row["output_gain"] is None:
        return ""
    interval = f"[{row['output_lo']:.2f}, {row['output_hi']:.2f}]"
    gain = f"gain {row['output_gain']:.2f} {interval} nats, null {row['output_null']:.2f}"
    return f"{row['output_text']}: {gain}"


def _context(
    con: duckdb.DuckDBPyConnection, key: dict[str, Any], peak: int, largest: float
) -> tuple[ShownToken, ...]:
    rows = con.execute(
        """
        SELECT t.tok, v.text, coalesce(a.value, 0)
        FROM token AS t
        JOIN vocab AS v ON v.token_id = t.token_id
        LEFT JOIN (
            SELECT tok, value FROM active_at($peak - $before, $peak + $after, run_id := $run)
            WHERE feature_id = $feature
        ) AS a ON a.tok = t.tok
        WHERE t.tok BETWEEN $peak - $before AND $peak + $after AND NOT t.is_special
          AND t.doc_id = (SELECT doc_id FROM token WHERE tok = $peak)
        ORDER BY t.tok
        """,
        {**key, "peak": peak, "before": BEFORE, "after": AFTER},
    ).fetchall()
    return tuple(
        ShownToken(text, min(1.0, value / largest) if largest > 0 else 0.0, tok == peak)
        for tok, text, value in rows
    )


def _tokens(
    con: duckdb.DuckDBPyConnection, key: dict[str, Any], side: str, most: int = 8
) -> tuple[str, ...]:
    rows = con.execute(
        """
        SELECT v.text
        FROM logit AS l JOIN vocab AS v ON v.token_id = l.token_id
        WHERE l.run_id = $run AND l.feature_id = $feature AND l.side = $side
        ORDER BY l.rank LIMIT $most
        """,
        {**key, "side": side, "most": most},
    ).fetchall()
    return tuple(text for (text,) in rows)
