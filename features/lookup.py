"""What a search reads of the store, as temporary views or as tables in memory.

One definition serves both: a command that asks once reads the files, a page or a notebook
that asks at every key pays for the copy once. Temporary names belong to one cursor, so
nobody else's connection sees them.
"""

from __future__ import annotations

import duckdb

_SCORED = """
    SELECT s.run_id, s.label_id, s.metric, s.value AS score, s.lo, s.hi, s.null_value
    FROM label_score AS s
    WHERE (s.split = 'test' AND s.metric = 'detection') OR s.metric = 'output_gain'
    QUALIFY row_number() OVER (
        PARTITION BY s.run_id, s.label_id, s.metric ORDER BY s.scorer, s.seed
    ) = 1
"""

_OF_ALL_RUNS = frozenset({"search_vocab", "search_concept"})
_PARTS = {
    "search_name": f"""
        WITH scored AS ({_SCORED})
        SELECT l.run_id, l.label_id, l.feature_id, l.slug, l.text, l.side,
               l.status = 'weak' AS is_weak, s.score, s.lo, s.hi, s.null_value
        FROM label AS l
        LEFT JOIN scored AS s ON s.run_id = l.run_id AND s.label_id = l.label_id
            AND s.metric = CASE WHEN l.side = 'output' THEN 'output_gain' ELSE 'detection' END
    """,
    "search_feature": """
        SELECT f.run_id, f.feature_id, f.slug, f.text, coalesce(f.is_weak, false) AS is_weak,
               f.score, f.lo, f.hi, f.null_value, f.density
        FROM feature AS f
    """,
    "search_vocab": """
        SELECT v.token_id, v.piece, v.text, trim(v.text) AS word FROM vocab AS v
    """,
    "search_token": """
        SELECT g.run_id, g.feature_id, g.token_id, g.logit FROM logit AS g
        WHERE g.side = 'promotes' ORDER BY g.token_id
    """,
    "search_concept": """
        SELECT c.concept_id, c.name FROM concept AS c
    """,
    "search_reading": """
        SELECT fc.run_id, fc.feature_id, fc.concept_id, fc.auroc, fc.best_f1
        FROM feature_concept AS fc
        WHERE fc.split = 'score' AND fc.auroc IS NOT NULL ORDER BY fc.concept_id
    """,
    "search_neighbour": """
        SELECT n.run_id, n.feature_id, n.kind, n.rank, n.other_id, n.score FROM neighbour AS n
    """,
}


def prepare(
    con: duckdb.DuckDBPyConnection, *, run_id: str | None, in_memory: bool
) -> duckdb.DuckDBPyConnection:
    """A cursor of its own on the store that also has the names `search_*`.

    Args:
        run_id: leave the other runs out; NULL keeps all.
        in_memory: copy the rows now, for many questions, and not read the files at each.
    """
    cursor = con.cursor()
    kind = "TABLE" if in_memory else "VIEW"
    only = "" if run_id is None else f" WHERE run_id = '{run_id.replace(chr(39), chr(39) * 2)}'"
    for name, statement in _PARTS.items():
        where = "" if name in _OF_ALL_RUNS else only
        cursor.execute(f"CREATE OR REPLACE TEMP {kind} {name} AS FROM ({statement}){where}")
    return cursor
