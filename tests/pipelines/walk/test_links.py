"""Files in a second place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipelines.walk.digests import Digests
from pipelines.walk.links import link, mirror, remove


@pytest.fixture
def digests(tmp_path: Path) -> Digests:
    return Digests(tmp_path / "digests.json", (".*",))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source" / "inner").mkdir(parents=True)
    (tmp_path / "source" / "a").write_text("a")
    (tmp_path / "source" / "inner" / "b").write_text("b")
    return tmp_path / "source"


def test_a_mirror_holds_exactly_the_files_of_its_source(
    digests: Digests, source: Path, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    (target / "old" / "deep").mkdir(parents=True)
    (target / "old" / "deep" / "stale").write_text("stale")
    (target / ".gitkeep").touch()
    assert mirror(digests.files(source), target, digests)
    assert sorted(path.relative_to(target).as_posix() for path in target.rglob("*")) == [
        ".gitkeep",
        "a",
        "inner",
        "inner/b",
    ]
    assert (target / "a").samefile(source / "a")
    assert not mirror(digests.files(source), target, digests)


def test_a_replaced_source_is_linked_anew_and_the_rest_is_left_alone(
    digests: Digests, source: Path, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    mirror(digests.files(source), target, digests)
    untouched = (target / "inner" / "b").stat()
    (source / "a").unlink()
    (source / "a").write_text("another")
    assert mirror(digests.files(source), target, digests)
    assert (target / "a").read_text() == "another"
    assert (target / "inner" / "b").stat() == untouched


def test_a_symbolic_link_is_followed_to_its_file(source: Path, tmp_path: Path) -> None:
    (tmp_path / "pointer").symlink_to(source / "a")
    link(tmp_path / "pointer", tmp_path / "target")
    assert not (tmp_path / "target").is_symlink()
    assert (tmp_path / "target").read_text() == "a"


def test_where_the_disk_refuses_a_link_the_file_is_copied(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    link(source / "a", tmp_path / "target")
    assert (tmp_path / "target").read_text() == "a"
    assert not (tmp_path / "target").samefile(source / "a")


def test_removing_takes_files_folders_and_nothing_alike(source: Path, tmp_path: Path) -> None:
    remove(source / "a")
    remove(source)
    remove(source)
    assert not source.exists()
