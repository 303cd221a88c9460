"""A push towards a token is found to say it, and no other push's list is worth as much."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from pipelines.trial.pushes import Pushes
from steering.direction import Direction
from steering.intervention import Add
from steering.output_tokens import said
from steering.sources.random import random_direction

if TYPE_CHECKING:
    from lm import LanguageModel

POINT = "blocks.1.hook_resid_post"
MAKE = ["One day a little boat sailed.", "The farmer fed the horse."]
SCORE = ["A star is in the sky.", "She went to the barn.", "Is the sky blue?"]
TOKENS = [20, 50, 80, 110]


@pytest.fixture(scope="module")
def pushes(tiny_lm: LanguageModel) -> Pushes:
    """One feature a token: its row of the unembedding, written behind the last block."""
    rows = tiny_lm.unembedding().detach().float()
    rows = rows - rows.mean(dim=0)
    features: list[tuple[Add, ...]] = [
        (Add(Direction.from_vector(rows[token], POINT, mean_norm=2.0), 1.0),) for token in TOKENS
    ]
    randoms: list[tuple[Add, ...]] = [
        (Add(random_direction(16, hook_point=POINT, seed=seed, mean_norm=2.0), 1.0),)
        for seed in range(6)
    ]
    return Pushes(tiny_lm, features, randoms, seed=0)


def made(pushes: Pushes, k: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    allowed = torch.ones(pushes.lm.n_vocab, dtype=torch.bool)
    return pushes.likelier([pushes.lm.encode(text) for text in MAKE], allowed, k)


def test_a_push_towards_a_token_makes_it_likelier(pushes: Pushes) -> None:
    lists, _ = made(pushes)
    assert all(token in own for token, own in zip(TOKENS, lists.tolist(), strict=True))


def test_a_list_is_worth_what_the_model_says_beyond_random_pushes(pushes: Pushes) -> None:
    prompts = [pushes.lm.encode(text) for text in SCORE]
    lists, _ = made(pushes)
    (worth,) = pushes.worth(prompts, lists[None])
    (ours,), (theirs,) = (
        list(said(pushes.lm, prompts, arms)) for arms in (pushes.features, pushes.randoms)
    )
    for feature, own in enumerate(lists):
        wanted = (ours.log_probs()[feature] - theirs.log_probs().mean(dim=0))[:, own].mean(dim=1)
        np.testing.assert_allclose(worth.gain[feature], wanted.numpy(), atol=1e-4)
        share = ours.probs()[feature][:, own].sum(dim=1).mean()
        assert worth.share[feature] == pytest.approx(float(share), rel=1e-4)
        usual = theirs.probs()[..., own].sum(dim=-1).mean()
        assert worth.random_share[feature] == pytest.approx(float(usual), rel=1e-4)


def test_its_own_list_gains_more_than_both_nulls(pushes: Pushes) -> None:
    lists, _ = made(pushes)
    (worth,) = pushes.worth([pushes.lm.encode(text) for text in SCORE], lists[None])
    assert (worth.gain.mean(axis=1) > worth.random).all()
    assert (worth.gain.mean(axis=1) > worth.other).all()
    assert (worth.share > worth.random_share).all()


def test_another_features_list_is_not_its_own(pushes: Pushes) -> None:
    lists, _ = made(pushes)
    prompts = [pushes.lm.encode(text) for text in SCORE]
    own, turned = pushes.worth(prompts, torch.stack([lists, lists.roll(1, dims=0)]))
    assert (turned.gain.mean(axis=1) < own.gain.mean(axis=1)).all()
    assert (turned.gain.mean(axis=1) < turned.other).all()


def test_a_feature_alone_has_no_other_to_be_compared_with(pushes: Pushes) -> None:
    alone = Pushes(pushes.lm, pushes.features[:1], pushes.randoms, seed=0)
    lists, _ = made(alone)
    (worth,) = alone.worth([pushes.lm.encode(text) for text in SCORE], lists[None])
    assert math.isnan(worth.other[0])
    assert worth.gain.mean() > worth.random[0]


def test_random_pushes_have_lists_of_their_own_and_these_gain_too(pushes: Pushes) -> None:
    _, of_random = made(pushes)
    assert len(of_random) == len(pushes.randoms)
    assert pushes.random_worth([pushes.lm.encode(text) for text in SCORE], of_random) > 0
