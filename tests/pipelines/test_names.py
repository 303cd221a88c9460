"""A name means one thing of one workspace, or is refused with what it could have meant."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from features.errors import AmbiguousFeature, UnknownFeature, WeakFeature
from pipelines.names import DIRECTIONS, StoreNames
from sae.checkpoint import save
from sae.model import SparseAutoencoder
from sae.sparsity import ReLU
from steering.direction import Direction, save_directions
from steering.errors import DirectionError
from steering.target import Latent
from tests.features.named_store import store_of
from tests.features.planted import D_MODEL, HOOK_POINT, RANDOM, SEA

D_SAE = 64
MODEL_SHA = "m"
"""What the planted store says of its model's weights."""


def _autoencoder() -> SparseAutoencoder:
    decoder = torch.randn(D_SAE, D_MODEL, generator=torch.Generator().manual_seed(0))
    decoder /= decoder.norm(dim=1, keepdim=True)
    zero = torch.zeros
    return SparseAutoencoder(
        decoder.T.contiguous(), decoder, zero(D_SAE), zero(D_MODEL), ReLU(), None, HOOK_POINT
    )


def _workspace(folder: Path, *runs: str) -> Path:
    store_of(folder, *runs).close()
    for run in runs:
        save(_autoencoder(), folder / "data/sae" / run)
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = _workspace(tmp_path_factory.mktemp("one") / "here", "main")
    found = {"sea/diff_mean": Direction.from_vector(torch.ones(D_MODEL), HOOK_POINT)}
    save_directions(folder / DIRECTIONS, found)
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _workspace(tmp_path_factory.mktemp("two") / "here", "main", "wide")


@pytest.fixture
def names(one: Path) -> Iterator[StoreNames]:
    with StoreNames(one) as opened:
        yield opened


@pytest.mark.parametrize("name", ["sea", "main/sea", f"main/{SEA}", f"0/{SEA}"])
def test_a_feature_is_written_along_its_decoder_row_and_read_as_its_latent(
    names: StoreNames, name: str
) -> None:
    row = _autoencoder().W_dec[SEA]
    written, read = names.direction(name), names.reading(name)
    torch.testing.assert_close(written.vector, row)
    assert isinstance(read, Latent)
    torch.testing.assert_close(read.reader, row)
    assert written.hook_point == read.hook_point == HOOK_POINT
    assert written.max_act == read.max_act
    assert written.max_act is not None
    assert written.max_act > 0
    assert written.model_sha == read.model_sha == MODEL_SHA
    assert written.concept == read.concept


def test_a_weak_name_is_refused_unless_weak_ones_are_allowed(names: StoreNames, one: Path) -> None:
    for asked in (names.direction, names.reading):
        with pytest.raises(WeakFeature, match="--allow-weak"):
            asked("odd")
    with StoreNames(one, allow_weak=True) as allowing:
        torch.testing.assert_close(allowing.direction("odd").vector, _autoencoder().W_dec[RANDOM])


@pytest.mark.parametrize("name", ["sea", f"0/{SEA}", str(SEA)])
def test_a_name_of_two_runs_is_refused_with_both(two: Path, name: str) -> None:
    with StoreNames(two) as names:
        for asked in (names.direction, names.reading):
            with pytest.raises(AmbiguousFeature, match=r"main, wide.*main/"):
                asked(name)
        assert names.direction("wide/sea").provenance["run_id"] == "wide"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("see", "sea"),
        ("main/9999", "9999"),
        ("7/12", r"no autoencoder at layer 7; expected one of main \(layer 0\)"),
        ("other/sea", "other"),
    ],
)
def test_what_nothing_is_called_is_refused_with_what_there_is(
    names: StoreNames, name: str, message: str
) -> None:
    with pytest.raises(UnknownFeature, match=message):
        names.direction(name)


def test_a_direction_of_the_stage_and_one_of_ones_own_have_names_too(one: Path) -> None:
    own = Direction.from_vector(-torch.ones(D_MODEL), HOOK_POINT)
    with StoreNames(one, own={"sea": own}) as names:
        assert names.direction("sea") is own
        assert names.reading("sea") is own
        torch.testing.assert_close(names.direction("sea/diff_mean").vector, -own.vector)


def test_a_run_without_its_autoencoder_says_which_is_missing(tmp_path: Path) -> None:
    store_of(tmp_path / "here", "main").close()
    with (
        StoreNames(tmp_path / "here") as names,
        pytest.raises(DirectionError, match="run main"),
    ):
        names.direction("sea")
