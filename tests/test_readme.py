"""The README promises only what is there: commands, folders, imports."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from pipelines.cli import app
from pipelines.walk.graph import read_graph

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\$ (tiller .*)$", README, re.MULTILINE)
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_readme_shows_commands_and_a_snippet() -> None:
    assert len(COMMANDS) >= 4
    assert SNIPPETS


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_is_understood(command: str) -> None:
    words = shlex.split(command)[1:]
    current = get_command(app)
    while hasattr(current, "commands") and words:
        current = current.commands[words.pop(0)]
    context = current.make_context(current.name, words, resilient_parsing=False)
    assert context.params


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_a_snippets_imports_exist(snippet: str) -> None:
    imports: list[ast.stmt] = [
        n for n in ast.parse(snippet).body if isinstance(n, ast.Import | ast.ImportFrom)
    ]
    exec(compile(ast.Module(imports, []), "README.md", "exec"), {})


@pytest.mark.parametrize("folder", re.findall(r"^\| `([a-z]+)/` \|", README, re.MULTILINE))
def test_a_folder_of_the_map_exists(folder: str) -> None:
    assert (ROOT / folder).is_dir()


def test_every_stage_is_told() -> None:
    told = re.findall(r"^\| ([a-z]+) \| ", README, re.MULTILINE)
    graph = read_graph(ROOT / "dvc.yaml", yaml.safe_load((ROOT / "params.yaml").read_text()))
    assert {stage.group for stage in graph} <= set(told)


@pytest.mark.parametrize("picture", re.findall(r"!\[[^]]*\]\(([^)]+)\)", README))
def test_a_picture_of_the_readme_exists(picture: str) -> None:
    assert (ROOT / picture).is_file()
