from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from lm.hookpoint import HookPoint
from steering.direction import Direction
from steering.intervention import Add, Intervention, ProjectOut
from steering.padding import padded
from steering.resume import read_once, steered_logits
from steering.sources.random import random_direction
from steering.steer import steer

if TYPE_CHECKING:
    from lm import LanguageModel

TEXTS = ["One day a little boat sailed on the blue sea.", "The farmer fed the horse.", "A star."]


def push(lm: LanguageModel, point: str, seed: int = 0) -> Direction:
    return random_direction(lm.d_model, hook_point=point, seed=seed, mean_norm=3.0)


@pytest.mark.parametrize("point", ["blocks.0.hook_resid_post", "blocks.1.hook_resid_pre"])
def test_the_rest_of_a_pass_gives_what_the_whole_pass_gives(
    tiny_lm: LanguageModel, point: str
) -> None:
    ids, is_real = padded([tiny_lm.encode(text) for text in TEXTS], tiny_lm.device)
    one, other = push(tiny_lm, point), push(tiny_lm, point, seed=1)
    arms: list[list[Intervention]] = [
        [Add(one, 1.0)],
        [],
        [Add(one, -2.0), ProjectOut(other)],
    ]
    known = read_once(tiny_lm, ids, is_real, arms)
    assert known.stream is not None
    resumed = steered_logits(tiny_lm, known, arms)
    for arm, logits in zip(arms, resumed, strict=True):
        with steer(tiny_lm, arm), torch.no_grad():
            whole = tiny_lm.model(input_ids=ids, attention_mask=is_real.long()).logits
        torch.testing.assert_close(logits[is_real], whole[is_real], atol=1e-5, rtol=1e-4)


def test_edits_at_two_places_or_within_a_block_run_the_model_whole(tiny_lm: LanguageModel) -> None:
    ids, is_real = padded([tiny_lm.encode(TEXTS[0])], tiny_lm.device)
    mid = push(tiny_lm, "blocks.0.hook_resid_mid")
    two: list[Intervention] = [
        Add(push(tiny_lm, f"blocks.{layer}.hook_resid_post"), 1.0) for layer in (0, 1)
    ]
    cases: list[list[list[Intervention]]] = [[[Add(mid, 1.0)]], [two], [[]]]
    for arms in cases:
        known = read_once(tiny_lm, ids, is_real, arms)
        assert known.stream is None
        with steer(tiny_lm, arms[0]), torch.no_grad():
            whole = tiny_lm.model(ids).logits
        torch.testing.assert_close(steered_logits(tiny_lm, known, arms)[0], whole)


def test_a_model_that_cannot_be_resumed_is_noticed_and_run_whole(tiny_lm: LanguageModel) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    from lm.model import wrap_model

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=tiny_lm.n_vocab, n_positions=16, n_embd=8, n_layer=2, n_head=2, bos_token_id=1
    )
    model = GPT2LMHeadModel(config)
    model.train(False)
    lm = wrap_model(model, tiny_lm.tokenizer, "gpt2")
    ids = torch.tensor([[3, 4, 5, 6]])
    arms = [[Add(push(lm, "blocks.0.hook_resid_post"), 1.0)]]
    known = read_once(lm, ids, torch.ones_like(ids).bool(), arms)
    assert known.stream is None
    with steer(lm, arms[0]), torch.no_grad():
        whole = lm.model(ids).logits
    torch.testing.assert_close(steered_logits(lm, known, arms)[0], whole)


def test_nothing_of_the_model_changes(tiny_lm: LanguageModel) -> None:
    ids, is_real = padded([tiny_lm.encode(TEXTS[0])], tiny_lm.device)
    before = tiny_lm.model(ids).logits
    known = read_once(
        tiny_lm, ids, is_real, [[Add(push(tiny_lm, "blocks.0.hook_resid_post"), 2.0)]]
    )
    assert known.point == HookPoint(0, "resid_post")
    assert len(list(tiny_lm.stem.get_submodule("layers").children())) == tiny_lm.n_layers
    assert torch.equal(tiny_lm.model(ids).logits, before)
