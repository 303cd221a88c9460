"""A batch that the lists of edits do not fit is refused before any block computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from lm.generate import generate
from lm.losses import token_losses
from lm.model import LanguageModel
from steering.direction import Direction
from steering.errors import InterventionError
from steering.intervention import Add
from steering.steer import edits_for, steer

LAST = "blocks.1.hook_resid_post"
IDS = torch.tensor([[1, 30, 31, 32], [1, 40, 41, 42]])
ROWS = [
    [Add(Direction.from_vector(torch.ones(16), LAST, mean_norm=1.0), c)] for c in (1.0, 2.0, 3.0)
]


@pytest.fixture
def ran(tiny_lm: LanguageModel) -> Iterator[list[int]]:
    """The blocks that have begun to compute, in order."""
    seen: list[int] = []
    handles = [
        block.register_forward_hook(lambda *_given, layer=layer: seen.append(layer))
        for layer, block in enumerate(tiny_lm.blocks)
    ]
    # Attention and MLP too, since a block that fails half way calls no hook of its own.
    handles += [
        part.register_forward_pre_hook(lambda *_given, layer=layer: seen.append(layer))
        for layer, block in enumerate(tiny_lm.blocks)
        for part in block.children()
    ]
    yield seen
    for handle in handles:
        handle.remove()


def n_hooks(lm: LanguageModel) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in lm.model.modules())


def forward(lm: LanguageModel) -> None:
    with steer(lm, ROWS):
        lm.model(IDS)


def whole_generate(lm: LanguageModel) -> None:
    with steer(lm, ROWS):
        lm.model.generate(IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=2)


def beams(lm: LanguageModel) -> None:
    with steer(lm, ROWS[:2]):
        lm.model.generate(IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=2, num_beams=2)


def own_generate(lm: LanguageModel) -> None:
    prompts = IDS.tolist()
    edits = edits_for(lm, ROWS)
    generate(lm, prompts, max_new_tokens=2, temperature=0, seeds=[0, 1], edits=edits)


def losses(lm: LanguageModel) -> None:
    token_losses(lm, IDS.tolist(), edits=edits_for(lm, ROWS))


@pytest.mark.parametrize("run", [forward, whole_generate, beams, own_generate, losses])
def test_a_batch_of_another_size_is_refused_before_a_block_runs(
    run: Callable[[LanguageModel], None], tiny_lm: LanguageModel, ran: list[int]
) -> None:
    before, clean = n_hooks(tiny_lm), tiny_lm.model(IDS).logits
    assert set(ran) == {0, 1}
    ran.clear()
    with pytest.raises(InterventionError, match=r"rows and \d lists of edits; expected one list"):
        run(tiny_lm)
    assert ran == []
    assert n_hooks(tiny_lm) == before
    assert torch.equal(tiny_lm.model(IDS).logits, clean)


def test_every_text_is_counted_anew_also_inside_one_with(
    tiny_lm: LanguageModel, ran: list[int]
) -> None:
    with steer(tiny_lm, ROWS[:2]):
        tiny_lm.model(IDS)
        ran.clear()
        with pytest.raises(InterventionError, match="a batch of 1 rows and 2 lists"):
            tiny_lm.model(IDS[:1])
    assert ran == []


def test_lists_for_the_very_first_place_still_act_there(tiny_lm: LanguageModel) -> None:
    place = "blocks.0.hook_resid_pre"
    push = Direction.from_vector(torch.ones(16), place, mean_norm=1.0)
    rows = [[Add(push, 1.0)], [Add(push, -2.0)]]
    with steer(tiny_lm, rows):
        together = tiny_lm.model(IDS).logits
    for number, row in enumerate(rows):
        with steer(tiny_lm, row):
            alone = tiny_lm.model(IDS[number : number + 1]).logits
        torch.testing.assert_close(together[number], alone[0])
