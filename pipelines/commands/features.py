"""What `tiller features` does: search, a card in the terminal, and features on a text."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    import duckdb

    from features.card import Context, FeatureCard, LabelScore
    from sae.model import SparseAutoencoder

_SHADES = ("", "on grey23", "on dark_green", "on green4", "bold black on green3")
"""Backgrounds for an activation, from silent to the largest of the feature."""


def search_features(text: str, *, limit: int, workspace: Path) -> None:
    """List the features that a text points to."""
    from features.search import search

    with _store(workspace) as con:
        hits = search(con, text, limit)
    console = Console(highlight=False)
    if not hits:
        console.print(f"nothing speaks of {escape(repr(text))}")
        return
    table = Table("name", "feature", "found by", "score", "label", box=None, pad_edge=False)
    for hit in hits:
        name = f"weak: {hit.slug}" if hit.is_weak else hit.slug
        place = f"{hit.run_id}/{hit.feature_id}"
        table.add_row(name, place, hit.found_by, f"{hit.score:.2f}", escape(hit.text))
    console.print(table)


def show_feature(name: str, *, contexts: int, workspace: Path) -> None:
    """Print the card of one feature."""
    from features.card import show

    with _store(workspace) as con:
        card = show(con, name, contexts=contexts)
    print_card(card, Console(highlight=False))


def print_card(card: FeatureCard, console: Console) -> None:
    """A card as text; the background of a piece is its activation."""
    weak = "  [red]weak: its score does not beat its null[/red]" if card.ref.is_weak else ""
    place = f"{card.ref.run_id}/{card.ref.feature_id} at {card.ref.hook_point}"
    console.print(f"[bold]{escape(card.ref.slug)}[/bold]  {escape(place)}{weak}")
    console.print(escape(card.text or "no label: it fires too seldom"))
    stats = card.statistics
    console.print(
        f"fires on {stats['n_act']} tokens of {stats['n_docs']} documents, "
        f"density {stats['density']:.2e}, largest {_figure(stats['max_value'])}, "
        f"mean {_figure(stats['mean_value'])}"
    )
    for score in card.scores:
        console.print(_score_line(score), style="cyan")
    for context in card.contexts:
        console.print(_highlighted(context, stats["max_value"] or 1.0))
    for title, pairs in (
        ("promotes", card.promotes),
        ("suppresses", card.suppresses),
        ("near", card.neighbours),
        ("concepts", card.concepts),
    ):
        if pairs:
            listed = "  ".join(f"{word.strip() or repr(word)} {value:.2f}" for word, value in pairs)
            console.print(f"[bold]{title}[/bold]  {escape(listed)}")


def _score_line(score: LabelScore) -> str:
    if score.value is None:
        return f"{score.metric}: undefined, {score.reason}"
    interval = f" [{_figure(score.lo)}, {_figure(score.hi)}]"
    null = f", null {_figure(score.null_value)}"
    return escape(f"{score.metric} {score.value:.3f}{interval}{null}")


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:.3g}"


def _highlighted(context: Context, largest: float) -> Text:
    line = Text(f"{context.doc_id:>6} {context.split:<7} ", style="dim")
    for piece in context.pieces:
        share = min(max(piece.value / largest, 0.0), 1.0)
        shade = _SHADES[int(np.ceil(share * (len(_SHADES) - 1)))]
        text = piece.text.replace("\n", "⏎")
        line.append(text, style=f"underline {shade}" if piece.is_peak else shade)
    return line


def features_on(text: str, *, sae: str | None, limit: int, workspace: Path) -> None:
    """List the named features that fire on each token of a text."""
    pieces, acts, run_id = _acts(text, sae, workspace)
    with _store(workspace) as con:
        names = _names(con, run_id)
    table = Table("token", "features", box=None, pad_edge=False)
    for piece, row in zip(pieces, acts, strict=True):
        listed = strongest(row, names, limit)
        table.add_row(escape(repr(piece)), "  ".join(f"{name} {v:.2f}" for name, v in listed))
    Console(highlight=False).print(table)


def strongest(acts: np.ndarray, names: dict[int, str], limit: int) -> tuple[tuple[str, float], ...]:
    """The named features that fire on one token, the strongest first."""
    order = np.argsort(-acts, kind="stable")
    firing = [int(i) for i in order if acts[i] > 0 and int(i) in names]
    return tuple((names[i], float(acts[i])) for i in firing[:limit])


def _names(con: duckdb.DuckDBPyConnection, run_id: str) -> dict[int, str]:
    rows = con.execute(
        """
        SELECT feature_id, slug, is_weak FROM feature
        WHERE run_id = $run AND slug IS NOT NULL AND side <> 'output'
        """,
        {"run": run_id},
    ).fetchall()
    return {feature: f"weak: {slug}" if weak else slug for feature, slug, weak in rows}


def _acts(text: str, slug: str | None, workspace: Path) -> tuple[list[str], np.ndarray, str]:
    """The pieces of a text, special ones left out, and every latent's activation on each."""
    from lm import HookPoint, open_model
    from lm.collect import collect
    from pipelines.errors import ParamsError
    from pipelines.params import load_params
    from pipelines.stage import model_source
    from sae.checkpoint import load

    params = load_params(workspace / "params.yaml")
    run_id = slug if slug is not None else next(iter(params.sae))
    if run_id not in params.sae:
        raise ParamsError(
            f"there is no sae.{run_id}; expected one of {', '.join(sorted(params.sae))}; choose one"
        )
    with contextlib.chdir(workspace):
        lm = open_model(model_source(params.model), params.model.device, params.model.dtype)
        sae = load(Path("data/sae") / run_id)
    point = HookPoint.parse(sae.hook_point)
    ids = lm.encode(text)
    (found,) = collect(lm, [(0, ids)], [point], batch_tokens=max(len(ids), 1))
    real = ~found.is_special
    return (
        [lm.decode([int(i)]) for i in found.token_id[real]],
        _encoded(sae, found.resid[point][real]),
        run_id,
    )


def _encoded(sae: SparseAutoencoder, resid: np.ndarray) -> np.ndarray:
    import torch

    with torch.no_grad():
        acts: np.ndarray = sae.encode(torch.from_numpy(resid.astype(np.float32))).numpy()
    return acts


@contextlib.contextmanager
def _store(workspace: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    from store.catalog import open as open_store

    with contextlib.closing(open_store(workspace)) as con:
        yield con
