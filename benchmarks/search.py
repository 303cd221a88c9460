"""How long a search takes, by kind, and what a pasted text finds.

Asked of the finished microworld and, for times, of a store of usual size. The larger store is
synthetic: 24,576 features of width 768, two labels each, 50,257 pieces, 40
concepts, every neighbour. Times are wall times on a search opened once; the model's pass over a
pasted text is left out, since it is the model's. The command itself is timed as a process.
"""

from __future__ import annotations

import contextlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import duckdb
import numpy as np

from benchmarks import search_quality
from benchmarks.search_data import D_MODEL, D_SAE, RUN, write_store
from features.search import DIRECTIONS, Search
from store.catalog import open as open_store

TEXT_TOKENS, ASKED, RUNS = 48, 40, 5
Cost = tuple[float, float]
"""Wall and processor milliseconds."""
COMMANDS = (["features", "search", "sea"], ["features", "near", "sea"], ["--help"])
COLUMNS = ("what", "median", "p95", "processor", "required", "")
WIDTHS = (46, 10, 10, 10, 10, 5)


def main() -> None:
    """Print a table for each store, and what the command costs as a process."""
    project = Path(__file__).resolve().parent.parent
    if (project / "data/store/catalog.sql").is_file():
        measure(project, "the microworld", limit_ms=50)
        commands(project)
        with contextlib.closing(open_store(project)) as con:
            search_quality.measure(con)
    else:
        print("no data/store here, so nothing of the microworld; `tiller run` makes one")
    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder)
        write_store(workspace)
        measure(workspace, f"{D_SAE:,} features of width {D_MODEL}, synthetic", limit_ms=100)


def measure(workspace: Path, name: str, *, limit_ms: float) -> None:
    """Medians and 95th percentiles of every kind of search over one store."""
    print(f"\n### Search: {name}\n", flush=True)
    _line(COLUMNS)
    _line(tuple("-" * width for width in WIDTHS))
    with contextlib.closing(open_store(workspace)) as con:
        began = _now()
        search = Search(con, in_memory=True, directions=workspace / DIRECTIONS)
        _row("to open it, copying into memory", [_since(began)])
        began = _now()
        search.null(RUN)
        _row("to read the decoder, and draw its null, once", [_since(began)])
        for kind, ask in kinds(con, search):
            ask(0)
            _row(kind, [_timed(ask, i) for i in range(ASKED)], limit_ms)


def kinds(
    con: duckdb.DuckDBPyConnection, search: Search
) -> Iterator[tuple[str, Callable[[int], object]]]:
    """Every kind of question as a function of a number, about what the store holds."""
    labels = con.execute(
        "SELECT slug, text FROM label WHERE side <> 'output' ORDER BY hash(label_id) LIMIT $n",
        {"n": ASKED},
    ).fetchall()
    names = [str(slug) for slug, _ in labels]
    texts = [" ".join(str(text).split()[-2:]) for _, text in labels]
    pieces = _column(
        con,
        """
        SELECT trim(v.text) FROM logit AS g JOIN vocab AS v ON v.token_id = g.token_id
        WHERE g.side = 'promotes' AND trim(v.text) <> '' ORDER BY hash(g.feature_id, g.rank)
        """,
    )
    concepts = _column(con, "SELECT name FROM concept ORDER BY concept_id")
    d_sae = int(_column(con, "SELECT CAST(d_sae AS VARCHAR) FROM run")[0])
    acts = _activations(TEXT_TOKENS, d_sae)
    words = [str(i) for i in range(TEXT_TOKENS)]
    yield "a name", lambda i: search.named(names[i])
    yield "part of a name, as one types", lambda i: search.named(names[i][: 1 + i % 4])
    yield "two words of labels (BM25)", lambda i: search.labelled(texts[i])
    yield "a promoted token", lambda i: search.promoting(pieces[i])
    yield "a concept", lambda i: search.reading(concepts[i % len(concepts)])
    yield "all of these at once", lambda i: search.everything(texts[i])
    yield (
        f"a text of {TEXT_TOKENS} tokens, activations given",
        lambda i: search.active(np.roll(acts, i, axis=1), words, RUN),
    )
    yield "neighbours of a feature, all kinds", lambda i: search.near(names[i])
    yield "a difference of two features (cosine)", lambda i: search.near(_pair(names, i))


def commands(workspace: Path) -> None:
    """The wall time of the command as a process, beside the interpreter with DuckDB alone."""
    print("\n### The command, as a process\n", flush=True)
    _line(COLUMNS)
    _line(tuple("-" * width for width in WIDTHS))
    bare = [sys.executable, "-c", "import duckdb"]
    _row("python -c 'import duckdb'", [_process(bare, workspace) for _ in range(RUNS)])
    for arguments in COMMANDS:
        asked = [sys.executable, "-m", "pipelines", *arguments]
        times = [_process(asked, workspace) for _ in range(RUNS)]
        _row(f"tiller {' '.join(arguments)}", times)


def _activations(n_tokens: int, d_sae: int) -> np.ndarray:
    """What a sparse autoencoder might say of a text: 64 features a token at most."""
    rng = np.random.default_rng(1)
    acts = np.zeros((n_tokens, d_sae), dtype=np.float32)
    fires = rng.integers(0, d_sae, size=(n_tokens, min(64, d_sae)))
    np.put_along_axis(acts, fires, rng.exponential(size=fires.shape).astype(np.float32), axis=1)
    return acts


def _pair(names: Sequence[str], i: int) -> str:
    return f"{names[i]} - {names[(i + 1) % len(names)]}"


def _column(con: duckdb.DuckDBPyConnection, statement: str) -> list[str]:
    return [str(row[0]) for row in con.execute(f"{statement} LIMIT {ASKED}").fetchall()]


def _timed(ask: Callable[[int], object], i: int) -> Cost:
    began = _now()
    ask(i)
    return _since(began)


def _process(arguments: Sequence[str], workspace: Path) -> Cost:
    began, used = time.perf_counter(), _used_by_children()
    subprocess.run(arguments, check=True, capture_output=True, cwd=workspace)
    return 1e3 * (time.perf_counter() - began), 1e3 * (_used_by_children() - used)


def _used_by_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _since(began: tuple[float, float]) -> Cost:
    wall, processor = _now()
    return 1e3 * (wall - began[0]), 1e3 * (processor - began[1])


def _row(what: str, costs: Sequence[Cost], limit_ms: float | None = None) -> None:
    """Median and 95th percentile of wall times, median processor time of all threads.

    What is required is required of the 95th percentile.
    """
    wall, processor = np.array(costs).T
    middle, high = np.quantile(wall, [0.5, 0.95])
    p95 = f"{high:.1f} ms" if len(costs) > 1 else ""
    required = "" if limit_ms is None else f"≤ {limit_ms:g} ms"
    verdict = "" if limit_ms is None else "met" if high <= limit_ms else "below"
    _line((what, f"{middle:.1f} ms", p95, f"{np.median(processor):.1f} ms", required, verdict))


def _line(cells: Sequence[str]) -> None:
    padded = (cell.ljust(width) for cell, width in zip(cells, WIDTHS, strict=True))
    print("| " + " | ".join(padded) + " |", flush=True)


if __name__ == "__main__":
    main()
