"""What `tiller concepts` and `tiller features search --concept` do: who reads a concept best."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from pipelines.errors import PipelineError

if TYPE_CHECKING:
    import duckdb

    from features.concept_scores import ConceptScore, Split
    from features.concept_search import ConceptHit
    from features.own_concepts import OwnConcept
    from features.rules import Level

CORPUS, FEATURES = Path("data/corpus"), Path("data/features")


def score_concept(
    file: Path | None,
    pattern: str | None,
    words: str | None,
    *,
    level: Level | None,
    split: Split,
    sae: str | None,
    limit: int,
    workspace: Path,
) -> None:
    """Print the features that read a concept of one's own best."""
    from features.concept_scores import RANKED_ON, score_concepts
    from features.own_concepts import ConceptFile, find_concepts
    from store.activations import iter_features

    concept = _asked(file, pattern, words, level)
    with _store(workspace) as con:
        run_id = _run_of(con, sae)
        names = _names(con, run_id)
    corpus = workspace / CORPUS
    splits = None if isinstance(concept, ConceptFile) else (RANKED_ON, split)
    own = find_concepts([concept], corpus, splits)
    features = iter_features(workspace / FEATURES / run_id)
    console = Console(highlight=False)
    for score in score_concepts(own, corpus, features, split=split):
        _print_score(score, names, console, run_id=run_id, split=split, limit=limit)


def search_concept(text: str | None, name: str | None, *, limit: int, workspace: Path) -> None:
    """Print the features that read a concept of the store best.

    Raises:
        PipelineError: a text was asked for too, or nothing at all.
    """
    from features.concept_search import features_of_concept

    if name is None or text is not None:
        raise PipelineError(
            f"got {'neither a text nor a concept' if name is None else 'a text and a concept'}; "
            "expected one of TEXT, --concept NAME; give one"
        )

    with _store(workspace) as con:
        hits = features_of_concept(con, name, limit)
    print_hits(name, hits, Console(highlight=False))


def print_hits(name: str, hits: Sequence[ConceptHit], console: Console) -> None:
    """Features by a concept, the best first; an undefined figure is a dash, with its reason."""
    if not hits:
        console.print(f"no feature was measured against {escape(repr(name))}; run the stage label")
        return
    first = hits[0]
    console.print(_heading(name, first.n_pos, first.n_neg, "test"))
    table = _table()
    for hit in hits:
        table.add_row(
            f"weak: {hit.slug}" if hit.is_weak else hit.slug,
            f"{hit.run_id}/{hit.feature_id}",
            *_figures(hit.auroc, hit.lo, hit.hi, hit.f1, hit.q_value),
        )
    console.print(table)
    for reason in dict.fromkeys(hit.reason for hit in hits if hit.reason is not None):
        console.print(f"undefined: {escape(reason)}")


def _print_score(
    score: ConceptScore,
    names: dict[int, str],
    console: Console,
    *,
    run_id: str,
    split: str,
    limit: int,
) -> None:
    from features.concept_tables import why_undefined

    reading = score.reading
    console.print(_heading(reading.truth.name, reading.n_pos, reading.n_neg, split))
    table = _table()
    for i, feature in enumerate(score.feature[:limit].tolist()):
        columns = (reading.auroc, reading.lo, reading.hi, reading.best_f1, score.q_value)
        found = (float(column[i]) for column in columns)
        figures = _figures(*(None if math.isnan(one) else one for one in found))
        table.add_row(names.get(feature, str(feature)), f"{run_id}/{feature}", *figures)
    console.print(table)
    if (reason := why_undefined(reading, split)) is not None:
        console.print(f"undefined: {escape(reason)}")


def _heading(name: str, n_pos: int | None, n_neg: int | None, split: str) -> str:
    counts = f"{n_pos} positives, {n_neg} negatives on {split}"
    ranked = "" if split == "score" else "; ranked on score"
    return f"[bold]{escape(name)}[/bold]  {counts}{ranked}"


def _table() -> Table:
    right = (Column(name, justify="right") for name in ("auroc", "95 %", "F1", "q"))
    return Table("name", "feature", *right, box=None, pad_edge=False)


def _figures(
    auroc: float | None, lo: float | None, hi: float | None, f1: float | None, q: float | None
) -> tuple[str, str, str, str]:
    interval = "-" if lo is None or hi is None else f"{lo:.3f}..{hi:.3f}"
    plain = ["-" if value is None else f"{value:.3f}" for value in (auroc, f1)]
    return plain[0], interval, plain[1], "-" if q is None else f"{q:.2g}"


def _asked(
    file: Path | None, pattern: str | None, words: str | None, level: Level | None
) -> OwnConcept:
    from features.own_concepts import ConceptFile, ConceptPattern, ConceptWords

    asked = {"FILE": file, "--pattern": pattern, "--words": words}
    given = [name for name, value in asked.items() if value is not None]
    if len(given) != 1:
        raise PipelineError(
            f"got {' and '.join(given) or 'no concept'}; expected exactly one of FILE, --pattern, "
            "--words; give one"
        )
    if file is not None:
        if level is not None:
            raise PipelineError(
                f"--level {level} was given with a file, whose columns say it; expected it with "
                "--pattern or --words only; leave it out"
            )
        return ConceptFile(file)
    if pattern is not None:
        return ConceptPattern("pattern", pattern, level or "token")
    listed = tuple(word.strip() for word in (words or "").split(",") if word.strip())
    if not listed:
        raise PipelineError(
            f"--words is {words!r}; expected words with commas between them; give at least one"
        )
    return ConceptWords("words", listed, level or "token")


def _run_of(con: duckdb.DuckDBPyConnection, sae: str | None) -> str:
    """The SAE that is asked for; the first of the store where none is."""
    runs = [row[0] for row in con.execute("SELECT run_id FROM run ORDER BY run_id").fetchall()]
    if sae is None:
        return str(runs[0])
    if sae not in runs:
        raise PipelineError(
            f"there is no SAE {sae!r} in the store; expected one of {', '.join(runs)}; choose one"
        )
    return sae


def _names(con: duckdb.DuckDBPyConnection, run_id: str) -> dict[int, str]:
    rows = con.execute(
        """
        SELECT feature_id, slug, is_weak FROM feature WHERE run_id = $run AND slug IS NOT NULL
        """,
        {"run": run_id},
    ).fetchall()
    return {feature: f"weak: {slug}" if weak else slug for feature, slug, weak in rows}


@contextlib.contextmanager
def _store(workspace: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    from store.catalog import open as open_store

    with contextlib.closing(open_store(workspace)) as con:
        yield con
