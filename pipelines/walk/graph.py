"""The stage graph as a value, read from dvc.yaml, where it is written once.

Understands the part of DVC's language that this project uses: `vars`, `foreach` over a
mapping, `${...}`, and outs, metrics and plots. Runs nothing.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from pipelines.errors import PipelineError

PROJECT = Path(__file__).resolve().parents[2]
_TEMPLATE = re.compile(r"\$\{([^}]+)\}")
_COMMAND = re.compile(r"-m (pipelines\.\w+)((?: \S+)*)$")


@dataclass(frozen=True, slots=True)
class Stage:
    """One node of the graph; paths are relative, with `/`."""

    name: str
    """`dump`, or `train@main` for one key of a foreach stage."""
    module: str
    """What `python -m` is given, for example `pipelines.dump`."""
    arguments: tuple[str, ...]
    deps: tuple[str, ...]
    params: tuple[str, ...]
    """Dotted keys of params.yaml."""
    outs: tuple[str, ...]
    """Outs, metrics and plots."""

    @property
    def group(self) -> str:
        """The name without the key of a foreach stage."""
        return self.name.partition("@")[0]


def read_graph(path: Path, params: Mapping[str, Any]) -> tuple[Stage, ...]:
    """Every stage of a dvc.yaml, each after those whose outs it reads.

    Raises:
        PipelineError: the file is missing, or holds what this reader does not understand.
    """
    if not path.is_file():
        raise PipelineError(
            f"{path} does not exist; expected the stage graph beside the pipelines package; "
            "install tiller from its folder with `pip install --editable .`"
        )
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    context = dict(params)
    for variables in document.get("vars", []):
        context |= variables
    stages = tuple(_stages(document["stages"], context))
    return _in_order(stages)


def between(stages: tuple[Stage, ...], first: str | None, last: str | None) -> tuple[Stage, ...]:
    """The stages that come of `first` (itself included) and that `last` needs (likewise).

    A foreach stage may be named as a whole, `train`, or by one key, `train@main`.

    Raises:
        PipelineError: there is no stage of that name, or none lies between the two.
    """
    chosen = set(stages)
    if first is not None:
        chosen &= _closure(stages, _named(stages, first), forwards=True)
    if last is not None:
        chosen &= _closure(stages, _named(stages, last), forwards=False)
    if not chosen:
        raise PipelineError(
            f"no stage lies between {first!r} and {last!r}; expected --from before --to in "
            f"{' -> '.join(dict.fromkeys(stage.group for stage in stages))}; swap them"
        )
    return tuple(stage for stage in stages if stage in chosen)


def overlap(one: str, other: str) -> bool:
    """Whether two paths are the same, or one lies in the other."""
    a, b = PurePosixPath(one), PurePosixPath(other)
    return a == b or a in b.parents or b in a.parents


def _stages(entries: Mapping[str, Any], context: Mapping[str, Any]) -> Iterator[Stage]:
    for name, entry in entries.items():
        if "foreach" not in entry:
            yield _stage(name, entry, context)
            continue
        items = _filled(entry["foreach"], context)
        if not isinstance(items, Mapping):
            raise PipelineError(
                f"stage {name!r} repeats over {entry['foreach']!r}, which is not a mapping; "
                "expected slug: settings; correct dvc.yaml"
            )
        for key, item in items.items():
            yield _stage(f"{name}@{key}", entry["do"], {**context, "key": key, "item": item})


def _stage(name: str, entry: Mapping[str, Any], context: Mapping[str, Any]) -> Stage:
    command = _filled(entry["cmd"], context)
    match = _COMMAND.search(command)
    if match is None:
        raise PipelineError(
            f"stage {name!r} runs {command!r}; expected `... -m pipelines.<stage>`; "
            "correct dvc.yaml"
        )

    def listed(*kinds: str) -> tuple[str, ...]:
        found = (value for kind in kinds for value in entry.get(kind, []))
        # An out with settings of its own is a mapping of one key.
        plain = (next(iter(value)) if isinstance(value, Mapping) else value for value in found)
        return tuple(str(_filled(value, context)) for value in plain)

    return Stage(
        name=name,
        module=match[1],
        arguments=tuple(match[2].split()),
        deps=listed("deps"),
        params=listed("params"),
        outs=listed("outs", "metrics", "plots"),
    )


def _filled(text: str, context: Mapping[str, Any]) -> Any:
    """`text` with each ${a.b} looked up; a text that is one ${...} gives the value itself."""
    if (whole := _TEMPLATE.fullmatch(text)) is not None:
        return value_at(context, whole[1])
    return _TEMPLATE.sub(lambda match: str(value_at(context, match[1])), text)


def value_at(data: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key.

    Raises:
        PipelineError: there is no such key.
    """
    value: Any = data
    for part in key.strip().split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise PipelineError(
                f"dvc.yaml names {key!r}, which the parameters do not have; "
                "expected a key of params.yaml; correct one of the two"
            )
        value = value[part]
    return value


def _needs(stages: tuple[Stage, ...]) -> dict[Stage, set[Stage]]:
    return {
        stage: {
            other
            for other in stages
            if other is not stage
            and any(overlap(dep, out) for dep in stage.deps for out in other.outs)
        }
        for stage in stages
    }


def _in_order(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    place = {stage: number for number, stage in enumerate(stages)}
    sorter: TopologicalSorter[Stage] = TopologicalSorter(_needs(stages))
    sorter.prepare()
    ordered: list[Stage] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready(), key=place.__getitem__)
        ordered += ready
        sorter.done(*ready)
    return tuple(ordered)


def _closure(
    stages: tuple[Stage, ...], start: frozenset[Stage], *, forwards: bool
) -> frozenset[Stage]:
    needs, reached = _needs(stages), set(start)
    for stage in stages if forwards else reversed(stages):
        if forwards and needs[stage] & reached:
            reached.add(stage)
        elif not forwards and stage in reached:
            reached |= needs[stage]
    return frozenset(reached)


def _named(stages: tuple[Stage, ...], name: str) -> frozenset[Stage]:
    found = frozenset(stage for stage in stages if name in (stage.name, stage.group))
    if not found:
        known = list(dict.fromkeys([*(s.group for s in stages), *(s.name for s in stages)]))
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "name one of those"
        raise PipelineError(f"no stage {name!r}; expected one of {', '.join(known)}; {hint}")
    return found
