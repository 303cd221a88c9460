"""`tiller export steering`: named features, or vectors of other tools, as files that others read.

`sea=+0.5`, `sea:=1`, `sea=off` and `--edit` mean what they mean to `tiller steer`, and
`sea.gguf=+1` is the file's own vectors, once. Safetensors hold every edit; the other forms hold
pushes on every token, and refuse the rest.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, assert_never

import typer

if TYPE_CHECKING:
    from lm.model import LanguageModel
    from pipelines.commands.steer import Wish
    from steering.intervention import Intervention


VECTOR_FILES = (".gguf", ".pt", ".pth", ".npy")


class Form(StrEnum):
    """What `tiller export steering` can write."""

    SAFETENSORS = "safetensors"
    CHECKPOINT = "checkpoint"
    GGUF = "gguf"
    LM_EVAL = "lm-eval"


def export_steering(
    features: Annotated[
        list[str],
        typer.Argument(
            default_factory=list,
            help="name=coefficient, name:=level, name=off, or file=times, for example sea=+0.5.",
        ),
    ],
    form: Annotated[Form, typer.Option("--format", help="What shall read it.")],
    out: Annotated[Path, typer.Option("--out", help="File or folder to write; it must be new.")],
    unit: Annotated[str, typer.Option("--unit", help="norm, max_act or raw.")] = "norm",
    hook_point: Annotated[
        str | None,
        typer.Option("--hook-point", help="Where a vector file belongs that does not say so."),
    ] = None,
    edit: Annotated[
        str | None, typer.Option("--edit", help="A line of the steering language.")
    ] = None,
    pairs: Annotated[
        list[str] | None,
        typer.Option("--pairs", help="name=file of contrast pairs that the line may name."),
    ] = None,
    allow_weak: Annotated[
        bool, typer.Option("--allow-weak", help="Accept names that do not beat their null.")
    ] = False,
    workspace: Annotated[
        Path, typer.Option("--workspace", "-w", help="Folder that the graph was run in.")
    ] = Path(),
) -> None:
    """Write edits as safetensors, or pushes as a plain checkpoint, a GGUF or for lm-eval."""
    from lm.model import open_model
    from lm.source import find_folder
    from pipelines.commands.steer import built_line, directions_of, pairs_of
    from pipelines.params import load_params
    from pipelines.stage import model_source
    from steering.direction import require_unit
    from steering.language.parse import parse
    from steering.language.text import written

    require_unit(unit)
    wishes = [_wish(text, form) for text in features]
    _require_some(wishes, edit)
    program = None if edit is None else parse(edit)
    sources = [pairs_of(text, edit) for text in pairs or ()]
    files = [(wish, Path(wish.name).absolute()) for wish in wishes if _is_file(wish)]
    place = out.absolute()
    with contextlib.chdir(workspace):
        model = load_params().model
        source = find_folder(model_source(model))
        opened = open_model(source, model.device, model.dtype, model.weights)
        lm = replace(opened, name=model.name)
        named = [wish for wish in wishes if not _is_file(wish)]
        edits, lines = _named(named, unit, allow_weak=allow_weak, form=form)
        for wish, path in files:
            lines += _imported(lm, wish, path, hook_point, edits)
        if program is not None:
            built = built_line(program, lm, directions_of(lm, sources), allow_weak=allow_weak)
            for name, one in built.items():
                _put(edits, name, one)
            lines.append(written(program))
        lines += _written(lm, edits, form, place, source)
    for line in lines:
        typer.echo(line)


def _wish(text: str, form: Form) -> Wish:
    from pipelines.commands.steer import parse_wish
    from steering.errors import ExportError

    wish = parse_wish(text)
    if wish.kind != "add" and (form != Form.SAFETENSORS or _is_file(wish)):
        raise ExportError(
            f"{text!r} depends on what the stream holds; expected name=number, a push, which is "
            f"all that {wish.name if _is_file(wish) else form.value} can hold; write for example "
            f"{wish.name}=+0.5, or --format safetensors with a name, which holds every edit"
        )
    return wish


def _require_some(wishes: Sequence[Wish], edit: str | None) -> None:
    from steering.errors import ExportError

    if not wishes and edit is None:
        raise ExportError(
            "no edit was given; expected at least one name=number, or --edit; write for example "
            "sea=+0.5"
        )


def _is_file(wish: Wish) -> bool:
    return Path(wish.name).suffix in VECTOR_FILES


def _named(
    wishes: Sequence[Wish], unit: str, *, allow_weak: bool, form: Form
) -> tuple[dict[str, Intervention], list[str]]:
    """The edits of the store's features by their names, and one line about each."""
    if not wishes:
        return {}, []
    from pipelines.commands.steer import find_features, interventions_of
    from steering.export.constant import ALL_POSITIONS

    found = find_features(wishes, allow_weak=allow_weak)
    made, lines = interventions_of(wishes, found, unit)
    edits: dict[str, Intervention] = {}
    for feature, edit in zip(found, made, strict=True):
        is_anywhere = form == Form.SAFETENSORS
        _put(edits, feature.name, edit if is_anywhere else replace(edit, positions=ALL_POSITIONS))
    return edits, lines


def _imported(
    lm: LanguageModel,
    wish: Wish,
    path: Path,
    hook_point: str | None,
    edits: dict[str, Intervention],
) -> list[str]:
    """Put the vectors of a file among the edits, as often as was wished; one line about each."""
    from steering.export.constant import ALL_POSITIONS
    from steering.imports import import_directions
    from steering.intervention import Add

    lines: list[str] = []
    for point, along in import_directions(path, hook_point=hook_point, lm=lm).items():
        length = wish.value * along.norm
        name = f"{path.name}@{point}"
        _put(edits, name, Add(along, length, "raw", positions=ALL_POSITIONS))
        lines.append(f"{path.name} {wish.value:+g} times = {length:+.3g} raw, at {point}")
    return lines


def _put(edits: dict[str, Intervention], name: str, edit: Intervention) -> None:
    from steering.errors import ExportError

    if name in edits:
        raise ExportError(
            f"{name} is given twice; expected each once; add two coefficients up, or say both in "
            "one --edit"
        )
    edits[name] = edit


def _written(
    lm: LanguageModel, edits: Mapping[str, Intervention], form: Form, out: Path, source: Path
) -> list[str]:
    """Write the export, and say what it is and what it acts on."""
    from steering.export.card import EVERY_POSITION

    pushes = list(edits.values())
    match form:
        case Form.SAFETENSORS:
            from steering.export.vectors import save_steering

            save_steering(lm, edits, out)
            return [f"{len(edits)} edits with their vectors and a model card in {out}"]
        case Form.CHECKPOINT:
            from steering.export.folded import fold_checkpoint

            folded = fold_checkpoint(lm, pushes, out, tokenizer_from=source)
            changed = ", ".join(f"{key}: {value}" for key, value in folded.config_changes.items())
            about = [
                f"a plain checkpoint in {out}; no logit differs from the hooks' by more than "
                f"{folded.max_logit_difference:.1e}; {changed or 'config.json as it was'}"
            ]
        case Form.GGUF:
            from steering.export.gguf import save_control_vector

            blocks = ", ".join(str(block) for block in save_control_vector(lm, pushes, out))
            about = [f"a control vector for the output of block {blocks} in {out}; use scale 1"]
        case Form.LM_EVAL:
            from steering.export.lm_eval import save_steered

            modules = ", ".join(save_steered(lm, pushes, out))
            about = [f"vectors for {modules} in {out}; use --model steered, steer_path={out.name}"]
        case _:
            assert_never(form)
    return [*about, EVERY_POSITION.replace("`", "")]
