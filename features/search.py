"""Features by name, by the words of their labels, by concept and by what they promote.

Asks an open store (`store.open`) and changes nothing in it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import duckdb

from features.errors import AmbiguousFeature, UnknownFeature, WeakFeature

FoundBy = Literal["name", "concept", "label", "promotes"]


@dataclass(frozen=True, slots=True)
class FeatureRef:
    """One feature of one run, as other rooms need it."""

    run_id: str
    feature_id: int
    slug: str
    """Its name, or its number where it has none."""
    hook_point: str
    is_weak: bool


@dataclass(frozen=True, slots=True)
class Hit:
    """A feature that a search found, and by what."""

    run_id: str
    feature_id: int
    slug: str
    text: str
    is_weak: bool
    found_by: FoundBy
    score: float
    """Similarity of the name, AUROC, BM25 or logit, by `found_by`."""


def resolve(
    con: duckdb.DuckDBPyConnection, name: str, run_id: str | None = None, allow_weak: bool = False
) -> FeatureRef:
    """The feature that a name stands for: `sea`, a number, or either behind `run/`.

    A number is the person's own choice and is never weak.

    Raises:
        UnknownFeature: there is none; the message gives the nearest names.
        AmbiguousFeature: several runs have one.
        WeakFeature: its name does not beat its null, and `allow_weak` is false.
    """
    given = re.fullmatch(r"([^/]+)/(.+)", name)
    if given is not None:
        run_id, name = given[1], given[2]
    by_number = name.isdecimal()
    found = _numbered(con, int(name), run_id) if by_number else _named(con, name, run_id)
    if not found:
        raise UnknownFeature(_unknown(con, name, run_id))
    if len({ref.run_id for ref in found}) > 1:
        runs = ", ".join(sorted({ref.run_id for ref in found}))
        raise AmbiguousFeature(
            f"{name!r} is a feature of the runs {runs}; expected one run; "
            f"write {found[0].run_id}/{name}"
        )
    if found[0].is_weak and not allow_weak and not by_number:
        raise WeakFeature(
            f"the name {name!r} does not beat its null (see `tiller features show {name}`); "
            "expected a name that does; choose another or allow it with --allow-weak"
        )
    return found[0]


def search(
    con: duckdb.DuckDBPyConnection, text: str, k: int = 20, run_id: str | None = None
) -> tuple[Hit, ...]:
    """At most `k` features that a text points to, each once, the surest sign first.

    Signs in order: the name is the text or holds it; the feature is among the three that
    read the concept of that name best; the label speaks of it (BM25); its decoder row
    promotes the piece.
    """
    runs = [run_id] if run_id is not None else _runs(con)
    hits: dict[tuple[str, int], Hit] = {}
    for finder in (_by_name, _by_concept, _by_label, _by_promoted):
        for run in runs:
            for hit in finder(con, text, run, k):
                hits.setdefault((hit.run_id, hit.feature_id), hit)
    return tuple(hits.values())[:k]


def _by_name(con: duckdb.DuckDBPyConnection, text: str, run: str, k: int) -> list[Hit]:
    rows = rows_of(
        con,
        """
        SELECT l.feature_id, l.slug, l.text, l.status = 'weak' AS is_weak,
               len($wanted) / len(l.slug) AS score
        FROM label AS l
        WHERE l.run_id = $run AND l.side <> 'output' AND contains(l.slug, $wanted)
        ORDER BY score DESC, len(l.slug), l.slug LIMIT $k
        """,
        {"wanted": text.lower().strip().replace(" ", "-"), "run": run, "k": k},
    )
    return _hits(rows, run, "name")


def _by_concept(con: duckdb.DuckDBPyConnection, text: str, run: str, k: int) -> list[Hit]:
    rows = rows_of(
        con,
        """
        SELECT fc.feature_id, f.slug, f.text, f.is_weak, fc.auroc AS score
        FROM feature_concept AS fc
        JOIN concept AS c ON c.concept_id = fc.concept_id
        JOIN feature AS f ON f.run_id = fc.run_id AND f.feature_id = fc.feature_id
        WHERE fc.run_id = $run AND fc.split = 'score' AND c.name = $wanted
        ORDER BY fc.auroc DESC, fc.best_f1 DESC, fc.feature_id LIMIT least($k, 3)
        """,
        {"wanted": text.strip(), "run": run, "k": k},
    )
    return _hits(rows, run, "concept")


def _by_label(con: duckdb.DuckDBPyConnection, text: str, run: str, k: int) -> list[Hit]:
    rows = rows_of(
        con,
        """
        SELECT feature_id, slug, text, status = 'weak' AS is_weak, bm25 AS score
        FROM search_label($wanted, k := $k, run_id := $run)
        """,
        {"wanted": text, "run": run, "k": k},
    )
    return _hits(rows, run, "label")


def _by_promoted(con: duckdb.DuckDBPyConnection, text: str, run: str, k: int) -> list[Hit]:
    rows = rows_of(
        con,
        """
        SELECT p.feature_id, p.slug, f.text, f.is_weak, p.logit AS score
        FROM promotes($wanted, run_id := $run) AS p
        JOIN feature AS f ON f.run_id = $run AND f.feature_id = p.feature_id
        ORDER BY p.logit DESC, p.feature_id LIMIT $k
        """,
        {"wanted": text.strip(), "run": run, "k": k},
    )
    return _hits(rows, run, "promotes")


def _hits(rows: Sequence[dict[str, Any]], run: str, found_by: FoundBy) -> list[Hit]:
    return [
        Hit(
            run_id=run,
            feature_id=row["feature_id"],
            slug=row["slug"] or str(row["feature_id"]),
            text=row["text"] or "",
            is_weak=bool(row["is_weak"]),
            found_by=found_by,
            score=float(row["score"]),
        )
        for row in rows
    ]


def _named(con: duckdb.DuckDBPyConnection, slug: str, run_id: str | None) -> list[FeatureRef]:
    rows = rows_of(
        con,
        """
        SELECT l.run_id, l.feature_id, l.slug, r.hook_point, l.status = 'weak' AS is_weak
        FROM label AS l JOIN run AS r ON r.run_id = l.run_id
        WHERE l.slug = $slug AND ($run IS NULL OR l.run_id = $run)
        ORDER BY l.run_id
        """,
        {"slug": slug, "run": run_id},
    )
    return [FeatureRef(**row) for row in rows]


def _numbered(con: duckdb.DuckDBPyConnection, number: int, run_id: str | None) -> list[FeatureRef]:
    rows = rows_of(
        con,
        """
        SELECT f.run_id, f.feature_id, coalesce(f.slug, CAST(f.feature_id AS VARCHAR)) AS slug,
               r.hook_point, coalesce(f.is_weak, false) AS is_weak
        FROM feature AS f JOIN run AS r ON r.run_id = f.run_id
        WHERE f.feature_id = $number AND ($run IS NULL OR f.run_id = $run)
        ORDER BY f.run_id
        """,
        {"number": number, "run": run_id},
    )
    return [FeatureRef(**row) for row in rows]


def _unknown(con: duckdb.DuckDBPyConnection, name: str, run_id: str | None) -> str:
    runs = _runs(con)
    if run_id is not None and run_id not in runs:
        return f"there is no run {run_id!r}; expected one of {', '.join(runs)}; correct the run"
    known = rows_of(con, "SELECT DISTINCT slug FROM label ORDER BY slug", {})
    slugs = [str(row["slug"]) for row in known]
    if not slugs:
        return f"no feature is called {name!r}: none has a name yet; run `dvc repro label` first"
    near = [slug for slug in slugs if slug.startswith(name)][:3]
    near += difflib.get_close_matches(name, slugs, n=5, cutoff=0.5)
    nearest = ", ".join(list(dict.fromkeys(near))[:5])
    hint = f"the nearest names are {nearest}" if nearest else f"there are {len(slugs)} names"
    return (
        f"no feature is called {name!r}; expected a name or a number; {hint}; "
        f"look with `tiller features search {name}`"
    )


def _runs(con: duckdb.DuckDBPyConnection) -> list[str]:
    return [row["run_id"] for row in rows_of(con, "SELECT run_id FROM run ORDER BY run_id", {})]


def rows_of(
    con: duckdb.DuckDBPyConnection, statement: str, params: dict[str, Any]
) -> list[dict[str, Any]]:
    """A query's rows as dictionaries."""
    cursor = con.execute(statement, params)
    names = [column[0] for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
