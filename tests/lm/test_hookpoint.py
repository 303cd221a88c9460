"""A place on the stream is parsed once, and a bad one is told apart at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm import HookPoint
from lm.errors import HookPointError
from lm.hookpoint import Site

SITES = get_args(Site)


@dataclass(frozen=True)
class Model:
    name: str = "tiny"
    n_layers: int = 3
    no_mid: str | None = None


@given(layer=st.integers(0, 200), site=st.sampled_from(SITES))
def test_what_is_written_is_what_is_parsed(layer: int, site: Site) -> None:
    point = HookPoint(layer, site)
    assert HookPoint.parse(str(point)) == point


@pytest.mark.parametrize(
    "text",
    [
        "",
        "blocks.6.resid_post",
        "blocks.-1.hook_resid_post",
        "blocks.6.hook_resid_post ",
        "blocks.6.hook_mlp_out",
        "blocks.٣.hook_resid_post",
        "layers.6.hook_resid_post",
        "blocks.6.hook_resid_post\n",
    ],
)
def test_other_text_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(HookPointError, match=r"write for example 'blocks\.6\.hook_resid_post'"):
        HookPoint.parse(text)


def test_depth_sorts_places_as_a_pass_meets_them() -> None:
    points = [HookPoint(layer, site) for layer in range(3) for site in SITES]
    backwards = points[::-1]
    assert sorted(backwards, key=lambda point: point.depth) == points


def test_a_layer_that_the_model_lacks_is_refused_by_name() -> None:
    HookPoint(2).check(Model())
    for layer in (3, -1):
        with pytest.raises(HookPointError, match=r"beyond tiny, which has 3 layers"):
            HookPoint(layer).check(Model())


def test_a_middle_that_the_model_lacks_is_refused_with_the_reason() -> None:
    model = Model(no_mid="its blocks are parallel")
    HookPoint(0, "resid_pre").check(model)
    with pytest.raises(HookPointError, match="its blocks are parallel"):
        HookPoint(0, "resid_mid").check(model)
