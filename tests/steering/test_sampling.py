from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from steering.direction import Direction
from steering.intervention import Add
from steering.sampling import Ask, next_probabilities, sample
from steering.sources.random import random_direction

if TYPE_CHECKING:
    from lm import LanguageModel

POINT = "blocks.0.hook_resid_post"
PROMPTS = ["One day a little", "The farmer went to the barn", "Is the sky"]


@pytest.fixture
def push(tiny_lm: LanguageModel) -> Direction:
    return random_direction(tiny_lm.d_model, hook_point=POINT, seed=0, mean_norm=3.0)


def asks_of(lm: LanguageModel, push: Direction) -> list[Ask]:
    return [
        Ask(tuple(lm.encode(prompt)), seed, (Add(push, dose),) if dose else ())
        for prompt in PROMPTS
        for seed in (0, 1)
        for dose in (0.0, 1.0, 4.0)
    ]


def test_a_row_answers_the_same_whatever_shares_its_batch(
    tiny_lm: LanguageModel, push: Direction
) -> None:
    asks = asks_of(tiny_lm, push)
    together = sample(tiny_lm, asks, max_new_tokens=6, temperature=1.0)
    for ask, answer in zip(asks, together, strict=True):
        [alone] = sample(tiny_lm, [ask], max_new_tokens=6, temperature=1.0)
        assert alone.ids == answer.ids
        np.testing.assert_allclose(alone.nats, answer.nats, atol=1e-4)
    small = sample(tiny_lm, asks, max_new_tokens=6, temperature=1.0, batch_rows=4)
    assert [one.ids for one in small] == [one.ids for one in together]


def test_nats_are_the_unsteered_models_of_the_ids_generated(
    tiny_lm: LanguageModel, push: Direction
) -> None:
    from lm.losses import token_losses

    asks = asks_of(tiny_lm, push)
    for ask, answer in zip(
        asks, sample(tiny_lm, asks, max_new_tokens=5, temperature=1.0), strict=True
    ):
        losses = token_losses(tiny_lm, [[*ask.prompt_ids, *answer.ids]])[0]
        np.testing.assert_allclose(answer.nats, losses[-len(answer.ids) :], atol=1e-4)
        assert len(answer.nats) == len(answer.ids)


def test_the_same_seed_without_an_edit_is_the_same_text_and_a_strong_edit_changes_it(
    tiny_lm: LanguageModel, push: Direction
) -> None:
    prompt = tuple(tiny_lm.encode(PROMPTS[0]))
    asks = [Ask(prompt, 7), Ask(prompt, 7, (Add(push, 0.0),)), Ask(prompt, 7, (Add(push, 8.0),))]
    plain, nothing, strong = sample(tiny_lm, asks, max_new_tokens=12, temperature=1.0)
    assert plain.ids == nothing.ids
    assert strong.ids != plain.ids


def test_a_text_in_front_changes_the_words_but_not_what_they_are_measured_against(
    tiny_lm: LanguageModel,
) -> None:
    from lm.losses import token_losses

    prompt, front = tiny_lm.encode(PROMPTS[0]), tiny_lm.encode("The sea. ")[1:]
    long = (prompt[0], *front, *prompt[1:])
    [answer] = sample(
        tiny_lm, [Ask(long, 3, scored_after=tuple(prompt))], max_new_tokens=5, temperature=1.0
    )
    [same_words] = sample(tiny_lm, [Ask(long, 3)], max_new_tokens=5, temperature=1.0)
    assert answer.ids == same_words.ids
    losses = token_losses(tiny_lm, [[*prompt, *answer.ids]])[0]
    np.testing.assert_allclose(answer.nats, losses[-5:], atol=1e-4)


def test_nothing_asked_is_nothing_answered(tiny_lm: LanguageModel) -> None:
    assert sample(tiny_lm, [], max_new_tokens=4, temperature=1.0) == []


def test_next_probabilities_are_those_of_each_prompt_alone(
    tiny_lm: LanguageModel, push: Direction
) -> None:
    import torch

    from steering.steer import steer

    prompts = [tiny_lm.encode(prompt) for prompt in PROMPTS]
    arms = [(), (Add(push, 2.0),), (Add(push, -1.0),)]
    found = next_probabilities(tiny_lm, prompts, arms, batch_rows=4)
    for arm, rows in zip(arms, found, strict=True):
        for prompt, row in zip(prompts, rows, strict=True):
            with steer(tiny_lm, list(arm)), torch.no_grad():
                alone = tiny_lm.model(torch.tensor([prompt])).logits[0, -1].softmax(-1)
            torch.testing.assert_close(row, alone, atol=1e-5, rtol=1e-4)
