import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.errors import MissingArtefact, NotFinite, SchemaMismatch
from store.manifest import content_hash, fingerprint, read_json, write_json

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=30)
@given(value=json_values)
def test_what_is_written_is_read(value: object, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("json") / "x.json"
    write_json(path, value)
    assert read_json(path) == value
    assert path.read_bytes().endswith(b"\n")


def test_the_order_of_keys_changes_neither_bytes_nor_fingerprint(tmp_path: Path) -> None:
    one, other = {"a": 1, "b": [1, 2]}, {"b": [1, 2], "a": 1}
    write_json(tmp_path / "one", one)
    write_json(tmp_path / "other", other)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    assert fingerprint(one) == fingerprint(other) != fingerprint({"a": 1, "b": [2, 1]})
    assert len(fingerprint(one)) == 16


def test_nan_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(NotFinite, match="not finite"):
        write_json(tmp_path / "x.json", {"loss": math.nan})
    assert list(tmp_path.iterdir()) == []


def test_a_missing_and_a_broken_file_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(MissingArtefact, match="no file"):
        read_json(tmp_path / "none.json")
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(SchemaMismatch, match="is not JSON"):
        read_json(tmp_path / "x.json")


def make_tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_a_folder_s_hash_is_of_names_and_contents_alone(tmp_path: Path) -> None:
    files = {"a": "1", "deep/b": "2"}
    one = make_tree(tmp_path / "one", files)
    other = make_tree(tmp_path / "other", dict(reversed(files.items())))
    make_tree(other, {"__pycache__/x.pyc": "noise", ".x.partial": "noise"})
    assert content_hash(one) == content_hash(other)


@pytest.mark.parametrize("change", [{"a": "9"}, {"c": ""}, {"deep/b": ""}])
def test_any_change_of_a_folder_changes_its_hash(tmp_path: Path, change: dict[str, str]) -> None:
    folder = make_tree(tmp_path / "x", {"a": "1", "deep/b": "2"})
    before = content_hash(folder)
    make_tree(folder, change)
    assert content_hash(folder) != before


def test_moving_text_between_files_changes_the_hash(tmp_path: Path) -> None:
    one = make_tree(tmp_path / "one", {"a": "12", "b": "3"})
    other = make_tree(tmp_path / "other", {"a": "1", "b": "23"})
    assert content_hash(one) != content_hash(other)


def test_hashing_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(MissingArtefact, match="nothing at"):
        content_hash(tmp_path / "none")
