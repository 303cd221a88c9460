"""`tiller steer`: continue a text with named features turned up, held at a level, or off.

A feature is asked for as `sea=+0.5` (add), `sea:=1` (hold its activation, in multiples of its
largest) or `sea=off`. `sea` is a name of the store, `<run_id>/<feature_id>` or
`<layer>/<feature_id>`. Steered and unsteered texts draw the same random numbers.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pipelines.errors import require
from pipelines.params import load_params
from pipelines.stage import model_source

if TYPE_CHECKING:
    import duckdb

    from lm.generate import Generation
    from lm.model import LanguageModel
    from steering.direction import Direction, Unit
    from steering.intervention import Intervention


MOST_NORMS = 100
"""Longest push that is tried, in mean norms of the stream."""


@dataclass(frozen=True, slots=True)
class Wish:
    """One `--feature`, as it was written."""

    name: str
    kind: Literal["add", "set", "off"]
    value: float


@dataclass(frozen=True, slots=True)
class Found:
    """A feature and the scales that steering by it needs."""

    run_id: str
    feature_id: int
    name: str
    mean_norm: float | None
    max_act: float
    best_dose: float | None
    """What the dose-response did best at, in mean norms; None where it was not tried."""


def steer_text(
    prompt: str,
    features: Sequence[str],
    *,
    unit: str = "norm",
    compare: bool = False,
    max_new_tokens: int = 48,
    temperature: float = 0.7,
    seed: int = 0,
    samples: int = 1,
    allow_weak: bool = False,
    workspace: Path = Path(),
) -> None:
    """Print continuations of `prompt` under the features, and the unsteered ones beside them.

    Raises:
        SteeringError: a feature or a coefficient cannot be used.
        FeatureError: a name is unknown, means several features, or is weak.
    """
    from lm.generate import generate
    from lm.model import open_model
    from steering.direction import require_unit
    from steering.steer import edits_for

    require_unit(unit)
    _require_words(prompt, features)
    wishes = [parse_wish(text) for text in features]
    with contextlib.chdir(require(workspace, "index")):
        found = _find(wishes, allow_weak=allow_weak)
        edits, lines = _interventions(wishes, found, unit)
        model = load_params().model
        lm = open_model(model_source(model), device=model.device, dtype=model.dtype)

    def continued(interventions: Sequence[Intervention]) -> list[str]:
        made = generate(
            lm,
            [lm.encode(prompt)] * samples,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seeds=range(seed, seed + samples),
            edits=edits_for(lm, interventions),
        )
        return [_text(lm, generation) for generation in made]

    steered = continued(edits)
    _show(prompt, continued([]) if compare else None, steered, lines)


def _require_words(prompt: str, features: Sequence[str]) -> None:
    from steering.errors import SteeringError

    if not prompt.strip():
        raise SteeringError(
            "the prompt is empty; expected a text to continue; "
            'write for example tiller steer "One day" --feature sea=+0.5'
        )
    if not features:
        raise SteeringError(
            "no feature was given; expected at least one --feature name=number; add for example "
            "--feature sea=+0.5, or find a name with `tiller features search`"
        )


def parse_wish(text: str) -> Wish:
    """What one `--feature` asks for.

    Raises:
        CoefficientError: it is not of the form name=number, name:=number or name=off.
    """
    from steering.errors import CoefficientError

    name, sign, value = text.rpartition("=")
    is_set = name.endswith(":")
    name = name.removesuffix(":").strip()
    if sign and name and value.strip() == "off" and not is_set:
        return Wish(name, "off", 0.0)
    with contextlib.suppress(ValueError):
        number = float(value)
        if sign and name and math.isfinite(number):
            return Wish(name, "set" if is_set else "add", number)
    raise CoefficientError(
        f"--feature {text!r}; expected name=number (add), name:=number (hold its activation) or "
        "name=off; write for example --feature sea=+0.5"
    )


def _find(wishes: Sequence[Wish], *, allow_weak: bool) -> list[Found]:
    from store.catalog import open as open_store

    require(Path("data/store"), "index")
    with contextlib.closing(open_store(Path())) as store:
        return [_find_one(store, wish.name, allow_weak=allow_weak) for wish in wishes]


def _find_one(store: duckdb.DuckDBPyConnection, name: str, *, allow_weak: bool) -> Found:
    given = re.fullmatch(r"(.+)/(\d+)", name)
    if given is not None:
        run_id, feature_id, shown = _run_of(store, given[1]), int(given[2]), name
    else:
        from features.search import resolve

        ref = resolve(store, name, allow_weak=allow_weak)
        run_id, feature_id, shown = ref.run_id, ref.feature_id, ref.slug
    row = store.execute(
        """
        SELECT run.mean_norm, feature_stats.max_value, steerability.best_coefficient
        FROM feature_stats
        JOIN run USING (run_id)
        LEFT JOIN steerability USING (run_id, feature_id)
        WHERE run_id = $run_id AND feature_id = $feature_id
        """,
        {"run_id": run_id, "feature_id": feature_id},
    ).fetchone()
    if row is None:
        from features.errors import UnknownFeature

        raise UnknownFeature(
            f"{run_id} has no feature {feature_id}; expected one of its rows in feature_stats; "
            "look with `tiller features search`"
        )
    return Found(run_id, feature_id, shown, row[0], float(row[1] or 0.0), row[2])


def _run_of(store: duckdb.DuckDBPyConnection, text: str) -> str:
    """The run with this name, or the only one at this layer."""
    from features.errors import AmbiguousFeature, UnknownFeature

    runs = store.execute("SELECT run_id, layer FROM run ORDER BY run_id").fetchall()
    if text in [run_id for run_id, _ in runs]:
        return text
    at_layer = [str(run_id) for run_id, layer in runs if text.isdigit() and layer == int(text)]
    known = ", ".join(f"{run_id} (layer {layer})" for run_id, layer in runs)
    if not at_layer:
        raise UnknownFeature(
            f"{text!r} is neither an autoencoder nor a layer that has one; expected one of "
            f"{known}; write for example main/12"
        )
    if len(at_layer) > 1:
        raise AmbiguousFeature(
            f"layer {text} has {len(at_layer)} autoencoders; expected one of "
            f"{', '.join(at_layer)}; write for example {at_layer[0]}/12"
        )
    return at_layer[0]


def _interventions(
    wishes: Sequence[Wish], found: Sequence[Found], unit: str
) -> tuple[list[Intervention], list[str]]:
    """The edits, and one line about each."""
    from sae.checkpoint import load
    from steering.direction import UNITS
    from steering.intervention import Ablate, Add, Set
    from steering.sources.decoder import decoder, latent

    saes = {f.run_id: load(require(Path("data/sae") / f.run_id, "train")) for f in found}
    known = next(name for name in UNITS if name == unit)
    edits: list[Intervention] = []
    lines: list[str] = []
    for wish, f in zip(wishes, found, strict=True):
        sae, place = saes[f.run_id], f"{f.run_id}/{f.feature_id} at {saes[f.run_id].hook_point}"
        if wish.kind == "add":
            along = decoder(sae, f.feature_id, max_act=f.max_act, mean_norm=f.mean_norm)
            edits.append(Add(along, wish.value, known))
            length = along.length(wish.value, known)
            _require_dose(wish, length, f.mean_norm, unit)
            tried = _best_dose(f, along, known)
            lines.append(f"{f.name} {wish.value:+g} {unit} = {length:+.3g} raw, {place}{tried}")
            continue
        target = latent(sae, f.feature_id, max_act=f.max_act, mean_norm=f.mean_norm)
        if wish.kind == "off":
            edits.append(Ablate(target))
            lines.append(f"{f.name} off, {place}")
        else:
            edits.append(Set(target, wish.value, "max_act"))
            level = wish.value * f.max_act
            lines.append(f"{f.name} held at {wish.value:g} max_act = {level:.3g} raw, {place}")
    return edits, lines


def _require_dose(wish: Wish, length: float, mean_norm: float | None, unit: str) -> None:
    """Refuse a push beside which nothing of the stream is left."""
    from steering.errors import CoefficientError

    if mean_norm and abs(length) > MOST_NORMS * mean_norm:
        raise CoefficientError(
            f"{wish.name} {wish.value:+g} {unit} is {abs(length) / mean_norm:.3g} times the "
            f"stream's mean norm; expected at most {MOST_NORMS}; begin with "
            f"--feature {wish.name}=+0.5 --unit norm"
        )


def _best_dose(found: Found, along: Direction, unit: Unit) -> str:
    """What the store knows of the right dose, in the unit that was asked for."""
    if found.best_dose is None:
        return ""
    dose = along.length(found.best_dose, "norm") / along.length(1.0, unit)
    return f"; of the doses tried, {dose:+.2g} {unit} did best"


def _text(lm: LanguageModel, generation: Generation) -> str:
    return lm.decode([*generation.prompt_ids, *generation.ids])


def _show(
    prompt: str, unsteered: Sequence[str] | None, steered: Sequence[str], lines: Sequence[str]
) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    def marked(text: str) -> Text:
        shown = Text(text)
        if text.startswith(prompt):
            shown.stylize("dim", 0, len(prompt))
        return shown

    console = Console()
    for line in lines:
        console.print(Text(line, style="bold"))
    table = Table(box=box.SIMPLE, show_header=True, expand=True, pad_edge=False)
    if unsteered is not None:
        table.add_column("unsteered", ratio=1)
    table.add_column("steered", ratio=1)
    for number, text in enumerate(steered):
        cells = [marked(text)] if unsteered is None else [marked(unsteered[number]), marked(text)]
        table.add_row(*cells)
    console.print(table)
