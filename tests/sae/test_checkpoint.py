import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sae.checkpoint import CFG, WEIGHTS, load, save
from sae.errors import SaeFileError
from sae.model import SparseAutoencoder
from sae.sparsity import BatchTopK, TopK


def test_save_and_load_is_identity_bit_for_bit(
    any_sae: SparseAutoencoder, resid: torch.Tensor, tmp_path: Path
) -> None:
    save(any_sae, tmp_path / "sae")
    again = load(tmp_path / "sae")
    assert torch.equal(again.encode(resid), any_sae.encode(resid))
    assert torch.equal(again(resid), any_sae(resid))
    assert type(again.sparsity) is type(any_sae.sparsity)
    assert again.hook_point == "blocks.1.hook_resid_post"
    assert again.metadata["model_name"] == "tiny"
    assert sorted(path.name for path in (tmp_path / "sae").iterdir()) == [CFG, WEIGHTS]


def test_equal_autoencoders_give_equal_bytes(any_sae: SparseAutoencoder, tmp_path: Path) -> None:
    save(any_sae, tmp_path / "one")
    save(load(tmp_path / "one"), tmp_path / "two")
    for name in (WEIGHTS, CFG):
        one, two = (json_or_bytes(tmp_path / folder / name) for folder in ("one", "two"))
        assert one == two


def json_or_bytes(path: Path) -> object:
    return json.loads(path.read_text()) if path.suffix == ".json" else path.read_bytes()


def test_rules_keep_their_numbers(
    make_sae: Callable[..., SparseAutoencoder], tmp_path: Path
) -> None:
    top = make_sae(TopK(5))
    top = replace(top, threshold=torch.full((24,), 0.3))
    save(top, tmp_path / "top")
    again = load(tmp_path / "top")
    assert again.sparsity == TopK(5)
    assert again.threshold is not None
    assert torch.equal(again.threshold, torch.full((24,), 0.3))
    batch = make_sae(BatchTopK(5, float(torch.tensor(0.7))))
    save(batch, tmp_path / "batch")
    assert load(tmp_path / "batch").sparsity == batch.sparsity


def test_norms_are_folded_on_save(any_sae: SparseAutoencoder, tmp_path: Path) -> None:
    if isinstance(any_sae.sparsity, TopK):
        pytest.skip("a TopK of unequal norms cannot be folded, and says so")
    stretched = replace(any_sae, W_dec=any_sae.W_dec * torch.linspace(0.5, 2, 24).unsqueeze(1))
    save(stretched, tmp_path / "sae")
    torch.testing.assert_close(load(tmp_path / "sae").W_dec.norm(dim=1), torch.ones(24))


@pytest.mark.parametrize("missing", [CFG, WEIGHTS])
def test_a_missing_file_is_named(any_sae: SparseAutoencoder, tmp_path: Path, missing: str) -> None:
    save(any_sae, tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(SaeFileError, match=f"has no {missing}"):
        load(tmp_path)


@pytest.mark.parametrize("name", [CFG, WEIGHTS])
def test_a_damaged_file_is_an_error(any_sae: SparseAutoencoder, tmp_path: Path, name: str) -> None:
    save(any_sae, tmp_path)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SaeFileError, match="cannot be read"):
        load(tmp_path)


def test_a_configuration_that_is_no_object_is_an_error(
    any_sae: SparseAutoencoder, tmp_path: Path
) -> None:
    save(any_sae, tmp_path)
    (tmp_path / CFG).write_text("[]")
    with pytest.raises(SaeFileError, match="holds list"):
        load(tmp_path)
