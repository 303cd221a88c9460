"""What was made on other weights is refused before anything is attached, unless one insists."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch

from lm.model import LanguageModel, wrap_model
from sae.model import SparseAutoencoder
from sae.sparsity import ReLU
from steering.direction import Direction
from steering.errors import DirectionError
from steering.gate import Above
from steering.intervention import Add, Intervention, KeepNorm, Replace, Set
from steering.language.build import Builder
from steering.language.parse import parse
from steering.sources.actadd import actadd
from steering.sources.decoder import decoder, latent
from steering.sources.diff_mean import from_pairs, from_rows
from steering.sources.head import head
from steering.sources.pca import lat, pca
from steering.sources.random import random_direction
from steering.steer import steer
from steering.target import Latent, Target

HOOK = "blocks.1.hook_resid_post"
PAIRS = [("the blue sea", "the sad horse"), ("a boat sailed", "the farmer went")]
IDS = torch.tensor([[1, 30, 31, 32]])


@pytest.fixture
def twin(tiny_lm: LanguageModel) -> LanguageModel:
    """A model of the same shape with other weights."""
    model = copy.deepcopy(tiny_lm.model)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.25)
    return wrap_model(model, tiny_lm.tokenizer, "twin")


def autoencoder() -> SparseAutoencoder:
    rows = torch.nn.functional.normalize(torch.eye(6, 16) + 0.1, dim=1)
    zero = torch.zeros
    return SparseAutoencoder(rows.T.contiguous(), rows, zero(6), zero(16), ReLU(), None, HOOK)


def n_hooks(lm: LanguageModel) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in lm.model.modules())


def rows(seed: int) -> torch.Tensor:
    return torch.randn(5, 16, generator=torch.Generator().manual_seed(seed))


SOURCES: dict[str, Callable[[LanguageModel], Target]] = {
    "diff_mean of pairs": lambda lm: from_pairs(lm, PAIRS, HOOK),
    "diff_mean of rows": lambda lm: from_rows(
        rows(1), rows(2), hook_point=HOOK, model_sha=lm.weights_sha()
    ),
    "pca": lambda lm: pca(rows(1), 1, hook_point=HOOK, model_sha=lm.weights_sha())[0],
    "lat": lambda lm: lat(rows(1), rows(2), hook_point=HOOK, model_sha=lm.weights_sha()),
    "actadd": lambda lm: actadd(lm, *PAIRS[0], HOOK)[0],
    "head": lambda lm: head(lm, 1, 0, torch.ones(8), mean_norm=1.0),
    "random": lambda lm: random_direction(
        16, hook_point=HOOK, seed=0, mean_norm=1.0, model_sha=lm.weights_sha()
    ),
    "decoder": lambda lm: decoder(
        autoencoder(), 2, max_act=1.0, mean_norm=1.0, model_sha=lm.weights_sha()
    ),
    "latent": lambda lm: latent(
        autoencoder(), 2, max_act=1.0, mean_norm=1.0, model_sha=lm.weights_sha()
    ),
}


@pytest.mark.parametrize("source", SOURCES)
def test_what_a_source_made_on_another_model_is_refused_and_taken_when_said_so(
    source: str, tiny_lm: LanguageModel, twin: LanguageModel
) -> None:
    target, before, clean = SOURCES[source](tiny_lm), n_hooks(twin), twin.model(IDS).logits
    assert target.model_sha == tiny_lm.weights_sha()
    with steer(tiny_lm, [Add(target, 1.0)]):
        tiny_lm.model(IDS)
    with (
        pytest.raises(DirectionError, match=r"was made on weights .*those of twin.*for_model\(lm"),
        steer(twin, [Add(target, 1.0)]),
    ):
        pass
    assert n_hooks(twin) == before
    assert torch.equal(twin.model(IDS).logits, clean)
    with steer(twin, [Add(target.for_model(twin), 1.0)]):
        assert not torch.equal(twin.model(IDS).logits, clean)


def test_the_target_of_a_gate_and_of_a_swap_are_looked_at_too(
    tiny_lm: LanguageModel, twin: LanguageModel
) -> None:
    own = from_pairs(twin, PAIRS, HOOK)
    foreign = from_pairs(tiny_lm, PAIRS, HOOK)
    edits: list[Intervention] = [
        Add(own, 1.0, when=Above(foreign, 0.0)),
        KeepNorm(HOOK, when=Above(foreign, 0.0)),
    ]
    for edit in edits:
        with pytest.raises(DirectionError, match="was made on weights"), steer(twin, [edit]):
            pass
    with pytest.raises(DirectionError, match="expected both of one model"):
        Replace(own, foreign)


def test_a_vector_of_which_nothing_is_known_steers_any_model_of_its_width(
    tiny_lm: LanguageModel, twin: LanguageModel
) -> None:
    given = Direction.from_vector(torch.ones(16), HOOK, mean_norm=1.0)
    assert given.model_sha is None
    for lm in (tiny_lm, twin):
        with steer(lm, [Add(given, 1.0)]):
            lm.model(IDS)


def test_the_same_checkpoint_in_another_type_is_the_same_model(tiny_lm: LanguageModel) -> None:
    narrow = wrap_model(
        copy.deepcopy(tiny_lm.model).to(torch.bfloat16), tiny_lm.tokenizer, "narrow"
    )
    wide = wrap_model(copy.deepcopy(narrow.model).float(), tiny_lm.tokenizer, "wide")
    for made_on, used_on in ((narrow, wide), (wide, narrow)):
        with steer(used_on, [Add(from_pairs(made_on, PAIRS, HOOK), 1.0)]):
            used_on.model(IDS)


def test_a_model_whose_weights_were_edited_since_is_another_one(tiny_lm: LanguageModel) -> None:
    lm = wrap_model(copy.deepcopy(tiny_lm.model), tiny_lm.tokenizer, "mine")
    made = from_pairs(lm, PAIRS, HOOK)
    with torch.no_grad():
        lm.unembedding().add_(0.5)
    with pytest.raises(DirectionError, match="was made on weights"), steer(lm, [Add(made, 1.0)]):
        pass


def test_directions_of_two_models_do_not_add_up_and_a_sum_keeps_its_model(
    tiny_lm: LanguageModel, twin: LanguageModel
) -> None:
    one, other = from_pairs(tiny_lm, PAIRS, HOOK), from_pairs(twin, PAIRS, HOOK)
    given = Direction.from_vector(torch.ones(16), HOOK)
    sums: list[Callable[[], Direction]] = [
        lambda: one + other,
        lambda: one - other,
        lambda: one.project_out(other),
    ]
    for combined in sums:
        with pytest.raises(DirectionError, match=r"expected both of one model.*for_model\(lm\)"):
            combined()
    made = [one + given, given - one, 2.0 * one, -one, one.project_out(given)]
    assert {each.model_sha for each in made} == {tiny_lm.weights_sha()}
    assert (one.for_model(twin) + other).model_sha == twin.weights_sha()


def test_a_group_of_the_language_is_of_one_model(
    tiny_lm: LanguageModel, twin: LanguageModel
) -> None:
    class Known:
        def __init__(self, **named: Direction) -> None:
            self.named = named

        def direction(self, name: str) -> Direction:
            return self.named[name]

        def reading(self, name: str) -> Target:
            return self.named[name]

    one, other = from_pairs(tiny_lm, PAIRS, HOOK), from_pairs(twin, PAIRS, HOOK)
    given = Direction.from_vector(torch.ones(16), HOOK, mean_norm=1.0)
    line = parse("(a + 2*b):+0.5")
    with pytest.raises(DirectionError, match="expected both of one model"):
        Builder(Known(a=one, b=other)).build(line)
    (edit,) = Builder(Known(a=given, b=one)).build(line)
    assert isinstance(edit, Add)
    assert edit.target.model_sha == tiny_lm.weights_sha()


def test_a_latent_says_which_autoencoder_it_is_of() -> None:
    found = latent(autoencoder(), 2, max_act=1.0, run_id="main", sae_sha="ab", model_sha="cd")
    assert isinstance(found, Latent)
    assert found.provenance == {"run_id": "main", "feature_id": 2, "sae_sha": "ab"}
    held = decoder(autoencoder(), 2, max_act=1.0, run_id="main", sae_sha="ab", model_sha="cd")
    assert (held.provenance, held.model_sha) == (found.provenance, "cd")
    assert Set(found, 1.0).target.model_sha == "cd"
