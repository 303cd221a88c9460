"""Our packages are ours: names such as `store` also exist on the public package index."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PACKAGES: list[str] = PROJECT["tool"]["setuptools"]["packages"]
NOT_SHIPPED = {"tests", "benchmarks"}


def usurper(package: str) -> str | None:
    """Who took the name of one of our packages; None when the name leads here."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return f"`import {package}` finds no package; expected {ROOT / package}; run `make run`"
    if Path(spec.origin).resolve().is_relative_to(ROOT):
        return None
    names = packages_distributions().get(package.partition(".")[0], [])
    taken = ", ".join(name for name in names if name != "tiller") or "a folder on the path"
    return (
        f"`import {package}` finds {spec.origin}, which belongs to {taken}; expected "
        f"{ROOT / package}; run `pip uninstall {taken}` and `pip install --editable .`"
    )


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_is_the_one_in_this_repository(package: str) -> None:
    assert usurper(package) is None, usurper(package)


def test_the_message_names_the_distribution_that_took_a_name(tmp_path: Path) -> None:
    _plant(tmp_path)
    code = f"import sys; sys.path.append({str(ROOT / 'tests')!r}); import test_packaging as t; "
    done = subprocess.run(
        [sys.executable, "-P", "-c", code + "print(t.usurper('store'))"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "belongs to otherstore;" in done.stdout
    assert "pip uninstall otherstore" in done.stdout
    assert str(tmp_path / "store") in done.stdout


def test_the_package_list_is_every_package_and_no_other() -> None:
    found = {
        init.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for top in ROOT.iterdir()
        if (top / "__init__.py").is_file() and top.name not in NOT_SHIPPED
        for init in top.rglob("__init__.py")
    }
    assert set(PACKAGES) == found
    assert len(PACKAGES) == len(set(PACKAGES))


def test_the_distribution_cannot_be_uploaded() -> None:
    assert "Private :: Do Not Upload" in PROJECT["project"]["classifiers"]


def test_no_folder_of_tests_is_a_package() -> None:
    # A tests/sae/__init__.py would hide the real `sae` from every test beside it.
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def _plant(site: Path) -> None:
    """A distribution `otherstore` that installs a package `store`."""
    (site / "store").mkdir()
    (site / "store" / "__init__.py").write_text("")
    info = site / "otherstore-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: otherstore\nVersion: 1.0\n")
    (info / "top_level.txt").write_text("store\n")
    (info / "RECORD").write_text("store/__init__.py,,\n")
