"""The public surface of each package: few names, in order, each of them there."""

from __future__ import annotations

import importlib
import inspect

import pytest

PACKAGES = ["features", "lm", "microworld", "sae", "steering", "store"]
MOST_NAMES = 15


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_are_few_and_sorted(package: str) -> None:
    names = importlib.import_module(package).__all__
    assert list(names) == sorted(set(names), key=_place), f"sort {package}.__all__"
    assert 0 < len(names) <= MOST_NAMES
    assert not [name for name in names if name.startswith("_")]


@pytest.mark.parametrize("package", PACKAGES)
def test_each_public_name_can_be_imported_and_says_what_it_is(package: str) -> None:
    module = importlib.import_module(package)
    assert module.__doc__
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.isclass(value) or inspect.isroutine(value):
            assert value.__doc__, f"{package}.{name} has no docstring"


@pytest.mark.parametrize("package", PACKAGES)
def test_an_unknown_name_is_an_attribute_error(package: str) -> None:
    module = importlib.import_module(package)
    with pytest.raises(AttributeError):
        _ = module.no_such_name_here


def _place(name: str) -> tuple[int, str]:
    """The order that ruff keeps: constants, then classes, then functions."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name
