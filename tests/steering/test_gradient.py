from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from steering.gradient import fisher, probed, word_gradients
from steering.intervention import Add
from steering.sources.random import random_direction
from steering.tax import held_out, measure_tax

if TYPE_CHECKING:
    from lm import LanguageModel

POINT = "blocks.0.hook_resid_post"
TEXTS = [
    "One day a little boat sailed on the blue sea and the captain was happy.",
    "The farmer went to the barn to feed the sad old horse.",
]


@pytest.fixture
def documents(tiny_lm: LanguageModel) -> list[list[int]]:
    return [tiny_lm.encode(text) for text in TEXTS]


def test_the_gradient_predicts_what_a_small_push_does_to_the_words(
    tiny_lm: LanguageModel, documents: list[list[int]]
) -> None:
    words = {"sea": torch.tensor([10, 20, 30])}
    rows = {"sea": torch.tensor([True, False])}
    push = random_direction(tiny_lm.d_model, hook_point=POINT, seed=1, mean_norm=1.0)
    with probed(tiny_lm, documents, POINT) as run:
        gradient = word_gradients(run, words, rows)["sea"]

    def share(length: float) -> float:
        from steering.steer import steer

        with steer(tiny_lm, [Add(push, length)]), torch.no_grad():
            logits = tiny_lm.model(torch.tensor([documents[0]])).logits
        return float(logits[0, 1:-1].softmax(-1)[:, words["sea"]].sum(-1).mean().log())

    slope = (share(1e-2) - share(-1e-2)) / 2e-2
    assert float(gradient @ push.vector) == pytest.approx(slope, rel=0.02, abs=1e-4)


def test_half_the_fisher_form_is_the_divergence_of_a_small_push(
    tiny_lm: LanguageModel, documents: list[list[int]]
) -> None:
    push = random_direction(tiny_lm.d_model, hook_point=POINT, seed=2, mean_norm=1.0)
    with probed(tiny_lm, documents, POINT) as run:
        form = fisher(run, draws=200, seed=0)
    length = 0.05
    [tax] = measure_tax(tiny_lm, held_out(tiny_lm, documents, 64), [[Add(push, length)]])
    predicted = 0.5 * length**2 * float(push.vector @ form @ push.vector)
    assert predicted == pytest.approx(tax.kl_mean, rel=0.25)


def test_the_fisher_matrix_is_symmetric_and_seeded(
    tiny_lm: LanguageModel, documents: list[list[int]]
) -> None:
    with probed(tiny_lm, documents, POINT) as run:
        one, same, other = (fisher(run, 2, seed) for seed in (0, 0, 1))
    torch.testing.assert_close(one, one.T)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert float(torch.linalg.eigvalsh(one.double()).min()) > -1e-6


def test_position_zero_carries_no_gradient_and_nothing_stays_attached(
    tiny_lm: LanguageModel, documents: list[list[int]]
) -> None:
    ids = torch.tensor([documents[0]])
    before = tiny_lm.model(ids).logits
    with probed(tiny_lm, documents, POINT) as run:
        assert not run.scored[:, 0].any()
        torch.testing.assert_close(run.log_probs[0, : ids.shape[1]], before[0].log_softmax(-1))
    assert torch.equal(tiny_lm.model(ids).logits, before)
