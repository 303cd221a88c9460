import errno
import os
from pathlib import Path

import pytest

from store.atomic import link_tree, whole_dir, whole_file
from store.errors import DiskFull, MissingArtefact


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def fail_half_way(target: Path) -> None:
    with whole_file(target) as scratch:
        scratch.write_text("half")
        raise RuntimeError("boom")


def fail_half_way_in_a_folder(target: Path) -> None:
    with whole_dir(target) as scratch:
        (scratch / "b").write_text("half")
        raise RuntimeError("boom")


def test_a_file_appears_only_when_the_block_ends_well(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "x.txt"
    with whole_file(target) as scratch:
        scratch.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert names(tmp_path) == ["deep", "deep/x.txt"]


def test_an_error_leaves_the_older_file_and_no_scratch(tmp_path: Path) -> None:
    target = tmp_path / "x.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError, match="boom"):
        fail_half_way(target)
    assert target.read_text() == "old"
    assert names(tmp_path) == ["x.txt"]


def test_a_new_folder_replaces_every_file_of_the_older_one(tmp_path: Path) -> None:
    target = tmp_path / "out"
    for shards in (["a", "b", "c"], ["a"]):
        with whole_dir(target) as scratch:
            for name in shards:
                (scratch / name).write_text(name)
    assert names(tmp_path) == ["out", "out/a"]


def test_an_error_leaves_the_older_folder_whole(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with whole_dir(target) as scratch:
        (scratch / "a").write_text("old")
    with pytest.raises(RuntimeError, match="boom"):
        fail_half_way_in_a_folder(target)
    assert names(tmp_path) == ["out", "out/a"]


def test_a_killed_run_s_scratch_is_removed_by_the_next_one(tmp_path: Path) -> None:
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "stale").write_text("stale")
    with whole_dir(tmp_path / "out") as scratch:
        assert names(scratch) == []
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("door", [whole_file, whole_dir])
def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path, door) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DiskFull, match="no room left on the disk"), door(tmp_path / "out"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert names(tmp_path) == []


def test_another_error_of_the_disk_is_passed_on(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), whole_file(tmp_path / "out"):
        raise PermissionError(errno.EACCES, "no")


def test_a_linked_tree_shares_its_files_and_leaves_scratch_behind(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "x").write_text("x")
    (source / ".x.partial").write_text("half")
    for _again in range(2):
        link_tree(source, target)
    assert names(target) == ["deep", "deep/x"]
    assert os.stat(target / "deep" / "x").st_ino == os.stat(source / "deep" / "x").st_ino


def test_a_tree_is_copied_where_links_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_paths: object) -> None:
        raise OSError(errno.EXDEV, "cross-device")

    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "x").write_text("x")
    monkeypatch.setattr(os, "link", refuse)
    link_tree(tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "target" / "x").read_text() == "x"


def test_linking_what_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(MissingArtefact, match="no folder"):
        link_tree(tmp_path / "none", tmp_path / "target")
