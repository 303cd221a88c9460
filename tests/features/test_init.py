"""The public names of the package, and what naming them costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import features


def test_public_names_are_sorted_and_exist() -> None:
    assert sorted(features.__all__) == features.__all__
    for name in features.__all__:
        assert getattr(features, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'features' has no attribute 'feature'"):
        _ = features.feature


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        ("import features.errors", ("numpy", "duckdb", "pyarrow", "torch")),
        ("import features; [getattr(features, n) for n in features.__all__]", ("torch",)),
    ],
)
def test_importing_is_light(statement: str, heavy: tuple[str, ...]) -> None:
    code = f"import sys; {statement}; sys.exit(any(n in sys.modules for n in {heavy!r}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
