from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from steering.direction import Direction
from steering.errors import EvaluationError
from steering.intervention import Add
from steering.sources.random import random_direction
from steering.tax import delta_ce, held_out, measure_tax, prefix_tax

if TYPE_CHECKING:
    from lm import LanguageModel

TEXTS = ["One day a little boat sailed on the blue sea.", "The farmer fed the horse.", "A star."]
POINT = "blocks.0.hook_resid_post"


@pytest.fixture
def documents(tiny_lm: LanguageModel) -> list[list[int]]:
    return [tiny_lm.encode(text) for text in TEXTS]


@pytest.fixture
def push(tiny_lm: LanguageModel) -> Direction:
    return random_direction(tiny_lm.d_model, hook_point=POINT, seed=0, mean_norm=3.0)


def test_adding_nothing_costs_exactly_nothing(
    tiny_lm: LanguageModel, documents: list[list[int]], push: Direction
) -> None:
    texts = held_out(tiny_lm, documents, 32)
    [tax] = measure_tax(tiny_lm, texts, [[Add(push, 0.0)]])
    assert (tax.delta_ce, tax.kl_mean, tax.kl_p95, tax.agreement) == (0.0, 0.0, 0.0, 1.0)
    assert delta_ce(tiny_lm, texts, [[]]) == pytest.approx([0.0], abs=1e-6)


def test_the_short_way_to_delta_ce_agrees_with_the_long_one(
    tiny_lm: LanguageModel, documents: list[list[int]], push: Direction
) -> None:
    texts = held_out(tiny_lm, documents, 32)
    arms = [[Add(push, c)] for c in (0.5, 2.0, -2.0)]
    short = delta_ce(tiny_lm, texts, arms)
    long = [tax.delta_ce for tax in measure_tax(tiny_lm, texts, arms)]
    np.testing.assert_allclose(short, long, atol=1e-5)
    assert abs(short[1]) > 1e-3


def test_delta_ce_is_the_difference_of_token_losses_without_the_first_place(
    tiny_lm: LanguageModel, documents: list[list[int]], push: Direction
) -> None:
    from lm.losses import token_losses
    from steering.steer import edits_for

    edits = edits_for(tiny_lm, [Add(push, 2.0)])
    steered = np.concatenate([row[1:] for row in token_losses(tiny_lm, documents, edits)])
    clean = np.concatenate([row[1:] for row in token_losses(tiny_lm, documents)])
    found = delta_ce(tiny_lm, held_out(tiny_lm, documents, 64), [[Add(push, 2.0)]])
    assert found[0] == pytest.approx((steered - clean).mean(), abs=1e-5)


def test_a_batch_of_arms_costs_what_each_costs_alone(
    tiny_lm: LanguageModel,
    documents: list[list[int]],
    push: Direction,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts = held_out(tiny_lm, documents, 32)
    arms = [[Add(push, c)] for c in (0.5, 1.0, 2.0, 4.0)]
    together = measure_tax(tiny_lm, texts, arms)
    monkeypatch.setattr("steering.tax.BATCH_TOKENS", 16)
    alone = [measure_tax(tiny_lm, texts, [arm])[0] for arm in arms]
    for one, other in zip(together, alone, strict=True):
        assert one.delta_ce == pytest.approx(other.delta_ce, abs=1e-5)
        assert one.kl_p95 == pytest.approx(other.kl_p95, abs=1e-4)
        assert one.n_tokens == other.n_tokens


def test_a_divergence_is_never_negative_and_grows_with_the_dose(
    tiny_lm: LanguageModel, documents: list[list[int]], push: Direction
) -> None:
    texts = held_out(tiny_lm, documents, 32)
    small, large = measure_tax(tiny_lm, texts, [[Add(push, 0.2)], [Add(push, 2.0)]])
    assert 0 < small.kl_mean < large.kl_mean
    assert small.kl_mean <= small.kl_p95
    assert 0 <= large.agreement <= 1


def test_position_zero_and_the_last_token_are_not_scored(
    tiny_lm: LanguageModel, documents: list[list[int]]
) -> None:
    texts = held_out(tiny_lm, documents, 64)
    assert not texts.scored[:, 0].any()
    assert int(texts.scored.sum()) == sum(len(document) - 2 for document in documents)
    assert texts.starts_special


def test_an_empty_prefix_costs_nothing_and_a_real_one_something(
    tiny_lm: LanguageModel, documents: list[list[int]]
) -> None:
    texts = held_out(tiny_lm, documents, 24)
    nothing = prefix_tax(tiny_lm, texts, [])
    assert nothing.delta_ce == pytest.approx(0.0, abs=1e-6)
    found = prefix_tax(tiny_lm, texts, tiny_lm.encode("The sea.")[1:])
    assert found.kl_mean > 1e-4
    assert found.n_tokens == nothing.n_tokens


def test_a_prefix_stands_between_the_first_token_and_the_rest(
    tiny_lm: LanguageModel, documents: list[list[int]]
) -> None:
    from lm.losses import token_losses

    prefix, document = tiny_lm.encode("The sea.")[1:], documents[0]
    whole = [document[0], *prefix, *document[1:]]
    steered = token_losses(tiny_lm, [whole])[0][-(len(document) - 2) :]
    clean = token_losses(tiny_lm, [document])[0][1:]
    found = prefix_tax(tiny_lm, held_out(tiny_lm, [document], 64), prefix)
    assert found.delta_ce == pytest.approx(float((steered - clean).mean()), abs=1e-4)


def test_a_prefix_beyond_the_context_is_refused(
    tiny_lm: LanguageModel, documents: list[list[int]]
) -> None:
    with pytest.raises(EvaluationError, match="shorten the prefix"):
        prefix_tax(tiny_lm, held_out(tiny_lm, documents, 24), [5] * tiny_lm.context)


def test_documents_without_a_place_to_score_are_refused(tiny_lm: LanguageModel) -> None:
    with pytest.raises(EvaluationError, match="no token to score"):
        held_out(tiny_lm, [tiny_lm.encode("")], 8)
    with pytest.raises(EvaluationError, match="0 held-out documents"):
        held_out(tiny_lm, [], 8)


def test_the_model_is_left_as_it_was(
    tiny_lm: LanguageModel, documents: list[list[int]], push: Direction
) -> None:
    ids = torch.tensor([documents[0]])
    before = tiny_lm.model(ids).logits
    delta_ce(tiny_lm, held_out(tiny_lm, documents, 32), [[Add(push, 4.0)]])
    assert torch.equal(tiny_lm.model(ids).logits, before)
