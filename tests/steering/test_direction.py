"""A direction keeps its length, its units and its facts, and refuses to be nonsense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lm.errors import HookPointError
from steering.direction import Direction, load_directions, save_directions
from steering.errors import CoefficientError, DirectionError

HOOK = "blocks.1.hook_resid_post"


def vector(seed: int = 0, d_model: int = 8) -> torch.Tensor:
    return torch.randn(d_model, generator=torch.Generator().manual_seed(seed))


def made(seed: int = 0, **facts: Any) -> Direction:
    return Direction.from_vector(vector(seed), HOOK, **facts)


def test_a_vector_is_kept_as_a_unit_vector_and_its_length() -> None:
    direction = Direction.from_vector(3.0 * vector(), HOOK)
    assert float(direction.vector.norm()) == pytest.approx(1.0, abs=1e-6)
    torch.testing.assert_close(direction.vector * direction.norm, 3.0 * vector())
    assert direction.vector.dtype == torch.float32


def test_a_half_precision_vector_becomes_float32() -> None:
    assert Direction.from_vector(vector().bfloat16(), HOOK).vector.dtype == torch.float32


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_vector_that_is_not_finite_is_refused(bad: float) -> None:
    broken = vector()
    broken[3] = bad
    with pytest.raises(DirectionError, match="1 of 8 numbers are NaN or infinite"):
        Direction.from_vector(broken, HOOK)


def test_a_zero_vector_is_refused() -> None:
    with pytest.raises(DirectionError, match="points somewhere"):
        Direction.from_vector(torch.zeros(8), HOOK)


def test_a_vector_that_is_not_of_length_one_is_refused_by_the_constructor() -> None:
    with pytest.raises(DirectionError, match="from_vector"):
        Direction(2 * made().vector, HOOK)


def test_a_bad_hook_point_is_refused_at_once() -> None:
    with pytest.raises(HookPointError, match="not a hook point"):
        Direction.from_vector(vector(), "layer 3")


@pytest.mark.parametrize("name", ["mean_norm", "max_act"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_a_scale_that_is_not_positive_is_refused(name: str, value: float) -> None:
    with pytest.raises(DirectionError, match=name):
        made(0, **{name: value})


def test_each_unit_has_its_own_scale() -> None:
    direction = made(mean_norm=7.0, max_act=3.0)
    assert direction.length(0.5, "norm") == 3.5
    assert direction.length(-0.5, "max_act") == -1.5
    assert direction.length(0.5, "raw") == 0.5
    torch.testing.assert_close(direction.scaled(2.0, "norm"), 14.0 * direction.vector)


@pytest.mark.parametrize("unit", ["norm", "max_act"])
def test_a_unit_without_its_scale_says_which_units_would_do(unit: str) -> None:
    with pytest.raises(CoefficientError, match=r"or use unit .*'raw'"):
        made().length(1.0, unit)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_coefficient_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(CoefficientError, match="finite"):
        made().length(value, "raw")


@given(a=st.integers(0, 99), b=st.integers(100, 199))
def test_arithmetic_is_that_of_the_vectors_at_their_lengths(a: int, b: int) -> None:
    one, other = made(a), made(b)
    for result, expected in [
        (one + other, vector(a) + vector(b)),
        (one - other, vector(a) - vector(b)),
        (2.0 * one, 2.0 * vector(a)),
        (one * -0.5, -0.5 * vector(a)),
        (-one, -vector(a)),
    ]:
        torch.testing.assert_close(result.vector * result.norm, expected)


def test_what_is_projected_out_is_gone_and_nothing_else() -> None:
    one, other = made(0), made(1)
    rest = one.project_out(other)
    assert float(rest.vector @ other.vector) == pytest.approx(0.0, abs=1e-6)
    own = one.vector * one.norm
    torch.testing.assert_close(
        rest.vector * rest.norm, own - (own @ other.vector) * other.vector, atol=1e-5, rtol=1e-5
    )


def test_turning_a_direction_round_turns_its_class_means_round() -> None:
    direction = Direction(
        made().vector, HOOK, positive_mean=2.0, negative_mean=-1.0, max_act=5.0, mean_norm=3.0
    )
    turned = -direction
    assert (turned.positive_mean, turned.negative_mean) == (-2.0, 1.0)
    assert turned.max_act is None
    assert turned.mean_norm == 3.0


def test_directions_of_two_places_do_not_mix() -> None:
    elsewhere = Direction.from_vector(vector(1), "blocks.0.hook_resid_post")
    with pytest.raises(DirectionError, match="of one place"):
        made() + elsewhere


def test_parallel_directions_leave_nothing() -> None:
    with pytest.raises(DirectionError, match="parallel"):
        made().project_out(-made())
    with pytest.raises(DirectionError, match="points somewhere"):
        made() - made()


@pytest.mark.parametrize("factor", [0.0, float("nan")])
def test_a_direction_times_nothing_is_refused(factor: float) -> None:
    with pytest.raises(DirectionError, match="factor"):
        factor * made()


def test_saved_directions_load_equal_in_every_field(tmp_path: Path) -> None:
    full = Direction(
        made().vector,
        HOOK,
        norm=2.5,
        mean_norm=7.0,
        max_act=3.0,
        positive_mean=1.0,
        negative_mean=-1.0,
        sigma=0.5,
        source="diff_mean",
        concept="mar é",
        provenance={"n": 3, "run_id": None, "x": 0.1, "ok": True, "text": "a"},
    )
    path = tmp_path / "deep" / "directions.safetensors"
    save_directions(path, {"b": made(1), "a": full})
    loaded = load_directions(path)
    assert list(loaded) == ["a", "b"]
    for field in ("norm", "mean_norm", "max_act", "positive_mean", "sigma", "source", "concept"):
        assert getattr(loaded["a"], field) == getattr(full, field)
    assert dict(loaded["a"].provenance) == dict(full.provenance)
    assert torch.equal(loaded["a"].vector, full.vector)
    assert torch.equal(loaded["b"].vector, made(1).vector)


def test_a_file_of_directions_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    save_directions(tmp_path / "one", {f"d{i}": made(i) for i in range(5)})
    save_directions(tmp_path / "two", {f"d{i}": made(i) for i in reversed(range(5))})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_a_missing_or_foreign_file_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(DirectionError, match="tiller run --to directions"):
        load_directions(tmp_path / "absent")
    (tmp_path / "foreign").write_bytes(b"not safetensors at all")
    with pytest.raises(DirectionError, match="does not read as directions"):
        load_directions(tmp_path / "foreign")
