"""`tiller export` and `tiller import`: a store in the formats of other tools, and theirs in it.

Nothing heavy is imported here; each command imports what it needs when it is called.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import duckdb

exporting = typer.Typer(help="Write an SAE's features for another tool.", no_args_is_help=True)
importing = typer.Typer(help="Take over what another tool has written.", no_args_is_help=True)

Workspace = Annotated[
    Path, typer.Option("--workspace", "-w", help="Folder that the graph was run in.")
]
Sae = Annotated[
    str | None, typer.Option("--sae", help="Slug of the SAE; the only one if left out.")
]
ModelId = Annotated[
    str | None, typer.Option("--model-id", help="What the other side calls the model.")
]
Features = Annotated[
    str | None,
    typer.Option("--features", help="Only these: numbers, ranges, names; 3,10-19,sea."),
]
Out = Annotated[Path, typer.Argument(help="Folder to write to; it must be new.")]
_LONGEST_RANGE = 10_000_000
Name = Annotated[str, typer.Option("--name", help="Of this import; the same name replaces it.")]


@exporting.command("neuronpedia")
def export_neuronpedia(
    out: Annotated[Path, typer.Argument(help="Folder to write <model>/<layer>-<sae>/ in.")],
    sae: Sae = None,
    model_id: ModelId = None,
    creator: Annotated[
        str | None, typer.Option("--creator", help="Id of the Neuronpedia account to write in.")
    ] = None,
    features: Features = None,
    vectors: Annotated[
        bool, typer.Option("--vectors", help="Add each decoder row, to steer with over there.")
    ] = False,
    workspace: Workspace = Path(),
) -> None:
    """Write features, activations and explanations as Neuronpedia's JSONL.gz batches."""
    from features.exchange.neuronpedia import export_neuronpedia as write
    from features.exchange.neuronpedia_rows import DEFAULT_CREATOR

    with _store(workspace) as con:
        done = write(
            con,
            workspace,
            out,
            run_id=sae,
            model_id=model_id,
            creator=creator or DEFAULT_CREATOR,
            features=_numbers(con, features, sae),
            vectors=vectors,
        )
    _say(
        f"{done.features} features, {done.activations} activations and {done.explanations} "
        f"explanations in {done.files} files under {done.folder}"
    )


@exporting.command("dashboard")
def export_dashboard(
    out: Out,
    sae: Sae = None,
    model_id: ModelId = None,
    features: Features = None,
    workspace: Workspace = Path(),
) -> None:
    """Write features as SAEDashboard's batch-N.json."""
    from features.exchange.saedashboard import export_dashboards

    with _store(workspace) as con:
        wanted = _numbers(con, features, sae)
        written = export_dashboards(
            con, workspace, out, run_id=sae, model_id=model_id, features=wanted
        )
    _say(f"{written} features under {out}")


@exporting.command("delphi")
def export_delphi(
    out: Annotated[Path, typer.Argument(help="Folder to write the module's folder in.")],
    sae: Sae = None,
    module: Annotated[
        str | None, typer.Option("--module", help="delphi's name of the hook point.")
    ] = None,
    ctx_len: Annotated[int, typer.Option("--ctx-len", min=1, help="Tokens of a row.")] = 256,
    workspace: Workspace = Path(),
) -> None:
    """Write every activation as delphi's safetensors cache."""
    from features.exchange.delphi import export_delphi as write

    with _store(workspace) as con:
        done = write(con, workspace, out, run_id=sae, module=module, ctx_len=ctx_len)
    _say(f"{done.activations} activations in {done.files} files under {done.folder}")


@importing.command("neuronpedia")
def import_neuronpedia(
    files: Annotated[list[Path], typer.Argument(help="Batches of explanations, .jsonl or .gz.")],
    sae: Sae = None,
    model_id: ModelId = None,
    source: Annotated[
        str | None, typer.Option("--source", help="What the files call the SAE; <layer>-<sae>.")
    ] = None,
    name: Name = "neuronpedia",
    workspace: Workspace = Path(),
) -> None:
    """Take over explanations as labels that nothing here has tested."""
    from features.exchange.explanations import import_explanations

    with _store(workspace) as con:
        done = import_explanations(
            con, workspace, files, run_id=sae, model_id=model_id, source_id=source, name=name
        )
    _say(
        f"{done.labels} labels of {done.features} features, with {done.scores} scores of others, "
        f"in {done.folder}"
    )


@importing.command("dashboard")
def import_dashboard(
    file: Annotated[Path, typer.Argument(help="A batch-N.json of SAEDashboard, or its .gz.")],
    sae: Sae = None,
    workspace: Workspace = Path(),
) -> None:
    """Hold SAEDashboard's features against the store's, field by field; nothing is written."""
    from features.exchange.compare import compare_batch
    from pipelines.commands.agreement import print_agreement

    with _store(workspace) as con:
        batch, facts, found = compare_batch(con, workspace, file, run_id=sae)
    print_agreement(batch, facts, found)


@importing.command("delphi")
def import_delphi(
    cache: Annotated[Path, typer.Argument(help="Folder of one module of a delphi cache.")],
    sae: Sae = None,
    name: Name = "delphi",
    workspace: Workspace = Path(),
) -> None:
    """Take over a cache of this corpus as activations in both sort orders."""
    from features.exchange.delphi_import import import_delphi as take

    with _store(workspace) as con:
        done = take(con, workspace, cache, run_id=sae, name=name)
    _say(f"{done.activations} activations of {done.files} files in {done.folder}")


def _numbers(
    con: duckdb.DuckDBPyConnection, listed: str | None, sae: str | None
) -> list[int] | None:
    """The features of a list such as `3,10-19,sea`.

    A number or a range is checked where the features are read, a name here.
    """
    if listed is None:
        return None
    from features.search import resolve
    from pipelines.errors import PipelineError

    numbers: list[int] = []
    for part in (part.strip() for part in listed.split(",")):
        first, dash, last = part.partition("-")
        if first.isdecimal() and last.isdecimal() and dash:
            if not int(first) <= int(last) < int(first) + _LONGEST_RANGE:
                raise PipelineError(
                    f"{part!r} is no range of features; expected the lower number first, and at "
                    f"most {_LONGEST_RANGE:,} of them; write 10-19"
                )
            numbers.extend(range(int(first), int(last) + 1))
        elif part.isdecimal():
            numbers.append(int(part))
        elif part:
            numbers.append(resolve(con, part, sae, allow_weak=True).feature_id)
    if not numbers:
        raise PipelineError(
            f"{listed!r} names no feature; expected numbers, ranges or names; write 3,10-19,sea"
        )
    return numbers


def _say(line: str) -> None:
    """One line on standard output, whatever a path in it holds."""
    from features.exchange.fields import one_line

    sys.stdout.write(one_line(line) + "\n")


@contextlib.contextmanager
def _store(workspace: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    from store.catalog import open as open_store

    with contextlib.closing(open_store(workspace)) as con:
        yield con
