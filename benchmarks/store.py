"""`python -m benchmarks.store`: bytes, look-ups, sorting and memory of the feature store.

Over 22 million made-up activations of 24,576 latents, and over the workspace's own store where
there is one. Each line ends with `met` or `below` where something is required of it; what each
figure means is written in `docs/benchmarks.md`.
"""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import store_queries, table
from benchmarks.store_child import PART_ROWS, measured
from benchmarks.store_data import DOC_TOKENS, PowerLaw
from benchmarks.store_peers import bytes_under, top_by_delphi, write_delphi, write_naive
from store.activations import iter_features, iter_tokens

if TYPE_CHECKING:
    from features.documents import Evidence

HEAD = ("what", "store", "other", "ratio", "required", "")
LAW = PowerLaw(n_tokens=400_000, d_sae=24_576, a_token=60)
SORT_MEMORY = "1GB"
ROUNDS = 5
CONCEPTS = 16
OWN = Path("data/features/main")


def main() -> int:
    """Print every table."""
    print(
        f"{table.processor()}, {os.cpu_count()} cores; Python {platform.python_version()}, "
        f"duckdb {version('duckdb')}, pyarrow {version('pyarrow')}, numpy {version('numpy')}"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        harvest(folder / "store")
        tok, feature, value = all_rows(folder / "store")
        sizes("made up", folder, tok, feature, value, LAW.d_sae)
        lookups(folder, feature)
        aurocs(folder / "store")
        if OWN.is_dir():
            rows = all_rows(OWN)
            sizes(f"the workspace's {OWN.name}", folder / "own", *rows, d_sae=None)
    return 0


def harvest(root: Path) -> None:
    """Both sort orders, each made in a process of its own."""
    written = measured("write", root, LAW, SORT_MEMORY)
    sorting = [measured("sort", root, LAW, SORT_MEMORY) for _ in range(2)]
    cpu, wall = (float(np.median([one[key] for one in sorting])) for key in ("cpu_s", "wall_s"))
    n, peak = written["n_act"], max(one["peak_bytes"] for one in sorting)
    table.title(f"Writing and sorting {n / 1e6:.1f} million activations", HEAD)
    for name, seconds in (("write, token order", written["cpu_s"]), ("sort, feature order", cpu)):
        table.row(name, f"{n / seconds / 1e6:.2f} M/s", "", f"{seconds:.1f} s of processor time")
    ratio = cpu / written["cpu_s"]
    table.row(
        "sort over write, processor time",
        f"{cpu:.1f} s",
        f"{written['cpu_s']:.1f} s",
        f"{ratio:.2f}",
        "≤ 1.5",
        ratio <= 1.5,
    )
    table.row(
        "the same by the clock",
        f"{wall:.1f} s",
        f"{written['wall_s']:.1f} s",
        f"{wall / written['wall_s']:.2f}",
    )
    table.row(
        f"peak memory, write in parts of {PART_ROWS / 1e6:g} M",
        f"{written['peak_bytes'] / 2**20:,.0f} MiB",
        "",
        "",
        "≤ 4 GiB",
        written["peak_bytes"] <= 2**32,
    )
    table.row(
        f"peak memory, sort within {SORT_MEMORY}",
        f"{peak / 2**20:,.0f} MiB",
        "",
        "",
        "≤ 4 GiB",
        peak <= 2**32,
    )


def sizes(
    title: str,
    folder: Path,
    tok: np.ndarray,
    feature: np.ndarray,
    value: np.ndarray,
    d_sae: int | None,
) -> None:
    """Bytes an activation against delphi's format and Parquet's defaults."""
    root = OWN if d_sae is None else folder / "store"
    folder.mkdir(exist_ok=True)
    n, width = len(tok), d_sae or int(feature.max()) + 1
    delphi = write_delphi(folder / "delphi", tok, feature, value, width) / n
    naive = write_naive(folder / "naive.parquet", tok, feature, value) / n
    by_feature, by_token = (
        bytes_under(root / f"act_{order}") / n for order in ("feature", "token")
    )
    table.title(f"Bytes an activation, {title} ({n / 1e6:.1f} million)", HEAD)
    for name, size, most in (
        ("feature order / delphi's safetensors", by_feature, 0.40),
        ("token order / delphi's safetensors", by_token, None),
        ("both orders / delphi's safetensors", by_feature + by_token, 0.85),
    ):
        table.row(
            name,
            f"{size:.3f} B",
            f"{delphi:.3f} B",
            f"{size / delphi:.3f}",
            "" if most is None else f"≤ {most:g}",
            None if most is None else size / delphi <= most,
        )
    table.row(
        "feature order / Parquet's defaults, token order",
        f"{by_feature:.3f} B",
        f"{naive:.3f} B",
        f"{by_feature / naive:.3f}",
    )


def lookups(folder: Path, feature: np.ndarray) -> None:
    """Top contexts of features, and features of tokens, both ways and checked to agree."""
    root, db = folder / "store", store_queries.connect()
    by_count = np.argsort(np.bincount(feature, minlength=LAW.d_sae), kind="stable")
    ours, theirs = [], []
    for quantile in (0.1, 0.5, 0.9, 0.99, 1.0):
        chosen = int(by_count[int(quantile * (LAW.d_sae - 1))])
        by_store = partial(store_queries.top_by_store, db, root, LAW.d_sae, chosen, 20)
        by_delphi = partial(top_by_delphi, folder / "delphi", chosen, 20)
        np.testing.assert_allclose(by_store()[1], by_delphi()[1], rtol=2e-3)
        for _ in range(ROUNDS):
            ours.append(_cpu_ms(by_store))
            theirs.append(_cpu_ms(by_delphi))
    table.title("Look-ups, one thread, warm, processor time", HEAD)
    table.ratio_row("top 20 contexts of a feature / delphi's load path", ours, theirs, 15)
    ours, theirs = [], []
    orders = [str(root / "act_token/*.parquet"), str(root / "act_feature/*/*.parquet")]
    for tok in np.random.default_rng(0).integers(0, LAW.n_tokens, 2 * ROUNDS).tolist():
        quick, slow = (partial(store_queries.active_at, db, files, tok) for files in orders)
        np.testing.assert_array_equal(quick(), slow())
        ours.append(_cpu_ms(quick))
        theirs.append(_cpu_ms(slow))
    table.ratio_row("features at a token, token order / feature order", ours, theirs, 20)


def aurocs(root: Path) -> None:
    """The area of every feature for a concept, by bins and by exact SQL."""
    from features.auroc import read_concepts
    from features.measured import measure_concepts

    times: dict[int, list[float]] = {}
    with_intervals: dict[int, list[float]] = {}
    holds = LAW.concept()
    for n in (1, CONCEPTS):
        evidence = _evidence(root, [holds] * n)
        times[n] = [_cpu_ms(partial(read_concepts, evidence)) / n for _ in range(3)]
        with_intervals[n] = [_cpu_ms(partial(measure_concepts, evidence)) / n for _ in range(3)]
    binned = read_concepts(evidence)[0].auroc
    db = store_queries.connect()
    began = time.process_time()
    ids, exact = store_queries.exact_auroc(db, root, holds)
    sql = 1e3 * (time.process_time() - began)
    error = float(np.abs(binned[ids] - exact).max())
    table.title(f"AUROC of all {LAW.d_sae:,} features for a concept, processor time", HEAD)
    table.ratio_row(
        f"64 bins, each of {CONCEPTS} concepts / exact SQL", times[CONCEPTS], [sql] * 3, 20
    )
    table.ratio_row("64 bins, one concept alone / exact SQL", times[1], [sql] * 3)
    table.ratio_row(
        f"with intervals by documents, each of {CONCEPTS} / exact SQL",
        with_intervals[CONCEPTS],
        [sql] * 3,
    )
    table.ratio_row("with intervals, one concept alone / exact SQL", with_intervals[1], [sql] * 3)
    table.row("largest error", f"{error:.1e}", "", "", "≤ 2e-3", error <= 2e-3)


def _evidence(root: Path, concepts: list[np.ndarray]) -> Evidence:
    """The whole store as one split, with these concepts of its tokens."""
    from features.documents import ConceptTruth, Documents, Evidence
    from features.rows import Rows
    from features.vocab import Vocab

    n, everywhere = LAW.n_tokens, np.ones(LAW.n_tokens, dtype=bool)
    truths = tuple(
        ConceptTruth(i, f"concept {i}", "token", holds, everywhere)
        for i, holds in enumerate(concepts)
    )
    tok = np.arange(n)
    rows = Rows(
        tok // DOC_TOKENS, tok % DOC_TOKENS, tok % 2, ~everywhere, Vocab(("a", "b"), (True, True))
    )
    counts = np.zeros(LAW.d_sae, dtype=np.int64)
    found = list(iter_features(root))
    counts[[feature for feature, _, _ in found]] = [len(places) for _, places, _ in found]
    return Evidence(
        Documents("test", np.arange(rows.n_docs), tok, rows, truths),
        start=np.concatenate([[0], np.cumsum(counts)]),
        row=np.concatenate([places for _, places, _ in found]),
        value=np.concatenate([values for _, _, values in found]),
    )


def all_rows(root: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every activation in token order."""
    parts = list(iter_tokens(root))
    tok, feature, value = (np.concatenate([part[i] for part in parts]) for i in range(3))
    return tok, feature, value


def _cpu_ms(run: Callable[[], object]) -> float:
    began = time.process_time()
    run()
    return 1e3 * (time.process_time() - began)


if __name__ == "__main__":
    raise SystemExit(main())
