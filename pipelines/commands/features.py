"""What `tiller features` does: search, a card in the terminal, and features on a text."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    import duckdb

    from features.card import CardLabel, Context, FeatureCard, LabelScore
    from features.hits import Hit, Sign
    from features.search import Search
    from sae.model import SparseAutoencoder

_SHADES = ("", "on grey23", "on dark_green", "on green4", "bold black on green3")
"""Backgrounds for an activation, from silent to the largest of the feature."""


_STRATA = {
    0: "strongest",
    8: "weaker: the eighth tenth of its activations",
    5: "the fifth tenth",
    2: "the second tenth",
    11: "silent, on a piece that it fires on elsewhere",
}


def search_features(
    text: str, *, by: str | None, sae: str | None, limit: int, workspace: Path
) -> None:
    """List the features that a text points to.

    Args:
        by: name, text (of labels), token (promoted) or active (on the text, which runs the
            model); None asks for the first three, and concepts, together.
    """
    from features.search import require_words

    with _search(workspace, sae) as search:
        if by == "active":
            pieces, acts, run_id = _acts(require_words(text), sae, workspace)
            hits = search.active(acts, pieces, run_id, limit)
        else:
            ask = {"name": search.named, "text": search.labelled, "token": search.promoting}
            hits = (search.everything if by is None else ask[by])(text, limit)
        near = () if hits else search.nearest_names(text)
    console = Console(highlight=False)
    if not hits:
        hint = f"; the nearest names are {', '.join(near)}" if near else ""
        console.print(f"nothing speaks of {escape(repr(text))}{escape(hint)}")
        return
    print_hits(hits, console)


def near_features(what: str, *, sae: str | None, limit: int, workspace: Path) -> None:
    """List what lies near a feature, a direction, or a sum of such."""
    with _search(workspace, sae) as search:
        hits = search.near(what, limit)
        is_cosine = bool(hits) and hits[0].signs[0].found_by == "direction"
        nulls = {hit.run_id: search.null(hit.run_id) for hit in hits} if is_cosine else {}
    console = Console(highlight=False)
    if not hits:
        console.print(f"nothing lies near {escape(what)}: the store has no neighbours of it")
        return
    print_hits(hits, console)
    for run_id, null in nulls.items():
        console.print(
            f"null: the nearest row of a random direction stays below {null:.2f} in {run_id}, "
            "95 times of 100",
            style="dim",
        )


def print_hits(hits: Sequence[Hit], console: Console) -> None:
    """Each feature's name and what that is worth, why it was found, its label; then the units."""
    from features.hits import MEANING

    for hit in hits:
        head = Text(f"weak: {hit.slug}" if hit.is_weak else hit.slug, style="bold")
        worth = _interval(hit.score, hit.lo, hit.hi)
        null = "" if hit.score is None else f", null {_figure(hit.null_value)}"
        head.append(f"  {hit.run_id}/{hit.feature_id}  held out {worth}{null}", style="not bold")
        _print_line(head, console)
        _print_line(Text(f"    by {', '.join(_sign(sign) for sign in hit.signs)}"), console)
        _print_line(Text(f"    {hit.text or 'no label'}", style="dim"), console)
    for found_by in dict.fromkeys(sign.found_by for hit in hits for sign in hit.signs):
        _print_line(Text(f"{found_by}: {MEANING[found_by]}", style="italic"), console)
    _print_line(
        Text("held out: the name's score on test documents, 95 % interval", style="italic"), console
    )


def _print_line(line: Text, console: Console) -> None:
    """One line: cut at the width of a terminal, whole where it goes into a file or a pipe."""
    if console.is_terminal:
        console.print(line, no_wrap=True, overflow="ellipsis")
    else:
        console.print(line, soft_wrap=True)


def _sign(sign: Sign) -> str:
    detail = f" ({sign.what})" if sign.found_by == "active" else ""
    return f"{sign.found_by} {sign.score:.3g}{detail}"


def show_feature(name: str, *, contexts: int, workspace: Path) -> None:
    """Print the card of one feature."""
    from features.card import show

    with _store(workspace) as con:
        card = show(con, name, contexts=contexts)
    print_card(card, Console(highlight=False))


def print_card(card: FeatureCard, console: Console) -> None:
    """A card as text; the background of a piece is its activation."""
    place = f"{card.ref.run_id}/{card.ref.feature_id} at {card.ref.hook_point}"
    console.print(f"[bold]{escape(card.ref.slug)}[/bold]  {escape(place)}")
    for label in card.labels:
        _print_label(label, console)
    if not card.labels:
        console.print("no label: it fires on fewer tokens than label.min_firings")
    _print_statistics(card.statistics, card.steering, console)
    for stratum, title in _STRATA.items():
        shown = [context for context in card.contexts if context.stratum == stratum]
        if shown:
            console.print(title, style="bold")
        for context in shown:
            console.print(_highlighted(context, card.statistics["max_value"] or 1.0))
    _print_pairs("promotes", card.promotes, "logit a unit", console)
    _print_pairs("suppresses", card.suppresses, "logit a unit", console)
    for kind, neighbours in card.neighbours.items():
        listed = [(neighbour.slug, neighbour.score) for neighbour in neighbours]
        _print_pairs(f"near by {kind}", listed, "", console)
    for concept in card.concepts:
        interval = _interval(concept.auroc, concept.lo, concept.hi)
        q_value = "" if concept.q_value is None else f", q {concept.q_value:.2g}"
        console.print(
            f"[bold]reads[/bold]  {escape(f'{concept.name}: AUROC {interval}, null 0.5{q_value}')}"
        )


def _print_label(label: CardLabel, console: Console) -> None:
    remark = {"weak": "  [red]weak: its score does not beat its null[/red]"}.get(label.status, "")
    side = {"output": "says"}.get(label.side, "reads")
    console.print(f"[bold]{side}[/bold]  {escape(label.slug)}: {escape(label.text)}{remark}")
    for score in label.scores:
        console.print(f"  {_score_line(score)}", style="cyan")


def _print_statistics(
    stats: Mapping[str, Any], steering: Mapping[str, Any], console: Console
) -> None:
    """Every statistic with its unit; a dead feature has only those of its weights."""
    if stats["is_dead"]:
        console.print("dead: it never fires on the corpus; its direction is arbitrary")
    else:
        console.print(
            f"fires on {stats['n_act']} tokens of {stats['n_docs']} documents, density "
            f"{stats['density']:.3g}{' (dense)' if stats['is_dense'] else ''}"
        )
        console.print(
            f"activation, the stream's units: largest {_figure(stats['max_value'])}, mean "
            f"{_figure(stats['mean_value'])}, median {_figure(stats['p50'])}, 99th percentile "
            f"{_figure(stats['p99'])}"
        )
        console.print(
            f"commonest token {_figure(stats['top_token_share'])} of firings, token entropy "
            f"{_figure(stats['token_entropy'])} bits, burstiness {_figure(stats['burstiness'])} "
            "times chance"
        )
    console.print(
        f"encoder-decoder cosine {_figure(stats['enc_dec_cos'])}, logit footprint "
        f"{_figure(stats.get('logit_footprint'))} a unit, its kurtosis "
        f"{_figure(stats.get('logit_kurtosis'))}"
    )
    if steering:
        console.print(
            f"steered: HM {_interval(steering['hm'], steering['lo'], steering['hi'])} at "
            f"{_figure(steering['best_coefficient'])} mean norms, output score "
            f"{_figure(steering['output_score'])}, self-share {_figure(steering['self_share'])}"
        )


def _print_pairs(
    title: str, pairs: Sequence[tuple[str, float]], unit: str, console: Console
) -> None:
    if pairs:
        listed = "  ".join(f"{word.strip() or repr(word)} {value:.2f}" for word, value in pairs)
        suffix = f" ({unit})" if unit else ""
        console.print(f"[bold]{title}[/bold]{suffix}  {escape(listed)}")


def _score_line(score: LabelScore) -> str:
    if score.value is None:
        return escape(f"{score.metric}: undefined, {score.reason or 'no reason is recorded'}")
    figures = _interval(score.value, score.lo, score.hi)
    unit = " nats" if score.metric == "output_gain" else ""
    return escape(f"{score.metric} {figures}{unit}, null {_figure(score.null_value)}")


def _interval(value: float | None, lo: float | None, hi: float | None) -> str:
    if value is None:
        return "unscored"
    return f"{value:.3f}" if lo is None else f"{value:.3f} [{lo:.3f}, {hi:.3f}]"


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
        model = params.model
        lm = open_model(model_source(model), model.device, model.dtype, model.weights)
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
def _search(workspace: Path, sae: str | None) -> Iterator[Search]:
    from features.search import Search

    with Search.open(workspace, run_id=sae, in_memory=False) as search:
        yield search


@contextlib.contextmanager
def _store(workspace: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    from store.catalog import open as open_store

    with contextlib.closing(open_store(workspace)) as con:
        yield con
