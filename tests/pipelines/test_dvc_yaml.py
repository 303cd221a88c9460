"""dvc.yaml against the code: each stage lists what it imports and the parameters it reads."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from pipelines.params import Params, load_params
from pipelines.walk.graph import PROJECT, Stage, read_graph

PACKAGES = {"lm", "sae", "store", "features", "steering", "microworld"}
STAGES = {
    stage.group: stage
    for stage in read_graph(
        PROJECT / "dvc.yaml", load_params(PROJECT / "params.yaml").model_dump(mode="json")
    )
}


def imported(tree: ast.AST) -> Iterator[str]:
    """Dotted names that a module imports, `from a import b` as both `a` and `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def code_of(entry: str) -> frozenset[str]:
    """The code that a module needs, itself included: `pipelines` by file, else by package.

    Modules of errors are left out: they hold names, and no result depends on them.
    """
    found: set[str] = set()
    waiting = [entry]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        sources = [PROJECT / path] if path.endswith(".py") else (PROJECT / path).rglob("*.py")
        for source in sources:
            waiting += _paths(imported(ast.parse(source.read_text("utf-8"))))
    return frozenset(found)


def _paths(names: Iterator[str]) -> Iterator[str]:
    for name in names:
        top, *inner = name.split(".")
        if "errors" in inner:
            continue
        if top in PACKAGES:
            yield top
        elif top == "pipelines" and (PROJECT / Path(top, *inner)).with_suffix(".py").is_file():
            yield f"{'/'.join([top, *inner])}.py"


def is_code(dep: str) -> bool:
    return dep.endswith(".py") or dep in PACKAGES


@pytest.mark.parametrize("name", STAGES)
def test_each_stage_lists_exactly_the_code_that_it_imports(name: str) -> None:
    stage = STAGES[name]
    needed = code_of(f"pipelines/{name}.py")
    listed = {dep for dep in stage.deps if is_code(dep)}
    assert needed - listed == set(), f"add to the deps of {name} in dvc.yaml"
    assert listed - needed == set(), f"{name} does not import these; remove them in dvc.yaml"


@pytest.mark.parametrize("name", STAGES)
def test_each_stage_lists_every_parameter_that_it_reads(name: str) -> None:
    stage = STAGES[name]
    modules = [path for path in code_of(f"pipelines/{name}.py") if path.endswith(".py")]
    sources = [(PROJECT / path).read_text("utf-8") for path in modules]
    read = {section for source in sources for section in _sections(ast.parse(source))}
    listed = {key.partition(".")[0] for key in stage.params}
    assert read <= listed, f"add to the params of {name} in dvc.yaml"


def _sections(tree: ast.AST) -> Iterator[str]:
    """Fields of Params read from a variable named `params`; where it runs does not count."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            section = node.value.id == "params" and node.attr in Params.model_fields
            if section and node.attr != "executor":
                yield node.attr


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_that_opens_the_model_depends_on_both_places_it_may_lie_in(name: str) -> None:
    stage = STAGES[name]
    modules = code_of(f"pipelines/{name}.py") - {"pipelines/stage.py"}
    sources = [(PROJECT / path).read_text("utf-8") for path in modules if path.endswith(".py")]
    opens = any("model_source" in source for source in sources)
    assert ("inputs/model" in stage.deps) == opens
    assert bool({"microworld", "microworld/model"} & set(stage.deps)) == opens
    assert not opens or "model.name" in stage.params


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_deps_and_parameters_are_in_order_and_each_once(stage: Stage) -> None:
    assert list(stage.deps) == sorted(set(stage.deps))
    assert len(set(stage.params)) == len(stage.params)
