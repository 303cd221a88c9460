"""The hash of a model's weights is theirs alone, follows every change, and is computed once."""

from __future__ import annotations

import copy

import pytest
import torch

from lm import weights
from lm.model import LanguageModel
from lm.weights import has_sha, sha_of


def test_the_hash_is_computed_once_and_again_after_a_change_in_place(
    tiny_lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, passes = copy.deepcopy(tiny_lm.model), []
    computed = weights._computed

    def counted(*given: object) -> str:
        passes.append(given)
        return computed(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(weights, "_computed", counted)
    first = sha_of(model)
    assert first == sha_of(model) == tiny_lm.weights_sha()
    assert len([given for given in passes if given[0] is model]) == 1
    weight = next(iter(model.parameters()))
    with torch.no_grad():
        weight.add_(1.0)
    assert sha_of(model) != first
    with torch.no_grad():
        weight.sub_(1.0)
    weight.data = weight.data.clone()
    changed = [given for given in passes if given[0] is model]
    sha_of(model)
    assert len([given for given in passes if given[0] is model]) == len(changed) + 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_checkpoint_is_known_in_whatever_type_it_was_opened(
    tiny_lm: LanguageModel, dtype: torch.dtype
) -> None:
    narrow = copy.deepcopy(tiny_lm.model).to(dtype)
    wide = copy.deepcopy(narrow).float()
    assert sha_of(narrow) != sha_of(wide)
    assert has_sha(wide, sha_of(narrow))
    assert has_sha(narrow, sha_of(wide))
    assert has_sha(tiny_lm.model, sha_of(narrow))
    assert not has_sha(narrow, tiny_lm.weights_sha())  # what was lost is not there to compare


def test_other_weights_are_not_known_in_any_type(tiny_lm: LanguageModel) -> None:
    other = copy.deepcopy(tiny_lm.model)
    with torch.no_grad():
        next(iter(other.parameters())).mul_(1.5)
    assert not has_sha(other, tiny_lm.weights_sha())
    assert not has_sha(tiny_lm.model, sha_of(other))
    assert not tiny_lm.has_weights("")
