"""`tiller steer`: continue a text with named features turned up, held at a level, or off.

A feature is asked for as `sea=+0.5` (add), `sea:=1` (hold its activation, in multiples of its
largest) or `sea=off`. `sea` is a name of the store, `<run_id>/<feature_id>` or
`<layer>/<feature_id>`. `--edit` takes a whole line of the steering language instead. Steered and
unsteered texts draw the same random numbers.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pipelines.errors import require
from pipelines.params import load_params
from pipelines.stage import model_source

if TYPE_CHECKING:
    from lm.generate import Generation
    from lm.model import LanguageModel
    from pipelines.names import NamedFeature
    from steering.direction import Direction, Unit
    from steering.intervention import Add, Intervention
    from steering.language.syntax import Budget, Program
    from steering.tax import HeldOut


HELDOUT_TOKENS = 1536
"""Of the documents on which a budget is solved."""
MOST_NORMS = 100
"""Longest push that is tried, in mean norms of the stream."""


@dataclass(frozen=True, slots=True)
class Wish:
    """One `--feature`, as it was written."""

    name: str
    kind: Literal["add", "set", "off"]
    value: float


def steer_text(
    prompt: str,
    features: Sequence[str],
    *,
    edit: str | None = None,
    pairs: Sequence[str] = (),
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

    Args:
        features: one `--feature` each.
        edit: a line of the steering language; acts together with the features.
        pairs: name=file of contrast pairs, each a direction that the line may name.

    Raises:
        SteeringError: a feature, a coefficient or the line cannot be used.
        FeatureError: a name is unknown, means several features, or is weak.
    """
    from lm.generate import generate
    from lm.model import open_model
    from steering.direction import require_unit
    from steering.language.parse import parse
    from steering.language.text import written
    from steering.steer import edits_for

    require_unit(unit)
    _require_words(prompt, features, edit)
    wishes = [parse_wish(text) for text in features]
    program = None if edit is None else parse(edit)
    sources = [pairs_of(text, edit) for text in pairs]
    with contextlib.chdir(require(workspace, "index")):
        found = find_features(wishes, allow_weak=allow_weak)
        edits, lines = interventions_of(wishes, found, unit)
        model = load_params().model
        lm = open_model(model_source(model), model.device, model.dtype, model.weights)
        if program is not None:
            own = directions_of(lm, sources)
            built = list(built_line(program, lm, own, allow_weak=allow_weak).values())
            edits += built
            lines += [written(program), *(_said(one) for one in built)]

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


def _require_words(prompt: str, features: Sequence[str], edit: str | None) -> None:
    from steering.errors import SteeringError

    if not prompt.strip():
        raise SteeringError(
            "the prompt is empty; expected a text to continue; "
            'write for example tiller steer "One day" --feature sea=+0.5'
        )
    if not features and edit is None:
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


def find_features(wishes: Sequence[Wish], *, allow_weak: bool) -> list[NamedFeature]:
    """The features that the wishes name, in their order.

    Raises:
        FeatureError: a name is unknown, means several features, or is weak.
    """
    from pipelines.names import StoreNames

    require(Path("data/store"), "index")
    with StoreNames(Path(), allow_weak=allow_weak) as names:
        return [names.feature(wish.name) for wish in wishes]


def interventions_of(
    wishes: Sequence[Wish], found: Sequence[NamedFeature], unit: str
) -> tuple[list[Intervention], list[str]]:
    """The edits, and one line about each."""
    from sae.checkpoint import load
    from steering.direction import UNITS
    from steering.intervention import Ablate, Add, Set

    saes = {f.run_id: load(require(Path("data/sae") / f.run_id, "train")) for f in found}
    known = next(name for name in UNITS if name == unit)
    edits: list[Intervention] = []
    lines: list[str] = []
    for wish, f in zip(wishes, found, strict=True):
        sae, place = saes[f.run_id], f"{f.run_id}/{f.feature_id} at {saes[f.run_id].hook_point}"
        if wish.kind == "add":
            along = f.direction(sae)
            edits.append(Add(along, wish.value, known))
            length = along.length(wish.value, known)
            _require_dose(wish, length, f.mean_norm, unit)
            tried = _best_dose(f, along, known)
            lines.append(f"{f.name} {wish.value:+g} {unit} = {length:+.3g} raw, {place}{tried}")
            continue
        target = f.latent(sae)
        if wish.kind == "off":
            edits.append(Ablate(target))
            lines.append(f"{f.name} off, {place}")
        else:
            edits.append(Set(target, wish.value, "max_act"))
            level = wish.value * f.max_act
            lines.append(f"{f.name} held at {wish.value:g} max_act = {level:.3g} raw, {place}")
    return edits, lines


def pairs_of(text: str, edit: str | None) -> tuple[str, list[tuple[str, str]]]:
    """The name and the texts of one `--pairs`.

    Raises:
        PairsError: it is not name=file, there is no line to name it, or the file does not read.
    """
    from pipelines.pairs import PairsError, read_pairs

    name, sign, path = text.partition("=")
    if not (sign and name.strip() and path) or edit is None:
        raise PairsError(
            f"--pairs {text!r}; expected name=file, and an --edit that says what to do with the "
            'name; write for example --pairs calm=calm.csv --edit "calm:+0.4"'
        )
    return name.strip(), read_pairs(Path(path))


def directions_of(
    lm: LanguageModel, sources: Sequence[tuple[str, list[tuple[str, str]]]]
) -> dict[str, Direction]:
    """The mean differences of one's own pairs, where the first autoencoder reads."""
    from pipelines.pairs import direction_of

    hook_point = next(iter(load_params().sae.values())).hook_point
    return {name: direction_of(lm, name, pairs, hook_point) for name, pairs in sources}


def built_line(
    program: Program, lm: LanguageModel, own: Mapping[str, Direction], *, allow_weak: bool
) -> dict[str, Intervention]:
    """The interventions of a line by what they act on, names looked up and budgets solved here.

    Raises:
        SteeringError: the line cannot be done.
        FeatureError: a name is unknown, means several features, or is weak.
    """
    from pipelines.names import StoreNames
    from steering.direction import length_in
    from steering.language.build import Builder

    def ids_of(text: str) -> list[int]:
        return [token for token in lm.encode(text) if token not in lm.special_ids]

    def solve(push: Add, budget: Budget) -> float:
        from steering.dose import priced

        found = priced(lm, _held_out(lm), push, budget.price, budget.nats)
        return length_in(
            found.coefficient, found.unit, mean_norm=found.target.mean_norm, max_act=None
        )

    with StoreNames(Path(), allow_weak=allow_weak, own=own) as names:
        return Builder(names, ids_of=ids_of, solve=solve).named(program)


def _held_out(lm: LanguageModel) -> HeldOut:
    """Documents of the corpus that trained nothing, on which a budget is solved."""
    from pipelines.trial.arms import heldout_documents
    from steering.tax import held_out

    documents = heldout_documents("calibrate", HELDOUT_TOKENS)
    return held_out(lm, list(documents.values()), lm.context)


def _said(edit: Intervention) -> str:
    """One line about an edit: a push's length in every unit that its direction knows."""
    from steering.direction import UNITS, Direction, length_in
    from steering.errors import CoefficientError
    from steering.intervention import Add, KeepNorm, place_of

    if isinstance(edit, KeepNorm):
        return f"{type(edit).__name__} at {edit.hook_point}"
    if not isinstance(edit, Add):
        return f"{type(edit).__name__} of {edit.target.source} at {place_of(edit)}"
    target = edit.target
    scales = {"mean_norm": target.mean_norm, "max_act": target.max_act}
    raw = length_in(edit.coefficient, edit.unit, **scales)
    known = []
    for unit in UNITS:
        with contextlib.suppress(CoefficientError):
            known.append(f"{raw / length_in(1.0, unit, **scales):+.3g} {unit}")
    origin = target.provenance if isinstance(target, Direction) else {}
    feature = origin.get("feature_id")
    name = target.source if feature is None else f"{origin.get('run_id')}/{feature}"
    return f"{name} {' = '.join(known)} at {place_of(edit)}"


def _require_dose(wish: Wish, length: float, mean_norm: float | None, unit: str) -> None:
    """Refuse a push beside which nothing of the stream is left."""
    from steering.errors import CoefficientError

    if mean_norm and abs(length) > MOST_NORMS * mean_norm:
        raise CoefficientError(
            f"{wish.name} {wish.value:+g} {unit} is {abs(length) / mean_norm:.3g} times the "
            f"stream's mean norm; expected at most {MOST_NORMS}; begin with "
            f"--feature {wish.name}=+0.5 --unit norm"
        )


def _best_dose(found: NamedFeature, along: Direction, unit: Unit) -> str:
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
