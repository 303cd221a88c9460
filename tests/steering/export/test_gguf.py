"""A control vector holds what the hooks add, at the block that llama.cpp adds it to."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from lm.model import LanguageModel
from steering.direction import Direction
from steering.errors import CoefficientError, DirectionError, ExportError
from steering.export.constant import ALL_POSITIONS
from steering.export.gguf import save_control_vector
from steering.imports import import_directions
from steering.intervention import Add, Set
from steering.steer import edits_for

MakeModel = Callable[[str], LanguageModel]
MakeDirection = Callable[[str], Direction]
HOOK = "blocks.1.hook_resid_post"


def push(direction: Direction, coefficient: float = 0.7) -> Add:
    return Add(direction, coefficient, positions=ALL_POSITIONS)


def as_llama_cpp_adds(path: Path, n_layers: int) -> list[np.ndarray]:
    """What llama.cpp's graph adds behind each block, by its two steps: the loader writes
    direction.N to row N - 1 of a buffer, and block il >= 1 reads row il - 1."""
    named = {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors}
    width = len(next(iter(named.values())))
    buffer = np.zeros((n_layers, width), np.float32)
    for name, data in named.items():
        assert name.startswith("direction.")
        assert int(name.removeprefix("direction.")) >= 1
        buffer[int(name.removeprefix("direction.")) - 1] = data
    return [np.zeros(width, np.float32), *buffer[: n_layers - 1]]


def text_of(reader: Any, key: str) -> Any:
    return reader.get_field(key).contents()


def test_the_gguf_package_reads_the_header_and_equal_values(
    tiny: MakeModel, direction: MakeDirection, tmp_path: Path
) -> None:
    lm, path = tiny("llama"), tmp_path / "sea.gguf"
    along = direction(HOOK)
    vectors = save_control_vector(lm, [push(along)], path)
    reader = gguf.GGUFReader(path)
    assert text_of(reader, "general.architecture") == "controlvector"
    assert text_of(reader, "controlvector.model_hint") == "llama"
    assert text_of(reader, "controlvector.layer_count") == 1
    assert "every position, position 0" in text_of(reader, "tiller.positions")
    assert text_of(reader, "tiller.base_model_sha256") == lm.weights_sha()
    (tensor,) = reader.tensors
    assert (tensor.name, tensor.tensor_type) == ("direction.1", gguf.GGMLQuantizationType.F32)
    assert np.array_equal(tensor.data, vectors[1].numpy())
    torch.testing.assert_close(vectors[1], along.scaled(0.7, "norm"), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("place", "block"),
    [
        ("blocks.1.hook_resid_post", 1),
        ("blocks.2.hook_resid_post", 2),
        ("blocks.2.hook_resid_pre", 1),
    ],
)
def test_llama_cpp_adds_it_behind_the_very_block_of_the_hook_point(
    place: str, block: int, tiny: MakeModel, direction: MakeDirection, tmp_path: Path
) -> None:
    lm, path = tiny("gpt2"), tmp_path / "sea.gguf"
    save_control_vector(lm, [push(direction(place))], path)
    added = as_llama_cpp_adds(path, lm.n_layers)
    expected = direction(place).scaled(0.7, "norm").numpy()
    for layer in range(lm.n_layers):
        wanted = expected if layer == block else np.zeros_like(expected)
        np.testing.assert_allclose(added[layer], wanted, atol=1e-6)


def test_pushes_behind_one_block_are_summed_and_others_kept_apart(
    tiny: MakeModel, direction: MakeDirection, tmp_path: Path
) -> None:
    lm, path = tiny("gemma2"), tmp_path / "two.gguf"
    pre, post, late = (
        direction(f"blocks.{place}")
        for place in ("2.hook_resid_pre", "1.hook_resid_post", "2.hook_resid_post")
    )
    save_control_vector(lm, [push(pre), push(post, -0.2), push(late)], path)
    added = as_llama_cpp_adds(path, lm.n_layers)
    both = pre.scaled(0.7, "norm") + post.scaled(-0.2, "norm")
    np.testing.assert_allclose(added[1], both.numpy(), atol=1e-6)
    np.testing.assert_allclose(added[2], late.scaled(0.7, "norm").numpy(), atol=1e-6)


def test_what_was_exported_is_imported_with_its_length(
    tiny: MakeModel, direction: MakeDirection, tmp_path: Path
) -> None:
    lm, path = tiny("llama"), tmp_path / "sea.gguf"
    vectors = save_control_vector(lm, [push(direction(HOOK))], path)
    back = import_directions(path, lm=lm)
    assert list(back) == [HOOK]
    torch.testing.assert_close(back[HOOK].scaled(back[HOOK].norm, "raw"), vectors[1])


def test_two_exports_are_byte_for_byte_equal(
    tiny: MakeModel, direction: MakeDirection, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        save_control_vector(tiny("llama"), [push(direction(HOOK))], tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    "place", ["blocks.0.hook_resid_post", "blocks.1.hook_resid_pre", "blocks.2.hook_resid_mid"]
)
def test_a_place_that_llama_cpp_cannot_reach_is_refused(
    place: str, tiny: MakeModel, direction: MakeDirection, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match="output of block 1 or a later one"):
        save_control_vector(tiny("llama"), [push(direction(place))], tmp_path / "sea.gguf")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_constant_push_is_refused_and_leaves_nothing(
    tiny: MakeModel, direction: MakeDirection, tmp_path: Path
) -> None:
    lm, out = tiny("llama"), tmp_path / "sea.gguf"
    with pytest.raises(ExportError, match="expected Add"):
        save_control_vector(lm, [Set(direction(HOOK), 1.0, positions=ALL_POSITIONS)], out)
    with pytest.raises(ExportError, match="position 0 too"):
        save_control_vector(lm, [Add(direction(HOOK), 1.0)], out)
    with pytest.raises(CoefficientError, match="finite"):
        save_control_vector(lm, [push(direction(HOOK), math.nan)], out)
    short = Direction.from_vector(torch.ones(8), HOOK, mean_norm=1.0)
    with pytest.raises(DirectionError, match="8 dimensions"):
        save_control_vector(lm, [push(short)], out)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_exists_is_not_touched(
    tiny: MakeModel, direction: MakeDirection, tmp_path: Path
) -> None:
    path = tmp_path / "sea.gguf"
    path.write_text("kept")
    with pytest.raises(ExportError, match="exists"):
        save_control_vector(tiny("llama"), [push(direction(HOOK))], path)
    assert path.read_text() == "kept"


def test_an_interrupt_while_writing_leaves_nothing(
    tiny: MakeModel, direction: MakeDirection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_given: Any, **_named: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensors_to_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_control_vector(tiny("llama"), [push(direction(HOOK))], tmp_path / "sea.gguf")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named(
    tiny: MakeModel, direction: MakeDirection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(ExportError, match=r"tiller\[export\]"):
        save_control_vector(tiny("llama"), [push(direction(HOOK))], tmp_path / "sea.gguf")


def test_what_was_exported_knows_its_model_when_it_comes_back(
    tiny: MakeModel, direction: MakeDirection, tmp_path: Path
) -> None:
    lm, path = tiny("llama"), tmp_path / "sea.gguf"
    save_control_vector(lm, [Add(direction(HOOK), 0.5, positions=ALL_POSITIONS)], path)
    (found,) = import_directions(path, lm=lm).values()
    assert found.model_sha == lm.weights_sha()
    with pytest.raises(DirectionError, match=r"exported for weights .*direction.for_model\(lm\)"):
        import_directions(path, lm=tiny("gpt2"))
    (found,) = import_directions(path).values()
    with pytest.raises(DirectionError, match="was made on weights"):
        edits_for(tiny("gpt2"), [Add(found, 1.0, "raw")])
    edits_for(tiny("gpt2"), [Add(found.for_model(tiny("gpt2")), 1.0, "raw")])
