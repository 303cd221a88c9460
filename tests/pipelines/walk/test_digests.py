"""Content hashes that are read again only when they changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.walk.digests import Digests, ignored_patterns

ROOT = Path(__file__).resolve().parents[3]
IGNORED = ("__pycache__", "*.pyc", ".*")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "code" / "inner").mkdir(parents=True)
    (tmp_path / "code" / "a.py").write_text("a")
    (tmp_path / "code" / "inner" / "b.py").write_text("b")
    return tmp_path / "code"


@pytest.fixture
def digests(tmp_path: Path) -> Digests:
    return Digests(tmp_path / "digests.json", IGNORED)


def test_nothing_has_no_digest(digests: Digests, tmp_path: Path) -> None:
    assert digests.of(tmp_path / "absent") is None


def test_a_digest_is_of_names_and_contents_and_not_of_the_place(
    digests: Digests, folder: Path, tmp_path: Path
) -> None:
    before = digests.of(folder)
    folder.rename(tmp_path / "elsewhere")
    assert digests.of(tmp_path / "elsewhere") == before
    (tmp_path / "elsewhere" / "a.py").rename(tmp_path / "elsewhere" / "c.py")
    assert digests.of(tmp_path / "elsewhere") != before


def test_a_changed_byte_changes_the_digest_and_putting_it_back_restores_it(
    digests: Digests, folder: Path
) -> None:
    before = digests.of(folder)
    (folder / "inner" / "b.py").write_text("B")
    assert digests.of(folder) != before
    (folder / "inner" / "b.py").write_text("b")
    assert digests.of(folder) == before


def test_what_running_the_code_leaves_beside_it_does_not_count(
    digests: Digests, folder: Path
) -> None:
    before = digests.of(folder)
    (folder / "inner" / "__pycache__").mkdir()
    (folder / "inner" / "__pycache__" / "b.cpython-311.pyc").write_text("x")
    (folder / "old.pyc").write_text("x")
    (folder / ".gitkeep").write_text("")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "file").write_text("x")
    assert digests.of(folder) == before
    assert list(digests.files(folder)) == ["a.py", "inner/b.py"]


def test_an_unchanged_file_is_not_read_again(
    digests: Digests, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = digests.of(folder)
    digests.save()
    again = Digests(tmp_path / "digests.json", IGNORED)
    monkeypatch.setattr("hashlib.file_digest", None)
    assert again.of(folder) == before
    (folder / "a.py").write_text("new")
    with pytest.raises(TypeError):
        again.of(folder)


def test_a_hard_link_is_known_by_its_first_name(
    digests: Digests, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = digests.of(folder / "a.py")
    (tmp_path / "link").hardlink_to(folder / "a.py")
    monkeypatch.setattr("hashlib.file_digest", None)
    assert digests.of(tmp_path / "link") == before


@pytest.mark.parametrize("text", ["", "{not json", "[1, 2]\n"])
def test_a_broken_memory_is_begun_again(folder: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "broken.json").write_text(text)
    fresh = Digests(tmp_path / "digests.json", IGNORED).of(folder)
    assert Digests(tmp_path / "broken.json", IGNORED).of(folder) == fresh


def test_both_walkers_overlook_the_same_names() -> None:
    patterns = ignored_patterns(ROOT / ".dvcignore")
    assert {"__pycache__", "*.pyc", ".work", ".venv", ".pytest_cache"} <= set(patterns)
    assert not any("/" in pattern or "#" in pattern for pattern in patterns)
