"""A folded checkpoint computes what the hooks do, everywhere, or it is refused whole."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lm.errors import HookPointError
from lm.hookpoint import HookPoint
from lm.model import LanguageModel, open_model
from lm.tap import read
from steering.direction import Direction
from steering.errors import CoefficientError, DirectionError, ExportError
from steering.export.constant import ALL_POSITIONS
from steering.export.folded import fold_checkpoint, project_out_everywhere
from steering.export.rewrite import add_push
from steering.intervention import (
    Ablate,
    Add,
    Cap,
    Intervention,
    ProjectOut,
    Scale,
    Set,
)
from steering.positions import FirstN, Generation, Places
from steering.steer import steer

MakeModel = Callable[[str], LanguageModel]
MakeDirection = Callable[[str], Direction]

WITHOUT_MIDDLE = ["gpt_neox parallel", "phi"]
BEHIND_BLOCKS = ["llama", "llama tied", "gpt2", "gpt_neox", "gpt_neox parallel", "opt", "phi"]
BEHIND_BLOCKS += ["opt tied", "opt without biases"]
IN_BLOCKS = ["llama", "llama tied", "qwen3", "gemma", "gpt2", "gpt_neox", "opt"]
IN_BLOCKS += ["opt without biases"]
PROJECTED = ["llama", "llama tied", "mistral", "qwen2", "qwen3", "gemma", "gpt2", "gpt_neox"]
PROJECTED += ["gpt_neox parallel", "opt", "opt tied", "phi"]


def push(direction: Direction, coefficient: float = 0.7) -> Add:
    return Add(direction, coefficient, positions=ALL_POSITIONS)


def plain(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    auto: Any = transformers.AutoModelForCausalLM
    return auto.from_pretrained(folder, dtype=dtype, local_files_only=True).eval()


def ids(rows: int = 3, length: int = 9) -> Tensor:
    return torch.randint(3, 320, (rows, length), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def gap(lm: LanguageModel, edits: list[Intervention], folder: Path) -> float:
    """Largest difference of a logit, with a check that the edits do something at all."""
    given = {"input_ids": ids(), "attention_mask": torch.ones(3, 9, dtype=torch.int64)}
    before = lm.model(**given).logits
    with steer(lm, edits):
        hooked = lm.model(**given).logits
    alone = plain(folder)(**given).logits
    assert (hooked - before)[:, 0].abs().max() > 1e-2
    return float((alone - hooked).abs().max())


@pytest.mark.parametrize("family", BEHIND_BLOCKS)
def test_a_push_behind_any_block_is_a_bias(
    family: str, tiny: MakeModel, direction: MakeDirection, tmp_path: Path
) -> None:
    lm = tiny(family)
    for layer in range(lm.n_layers):
        edits: list[Intervention] = [push(direction(f"blocks.{layer}.hook_resid_post"))]
        folded = fold_checkpoint(lm, edits, tmp_path / str(layer))
        assert gap(lm, edits, folded.path) < 1e-4
        assert folded.max_logit_difference < 1e-4


@pytest.mark.parametrize("family", IN_BLOCKS)
def test_a_push_in_mid_block_is_a_bias_of_attention(
    family: str, tiny: MakeModel, direction: MakeDirection, tmp_path: Path
) -> None:
    lm = tiny(family)
    edits: list[Intervention] = [push(direction("blocks.1.hook_resid_mid"))]
    folded = fold_checkpoint(lm, edits, tmp_path / "folded")
    assert gap(lm, edits, folded.path) < 1e-4


def test_pushes_at_many_places_are_folded_together(
    tiny: MakeModel, direction: MakeDirection, tmp_path: Path
) -> None:
    lm = tiny("llama")
    places = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_pre", "blocks.1.hook_resid_mid"]
    edits: list[Intervention] = [push(direction(place), 0.3) for place in [*places, places[0]]]
    folded = fold_checkpoint(lm, edits, tmp_path / "folded")
    assert gap(lm, edits, folded.path) < 1e-4
    assert folded.config_changes == {"mlp_bias": True, "attention_bias": True}


def test_a_push_before_the_first_block_moves_an_untied_embedding_if_that_is_said(
    tiny: MakeModel, direction: MakeDirection, tmp_path: Path
) -> None:
    lm = tiny("llama")
    edits: list[Intervention] = [push(direction("blocks.0.hook_resid_pre"))]
    with pytest.raises(ExportError, match="into_embedding=True"):
        fold_checkpoint(lm, edits, tmp_path / "folded")
    folded = fold_checkpoint(lm, edits, tmp_path / "folded", into_embedding=True)
    assert gap(lm, edits, folded.path) < 1e-4
    assert folded.config_changes == {}


@pytest.mark.parametrize("family", PROJECTED)
def test_a_direction_is_projected_out_of_every_write(
    family: str, tiny: MakeModel, direction: MakeDirection, tmp_path: Path
) -> None:
    lm = tiny(family)
    edits = [*project_out_everywhere(lm, direction("blocks.0.hook_resid_post"))]
    assert len(edits) == 1 + lm.n_layers * (1 if family in WITHOUT_MIDDLE else 2)
    folded = fold_checkpoint(lm, edits, tmp_path / "folded")
    assert gap(lm, [*edits], folded.path) < 1e-4


def test_a_tied_head_is_untied_and_keeps_its_matrix_when_the_embedding_is_projected(
    tiny: MakeModel, direction: MakeDirection, tmp_path: Path
) -> None:
    lm = tiny("llama tied")
    edits = project_out_everywhere(lm, direction("blocks.0.hook_resid_post"))
    folded = fold_checkpoint(lm, edits, tmp_path / "folded")
    model = plain(folded.path)
    assert folded.config_changes == {"tie_word_embeddings": False}
    assert torch.equal(model.lm_head.weight, lm.unembedding())
    along = model.model.embed_tokens.weight @ edits[0].target.vector
    assert along.abs().max() < 1e-6
    assert folded.n_parameters == folded.n_parameters_before + 320 * 16


def test_a_push_leaves_a_tied_head_tied(
    tiny: MakeModel, direction: MakeDirection, tmp_path: Path
) -> None:
    lm = tiny("llama tied")
    folded = fold_checkpoint(lm, [push(direction("blocks.1.hook_resid_post"))], tmp_path / "folded")
    model = plain(folded.path)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    config = json.loads((folded.path / "config.json").read_text())
    assert (config["mlp_bias"], config["attention_bias"]) == (True, False)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_model_that_was_folded_is_left_as_it_was(
    family: str, tiny: MakeModel, direction: MakeDirection, tmp_path: Path
) -> None:
    lm = tiny(family)
    before, config = lm.weights_sha(), lm.model.config.to_dict()
    place = direction("blocks.1.hook_resid_post")
    fold_checkpoint(lm, [push(place)], tmp_path / "pushed")
    fold_checkpoint(lm, project_out_everywhere(lm, place), tmp_path / "projected")
    assert lm.weights_sha() == before
    assert lm.model.config.to_dict() == config


@pytest.mark.parametrize("family", BEHIND_BLOCKS)
def test_greedy_text_is_that_of_the_hooks_also_in_a_padded_batch(
    family: str, tiny: MakeModel, direction: MakeDirection, tmp_path: Path
) -> None:
    lm = tiny(family)
    edits = [push(direction("blocks.1.hook_resid_post"), 2.0)]
    folded = plain(fold_checkpoint(lm, edits, tmp_path / "folded").path)
    given = padded("left")
    how = {"do_sample": False, "max_new_tokens": 8, "min_new_tokens": 8, "pad_token_id": 0}
    with steer(lm, edits):
        expected = lm.model.generate(**given, **how)
    assert torch.equal(folded.generate(**given, **how), expected)
    assert not torch.equal(lm.model.generate(**given, **how), expected)


@torch.no_grad()
@pytest.mark.parametrize("family", BEHIND_BLOCKS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_of_real_tokens_are_those_of_the_hooks_whatever_the_side_of_the_padding(
    family: str, side: str, tiny: MakeModel, direction: MakeDirection, tmp_path: Path
) -> None:
    lm = tiny(family)
    edits = [push(direction("blocks.1.hook_resid_post"), 2.0)]
    folded = plain(fold_checkpoint(lm, edits, tmp_path / "folded").path)
    given = padded(side)
    is_real = given["attention_mask"].bool()
    with steer(lm, edits):
        hooked = lm.model(**given).logits[is_real]
    assert (folded(**given).logits[is_real] - hooked).abs().max() < 1e-4
    assert (lm.model(**given).logits[is_real] - hooked).abs().max() > 1e-2


def padded(side: str) -> dict[str, Tensor]:
    """Three rows, of which the second has three columns of padding on this side."""
    given = {"input_ids": ids(3, 7), "attention_mask": torch.ones(3, 7, dtype=torch.int64)}
    columns = slice(0, 3) if side == "left" else slice(4, 7)
    given["attention_mask"][1, columns] = 0
    given["input_ids"][1, columns] = 0
    return given


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits_are_no_further_from_the_truth_than_the_hooks_are(
    family: str, dtype: torch.dtype, tiny: MakeModel, direction: MakeDirection, tmp_path: Path
) -> None:
    lm = tiny(family)
    lm.model.to(dtype)
    edits = [push(direction("blocks.1.hook_resid_post"))]
    folded = fold_checkpoint(lm, edits, tmp_path / "folded")
    given = {"input_ids": ids(8, 16), "attention_mask": torch.ones(8, 16, dtype=torch.int64)}
    alone = plain(folded.path, dtype)(**given).logits.float()
    with steer(lm, edits):
        hooked = lm.model(**given).logits.float()
    lm.model.to(torch.float32)
    with steer(lm, edits):
        truth = lm.model(**given).logits
    own = (hooked - truth).pow(2).mean().sqrt()
    assert (alone - truth).pow(2).mean().sqrt() < 1.5 * own


class CountOps(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what a forward pass asks of the backend."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.n = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.n += 1
        return function(*args, **(kwargs or {}))


@torch.no_grad()
def n_operations(model: Any) -> int:
    count = CountOps()
    with count:
        model(input_ids=ids(), use_cache=False)
    return count.n


@pytest.mark.parametrize("family", BEHIND_BLOCKS)
def test_a_folded_checkpoint_computes_in_no_more_operations(
    family: str, tiny: MakeModel, direction: MakeDirection, tmp_path: Path
) -> None:
    lm = tiny(family)
    edits = [push(direction("blocks.1.hook_resid_post"))]
    folded = fold_checkpoint(lm, edits, tmp_path / "folded")
    before = n_operations(lm.model)
    assert n_operations(plain(folded.path)) == before
    with steer(lm, edits):
        assert n_operations(lm.model) > before
    if folded.config_changes == {}:
        assert folded.n_parameters == folded.n_parameters_before


def test_the_folder_opens_here_with_its_own_tokenizer(
    tiny: MakeModel, direction: MakeDirection, tiny_lm_dir: Path, tmp_path: Path
) -> None:
    lm = tiny("llama")
    edits = [push(direction("blocks.1.hook_resid_post"))]
    fold_checkpoint(lm, edits, tmp_path / "own")
    fold_checkpoint(lm, edits, tmp_path / "copied", tokenizer_from=tiny_lm_dir)
    for name in ("own", "copied"):
        opened = open_model(tmp_path / name, device="cpu")
        assert opened.encode("One day") == lm.encode("One day")
        assert opened.special_ids == lm.special_ids
    copied = (tmp_path / "copied" / "tokenizer_config.json").read_bytes()
    assert copied == (tiny_lm_dir / "tokenizer_config.json").read_bytes()


def test_two_exports_are_byte_for_byte_equal(
    tiny: MakeModel, direction: MakeDirection, tmp_path: Path
) -> None:
    edits = [push(direction("blocks.1.hook_resid_post"))]
    folders = [fold_checkpoint(tiny("llama"), edits, tmp_path / n).path for n in ("a", "b")]
    names = [sorted(path.name for path in folder.iterdir()) for folder in folders]
    assert names[0] == names[1]
    for name in names[0]:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


def test_the_card_says_where_it_acts_and_names_no_folder(
    tiny: MakeModel, direction: MakeDirection, tmp_path: Path
) -> None:
    lm = replace(tiny("llama"), name=str(tmp_path / "llama-7b"))
    edits = [push(direction("blocks.1.hook_resid_post"))]
    text = (fold_checkpoint(lm, edits, tmp_path / "folded").path / "README.md").read_text()
    assert "every position: also position 0" in text
    assert "`mlp_bias: true`" in text
    assert lm.weights_sha() in text
    assert "`llama-7b`" in text
    assert str(tmp_path) not in text


@pytest.mark.parametrize(
    ("family", "place", "message"),
    [
        ("mistral", "blocks.1.hook_resid_post", r"mlp.down_proj.*no place"),
        ("qwen2", "blocks.1.hook_resid_mid", r"self_attn.o_proj.*no place"),
        ("qwen3", "blocks.1.hook_resid_post", r"folds at blocks.<layer>.hook_resid_mid"),
        ("gemma", "blocks.2.hook_resid_pre", r"folds at blocks.<layer>.hook_resid_mid"),
        ("gemma2", "blocks.1.hook_resid_post", "norms what a block writes"),
        ("opt norm last", "blocks.1.hook_resid_post", "norms what a block writes"),
        ("granite", "blocks.1.hook_resid_post", "'granite' models write.*not known"),
        ("llama tied", "blocks.0.hook_resid_pre", "also uses as its head"),
        ("gpt2", "blocks.0.hook_resid_pre", "also uses as its head"),
    ],
)
def test_a_model_that_cannot_hold_the_push_is_refused(
    family: str,
    place: str,
    message: str,
    tiny: MakeModel,
    direction: MakeDirection,
    tmp_path: Path,
) -> None:
    with pytest.raises(ExportError, match=message):
        fold_checkpoint(
            tiny(family), [push(direction(place))], tmp_path / "folded", into_embedding=True
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("family", ["gemma2", "opt norm last"])
def test_a_norm_behind_a_write_refuses_projection_too(
    family: str, tiny: MakeModel, direction: MakeDirection, tmp_path: Path
) -> None:
    lm = tiny(family)
    edits = project_out_everywhere(lm, direction("blocks.0.hook_resid_post"))
    with pytest.raises(ExportError, match="norms what a block writes"):
        fold_checkpoint(lm, edits, tmp_path / "folded")
    assert list(tmp_path.iterdir()) == []


HOOK = "blocks.1.hook_resid_post"
NOT_CONSTANT: dict[str, tuple[Callable[[Direction], Intervention], str]] = {
    "default positions": (lambda d: Add(d, 0.5), "position 0 too"),
    "generated tokens": (lambda d: Add(d, 0.5, positions=Generation()), "every token"),
    "places": (lambda d: Add(d, 0.5, positions=Places((3,))), "every token"),
    "a schedule": (
        lambda d: Add(d, 0.5, positions=ALL_POSITIONS, schedule=FirstN(3)),
        "leave schedule out",
    ),
    "a set": (lambda d: Set(d, 0.5, positions=ALL_POSITIONS), "expected Add"),
    "a cap": (lambda d: Cap(d, 0.5, positions=ALL_POSITIONS), "expected Add"),
    "a scale": (lambda d: Scale(d, 0.5, positions=ALL_POSITIONS), "expected Add"),
    "an ablation": (lambda d: Ablate(d, 0.5, positions=ALL_POSITIONS), "expected Add"),
    "one projection": (
        lambda d: ProjectOut(d, positions=ALL_POSITIONS),
        "1 of 7 places.*project_out_everywhere",
    ),
    "a push of nothing": (lambda d: Add(d, 0.0, positions=ALL_POSITIONS), "push nothing"),
}


@pytest.mark.parametrize("name", NOT_CONSTANT)
def test_an_edit_that_is_no_constant_is_refused_with_what_would_fold(
    name: str, tiny: MakeModel, direction: MakeDirection, tmp_path: Path
) -> None:
    edit, message = NOT_CONSTANT[name]
    with pytest.raises(ExportError, match=message):
        fold_checkpoint(tiny("llama"), [edit(direction(HOOK))], tmp_path / "folded")
    assert list(tmp_path.iterdir()) == []


def test_a_gate_is_refused(tiny: MakeModel, direction: MakeDirection, tmp_path: Path) -> None:
    from steering.gate import Above

    edit = Add(direction(HOOK), 0.5, positions=ALL_POSITIONS, when=Above(direction(HOOK)))
    with pytest.raises(ExportError, match="leave when out"):
        fold_checkpoint(tiny("llama"), [edit], tmp_path / "folded")


def test_projections_that_are_not_everywhere_the_same_are_refused(
    tiny: MakeModel, direction: MakeDirection, tmp_path: Path
) -> None:
    lm = tiny("llama")
    edits = project_out_everywhere(lm, direction(HOOK))
    other = replace(edits[3], target=direction(edits[3].target.hook_point))
    default = replace(edits[3], positions=Generation())
    for wrong in (edits[:-1], [*edits[:3], other, *edits[4:]], [*edits[:3], default, *edits[4:]]):
        with pytest.raises(ExportError, match="project_out_everywhere"):
            fold_checkpoint(lm, wrong, tmp_path / "folded")
    with pytest.raises(ExportError, match="expected Add"):
        fold_checkpoint(lm, [*edits, push(direction(HOOK))], tmp_path / "folded")


def test_what_does_not_fit_the_model_leaves_nothing_behind(
    tiny: MakeModel, direction: MakeDirection, tmp_path: Path
) -> None:
    lm, out = tiny("llama"), tmp_path / "folded"
    short = Direction.from_vector(torch.ones(8), HOOK, mean_norm=2.0)
    with pytest.raises(CoefficientError, match="finite"):
        fold_checkpoint(lm, [push(direction(HOOK), math.nan)], out)
    with pytest.raises(DirectionError, match="8 dimensions"):
        fold_checkpoint(lm, [push(short)], out)
    with pytest.raises(DirectionError, match="8 dimensions"):
        fold_checkpoint(lm, project_out_everywhere(lm, short), out)
    with pytest.raises(HookPointError, match="has 3 layers"):
        fold_checkpoint(lm, [push(direction("blocks.7.hook_resid_post"))], out)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_not_touched(
    tiny: MakeModel, direction: MakeDirection, tmp_path: Path
) -> None:
    (tmp_path / "folded").mkdir()
    (tmp_path / "folded" / "mine").write_text("kept")
    with pytest.raises(ExportError, match="exists"):
        fold_checkpoint(tiny("llama"), [push(direction(HOOK))], tmp_path / "folded")
    assert [path.name for path in (tmp_path / "folded").iterdir()] == ["mine"]


def test_a_checkpoint_that_differs_from_the_hooks_never_appears(
    tiny: MakeModel, direction: MakeDirection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(lm: Any, point: Any, push: Tensor, *rest: Any, **named: Any) -> None:
        add_push(lm, point, 1.01 * push, *rest, **named)

    monkeypatch.setattr("steering.export.folded.add_push", wrong)
    with pytest.raises(ExportError, match="differ from the hooked ones"):
        fold_checkpoint(tiny("llama"), [push(direction(HOOK))], tmp_path / "folded")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_nothing_behind(
    tiny: MakeModel, direction: MakeDirection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_given: Any, **_named: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(transformers.LlamaForCausalLM, "from_pretrained", full)
    with pytest.raises(KeyboardInterrupt):
        fold_checkpoint(tiny("llama"), [push(direction(HOOK))], tmp_path / "folded")
    assert list(tmp_path.iterdir()) == []


def test_a_compiled_or_wrapped_model_is_refused(
    tiny: MakeModel, direction: MakeDirection, tmp_path: Path
) -> None:
    lm = tiny("llama")
    compiled = replace(lm, model=torch.compile(lm.model, backend="eager"))
    with pytest.raises(ExportError, match="wrapped, compiled or quantised"):
        fold_checkpoint(compiled, [push(direction(HOOK))], tmp_path / "folded")


@pytest.fixture(scope="module")
def microworld() -> LanguageModel:
    folder = Path(__file__).resolve().parents[3] / "microworld" / "model"
    return open_model(folder, device="cpu")


@torch.no_grad()
def test_a_push_of_half_a_norm_folds_into_the_microworlds_model(
    microworld: LanguageModel, tmp_path: Path
) -> None:
    along, given = half_a_norm(microworld)
    edits = [Add(along, 0.5, positions=ALL_POSITIONS)]
    folded = fold_checkpoint(microworld, edits, tmp_path / "folded")
    with steer(microworld, edits):
        hooked = microworld.model(given).logits
    assert (hooked - microworld.model(given).logits).abs().max() > 1.0
    assert (plain(folded.path)(given).logits - hooked).abs().max() < 1e-4


@torch.no_grad()
def test_projecting_out_of_the_microworlds_model_is_as_near_the_truth_as_the_hooks_are(
    microworld: LanguageModel, tmp_path: Path
) -> None:
    # Its stream is thousands long and its logits reach 35, so float32 alone is off by 2e-4.
    along, given = half_a_norm(microworld)
    edits = project_out_everywhere(microworld, along)
    folded = fold_checkpoint(microworld, edits, tmp_path / "folded")
    with steer(microworld, edits):
        hooked = microworld.model(given).logits
        microworld.model.double()
        truth = microworld.model(given).logits
    microworld.model.float()
    alone = plain(folded.path)(given).logits
    assert (alone - hooked).abs().max() < 1e-4 * hooked.abs().max()
    assert (alone - truth).pow(2).mean() < 2 * (hooked - truth).pow(2).mean()


def half_a_norm(lm: LanguageModel) -> tuple[Direction, Tensor]:
    """A random direction with the stream's real norm behind block 2, and some random tokens."""
    given = torch.randint(3, lm.n_vocab, (4, 32), generator=torch.Generator().manual_seed(1))
    point = HookPoint.parse("blocks.2.hook_resid_post")
    with read(lm, [point]) as seen:
        lm.model(given)
    mean_norm = float(seen[point][:, 1:].norm(dim=-1).mean())
    vector = torch.randn(lm.d_model, generator=torch.Generator().manual_seed(0))
    return Direction.from_vector(vector, str(point), mean_norm=mean_norm), given
