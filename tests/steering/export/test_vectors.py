"""What is saved comes back to the bit, for the model that it was made for, or not at all."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from lm.errors import HookPointError
from lm.model import LanguageModel
from sae.model import SparseAutoencoder
from sae.sparsity import JumpReLU, MatchingPursuit, Sparsity, TopK
from steering.direction import Direction, Unit
from steering.errors import CoefficientError, DirectionError, ExportError
from steering.export.autoencoders import autoencoder_facts, autoencoder_tensors
from steering.export.header import MOST_HEADER
from steering.export.vectors import FILE, load_steering, save_steering
from steering.gate import Above, AllOf, AnyOf, Not
from steering.intervention import (
    Ablate,
    Add,
    Cap,
    Floor,
    Intervention,
    KeepNorm,
    ProjectOut,
    Replace,
    Rotate,
    Scale,
    Set,
)
from steering.language.plain import content_hash, from_plain
from steering.language.text import written
from steering.positions import (
    ALWAYS,
    Decay,
    Everywhere,
    Except,
    FirstN,
    Generation,
    Places,
    Positions,
    Prompt,
    Schedule,
    Tokens,
    WarmUp,
    Window,
)
from steering.sources.decoder import latent
from steering.steer import edits_for, steer
from steering.target import Latent

MakeModel = Callable[[str], LanguageModel]
MakeDirection = Callable[[str], Direction]
HOOK = "blocks.1.hook_resid_post"
KINDS = [
    kind.__name__
    for kind in (Add, Set, Cap, Floor, Scale, Ablate, ProjectOut, Replace, Rotate, KeepNorm)
]
CASES: list[tuple[Positions, Schedule, Unit]] = [
    (Everywhere(), ALWAYS, "norm"),
    (Everywhere(include_special=True), FirstN(3), "raw"),
    (Prompt(), WarmUp(4), "max_act"),
    (Generation(), Decay(2.5), "norm"),
    (Places((-1, 3), prompt_only=True), ALWAYS, "norm"),
    (Window(-4, None), ALWAYS, "norm"),
    (Tokens((7, 9)), ALWAYS, "norm"),
    (Except(Window(2, 5), include_special=True), ALWAYS, "norm"),
]


def full(direction: Direction) -> Direction:
    """The direction with every optional number and fact given."""
    return Direction(
        vector=direction.vector,
        hook_point=direction.hook_point,
        norm=0.1,
        mean_norm=1 / 3,
        max_act=2.7,
        positive_mean=-0.5,
        negative_mean=0.25,
        sigma=1e-7,
        source="diff_mean",
        concept="lluvia día",
        provenance={"n_pairs": 64, "is_held_out": True, "share": 0.1, "note": None},
    )


@pytest.mark.parametrize(("positions", "schedule", "unit"), CASES)
def test_an_edit_comes_back_to_the_bit(
    positions: Positions,
    schedule: Schedule,
    unit: Unit,
    tiny: MakeModel,
    direction: MakeDirection,
    tmp_path: Path,
) -> None:
    lm = tiny("llama")
    edit = Add(full(direction(HOOK)), 0.1, unit, positions=positions, schedule=schedule)
    save_steering(lm, {"the sea": edit}, tmp_path / "out")
    found = load_steering(tmp_path / "out", lm)
    back = found.edits["the sea"]
    assert isinstance(back, Add)
    assert isinstance(back.target, Direction)
    assert isinstance(edit.target, Direction)
    assert torch.equal(back.target.vector, edit.target.vector)
    for field in fields(Direction):
        if field.name != "vector":
            assert getattr(back.target, field.name) == getattr(edit.target, field.name)
    assert (back.coefficient, back.unit) == (0.1, unit)
    assert (back.positions, back.schedule) == (positions, schedule)
    assert (found.model_sha, found.d_model, found.n_layers) == (lm.weights_sha(), 16, 3)


def autoencoder(sparsity: Sparsity, threshold: float | None) -> SparseAutoencoder:
    generator = torch.Generator().manual_seed(5)
    decoder = torch.nn.functional.normalize(torch.randn(12, 16, generator=generator), dim=1)
    given = None if threshold is None else torch.full((12,), threshold)
    bias = 0.1 * torch.randn(12, generator=generator)
    shift = 0.1 * torch.randn(16, generator=generator)
    encoder = (decoder + 0.05).T.contiguous()
    return SparseAutoencoder(encoder, decoder, bias, shift, sparsity, given, HOOK)


def read(feature_id: int, sae: SparseAutoencoder | None = None) -> Latent:
    return latent(
        autoencoder(JumpReLU(), 0.01) if sae is None else sae,
        feature_id,
        max_act=2.0,
        mean_norm=1.5,
        run_id="main",
        sae_sha="feed",
        concept=f"number {feature_id}",
    )


def operations(direction: MakeDirection) -> dict[str, Intervention]:
    """One edit of every kind, with gates, schedules and places, in an order of its own."""
    sea, sad = full(direction(HOOK)), Direction.from_vector(torch.arange(16.0) ** 2, HOOK)
    cold = Direction.from_vector(torch.arange(16.0) - 5, HOOK)
    other = Direction.from_vector(torch.arange(16.0) - 3, HOOK, mean_norm=2.0, max_act=1.0)
    early = Direction.from_vector(torch.arange(16.0) - 9, "blocks.0.hook_resid_mid", mean_norm=2.0)
    first, second = Above(read(1), 0.01, "raw"), Above(early, -0.5, "norm", over="mean")
    both = AllOf((first, Not(second)))
    return {
        "z push": Add(sea, 0.5, "norm", Prompt(), Decay(2.5), first),
        "a push": Add(early, -0.25, "norm", when=Not(AnyOf((second, second)))),
        "push of a latent": Add(read(7), 0.3, "norm"),
        "set": Set(read(1), 0.8, "max_act", when=both),
        "set otherwise": Set(read(1), 0.2, "max_act", when=Not(both)),
        "least": Floor(read(2), 0.1, "raw", Window(1, -1)),
        "most": Cap(read(2), 0.4, "raw", Window(1, -1)),
        "scaled": Scale(read(3), -1.5, Tokens((7, 30)), FirstN(3)),
        "off": Ablate(read(4), schedule=WarmUp(4)),
        "off to": Ablate(cold, 0.3, positions=Places((-1, 2), prompt_only=True)),
        "gated": Add(sea, 0.1, when=AnyOf((first, Not(second)))),
        "out": ProjectOut(sad, Except(Window(2, 5))),
        "swap": Replace(read(5), read(6), 0.7),
        "swap of both": Replace(direction(HOOK), read(6), 0.7, Places((3,))),
        "turn": Rotate(other, direction(HOOK), 20.0, Generation()),
        "kept": KeepNorm(HOOK, 1.2, when=first),
    }


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("kind", [*KINDS, "all"])
def test_every_operation_comes_back_and_steers_to_the_bit(
    kind: str, family: str, tiny: MakeModel, direction: MakeDirection, tmp_path: Path
) -> None:
    lm, every = tiny(family), operations(direction)
    is_asked = {name: kind in {"all", type(edit).__name__} for name, edit in every.items()}
    edits = {name: edit for name, edit in every.items() if is_asked[name] or name == "z push"}
    save_steering(lm, edits, tmp_path / "out")
    found = load_steering(tmp_path / "out", lm).edits
    assert list(found) == list(edits)
    for name, edit in edits.items():
        if name != "push of a latent":  # said as the push of its decoder row
            assert_equal(found[name], edit)
    ids = torch.randint(3, 320, (2, 9), generator=torch.Generator().manual_seed(1))
    given = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 6, "do_sample": False}
    ways = {}
    for name, acting in (("saved", edits), ("loaded", found)):
        with steer(lm, list(acting.values())):
            ways[name] = lm.model(ids).logits, lm.model.generate(ids, **given)
    for before, after in zip(ways["saved"], ways["loaded"], strict=True):
        assert torch.equal(before, after)
    assert not torch.equal(lm.model(ids).logits, ways["loaded"][0])


def assert_equal(found: object, expected: object) -> None:
    """Every field of a value, and of the values in it, is the same, tensors to the bit."""
    assert type(found) is type(expected)
    if isinstance(expected, torch.Tensor):
        assert isinstance(found, torch.Tensor)
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)
    elif isinstance(expected, tuple):
        assert isinstance(found, tuple)
        for one, other in zip(found, expected, strict=True):
            assert_equal(one, other)
    elif is_dataclass(expected):
        for field in fields(expected):
            assert_equal(getattr(found, field.name), getattr(expected, field.name))
    else:
        assert found == expected


@pytest.mark.parametrize("sparsity", [TopK(3), MatchingPursuit(4)])
def test_an_autoencoder_that_is_encoded_whole_goes_along_once(
    sparsity: Sparsity, tiny: MakeModel, tmp_path: Path
) -> None:
    lm, sae = tiny("llama"), autoencoder(sparsity, None)
    edits: dict[str, Intervention] = {str(n): Scale(read(n, sae), 3.0) for n in (1, 2)}
    assert read(1, sae).full is not None
    save_steering(lm, edits, tmp_path / "out")
    with safe_open(tmp_path / "out" / FILE, framework="pt") as file:
        assert sum(key.startswith("sae-") for key in file.keys()) == 4  # noqa: SIM118
    found = load_steering(tmp_path / "out", lm).edits
    one, other = (found[name].target for name in ("1", "2"))  # type: ignore[union-attr]
    assert isinstance(one, Latent)
    assert isinstance(other, Latent)
    assert one.full is not None
    assert other.full is not None
    assert one.full.sae is other.full.sae
    ids = torch.randint(3, 320, (2, 9), generator=torch.Generator().manual_seed(1))
    logits = []
    for acting in (edits, found):
        with steer(lm, list(acting.values())):
            logits.append(lm.model(ids).logits)
    assert torch.equal(*logits)
    assert not torch.equal(lm.model(ids).logits, logits[0])


def test_the_tensors_have_stable_names_and_equal_targets_are_held_once(
    tiny: MakeModel, direction: MakeDirection, tmp_path: Path
) -> None:
    gate = Above(read(2), 0.5)
    edits: dict[str, Intervention] = {
        "sea": Set(read(1), 0.5, positions=Generation(), when=gate),
        "sad": Add(direction(HOOK), 1.0, when=Not(Above(read(2), 0.5))),
        "again": Scale(read(1), 2.0, Prompt(), when=Above(read(3))),
    }
    save_steering(tiny("llama"), edits, tmp_path / "out")
    with safe_open(tmp_path / "out" / FILE, framework="pt") as file:
        keys, header = set(file.keys()), json.loads(file.metadata()["steering"])
        reader, bias = file.get_tensor("sea.reader"), file.get_tensor("sea.bias")
    latents = ("sea", "number 2", "number 3")
    parts = ("reader", "writer", "bias", "threshold")
    assert keys == {"sad.vector", *(f"{one}.{part}" for one in latents for part in parts)}
    assert torch.equal(reader, read(1).reader)
    assert float(bias) == read(1).bias
    assert header["sae_sha"] == ["feed"]
    program = from_plain([edit["says"] for edit in header["edits"]])
    assert header["program_sha"] == content_hash(program)
    assert written(program) == (
        "sea:set 0.5max_act@generation when 'number 2'>0.5max_act & "
        "sad:+1norm when ~('number 2'>0.5max_act) & "
        "sea:scale 2@prompt when 'number 3'>0max_act"
    )


def test_the_card_says_each_edit_in_the_language(
    tiny: MakeModel, direction: MakeDirection, tmp_path: Path
) -> None:
    lm = tiny("llama")
    either = AnyOf((Above(read(2)), Above(read(3))))
    edits: dict[str, Intervention] = {
        "sea": Set(read(1), 0.5, when=either),
        "kept": KeepNorm(HOOK, 1.5),
    }
    save_steering(lm, edits, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    said = "`sea:set 0.5max_act when ('number 2'>0max_act) \\| ('number 3'>0max_act)`"
    source = "latent main/1 (run_id main, feature_id 1, sae_sha feed)"
    assert f"| sea | `{HOOK}` | {said} | as it reads | 1.5 | {source} |" in card
    assert f"| kept | `{HOOK}` | `keep norm 1.5` | none | | |" in card
    assert "2 edits of 3 targets" in card
    assert "`feed`" in card


def test_the_header_and_the_card_say_everything_and_name_no_folder(
    tiny: MakeModel, direction: MakeDirection, tmp_path: Path
) -> None:
    lm = tiny("llama")
    save_steering(lm, {"sea": Add(full(direction(HOOK)), 0.5)}, tmp_path / "out")
    with safe_open(tmp_path / "out" / FILE, framework="pt") as file:
        header = json.loads(file.metadata()["steering"])
    (edit,) = header["edits"]
    assert (edit["name"], edit["at"]) == ("sea", HOOK)
    assert edit["says"]["does"]["by"] == {"kind": "Amount", "number": 0.5, "unit": "norm"}
    target = header["targets"]["sea"]
    assert (target["hook_point"], target["mean_norm"]) == (HOOK, 1 / 3)
    assert target["provenance"]["n_pairs"] == 64
    assert (header["format"], header["model_sha"]) == (2, lm.weights_sha())
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"| sea | `{HOOK}` | `sea:+0.5norm` | 0.1667 | 0.3333 | diff_mean (n_pairs 64" in card
    assert lm.weights_sha() in card
    assert str(tmp_path) not in card


def test_two_exports_are_byte_for_byte_equal(
    tiny: MakeModel, direction: MakeDirection, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        save_steering(tiny("llama"), {"sea": Add(full(direction(HOOK)), 0.5)}, tmp_path / name)
    for name in (FILE, "README.md"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_another_model_is_refused(
    tiny: MakeModel, direction: MakeDirection, tmp_path: Path
) -> None:
    lm = tiny("llama")
    save_steering(lm, {"sea": Add(direction(HOOK), 0.5)}, tmp_path / "out")
    with pytest.raises(ExportError, match="expected the model that it was made for"):
        load_steering(tmp_path / "out", tiny("gpt2"))
    assert load_steering(tmp_path / "out").model == "llama"


def test_another_model_is_steered_when_it_is_said_so(
    tiny: MakeModel, direction: MakeDirection, tmp_path: Path
) -> None:
    lm, other = tiny("llama"), tiny("gpt2")
    made = direction(HOOK).for_model(lm)
    edit = Add(made, 0.5, when=Above(made, -5.0, "raw"))
    save_steering(lm, {"sea": edit}, tmp_path / "out")
    found = load_steering(tmp_path / "out")
    with pytest.raises(DirectionError, match="was made on weights"):
        edits_for(other, list(found.edits.values()))
    tried = found.for_model(other)
    assert (tried.model, tried.model_sha) == ("gpt2", other.weights_sha())
    edits_for(other, list(tried.edits.values()))


def test_what_does_not_fit_leaves_nothing_behind(
    tiny: MakeModel, direction: MakeDirection, tmp_path: Path
) -> None:
    lm, out = tiny("llama"), tmp_path / "out"
    with pytest.raises(CoefficientError, match="finite"):
        save_steering(lm, {"sea": Add(direction(HOOK), math.nan)}, out)
    short = Direction.from_vector(torch.ones(8), HOOK, mean_norm=1.0)
    with pytest.raises(DirectionError, match="8 dimensions"):
        save_steering(lm, {"sea": Add(short, 1.0)}, out)
    with pytest.raises(HookPointError, match="has 3 layers"):
        save_steering(lm, {"sea": Add(direction("blocks.3.hook_resid_pre"), 1.0)}, out)
    with pytest.raises(ExportError, match="no edits"):
        save_steering(lm, {}, out)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "  ", "two\nlines", "x" * 201])
def test_a_name_that_does_not_print_is_refused(
    name: str, tiny: MakeModel, direction: MakeDirection, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match="a name of one line"):
        save_steering(tiny("llama"), {name: Add(direction(HOOK), 1.0)}, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_not_touched(
    tiny: MakeModel, direction: MakeDirection, tmp_path: Path
) -> None:
    (tmp_path / "mine").write_text("kept")
    with pytest.raises(ExportError, match="exists"):
        save_steering(tiny("llama"), {"sea": Add(direction(HOOK), 0.5)}, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_failed_write_leaves_nothing_behind(
    tiny: MakeModel, direction: MakeDirection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_given: Any, **_named: Any) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("steering.export.card.page", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_steering(tiny("llama"), {"sea": Add(direction(HOOK), 0.5)}, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_absent_torn_or_foreign_says_so(
    tiny: MakeModel, direction: MakeDirection, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match="no file"):
        load_steering(tmp_path)
    save_steering(tiny("llama"), {"sea": Add(direction(HOOK), 0.5)}, tmp_path / "out")
    path = tmp_path / "out" / FILE
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - 8])
    with pytest.raises(ExportError, match="does not read as steering"):
        load_steering(tmp_path / "out")
    save_file({"sea": torch.ones(16)}, path)
    with pytest.raises(ExportError, match="does not read as steering"):
        load_steering(tmp_path / "out")


@pytest.fixture
def rewrite(
    tiny: MakeModel, direction: MakeDirection, tmp_path: Path
) -> Callable[[Callable[[dict[str, Any], dict[str, torch.Tensor]], Any]], Path]:
    """Save one gated edit, change what the file says or holds, and give the folder."""

    def change(how: Callable[[dict[str, Any], dict[str, torch.Tensor]], Any]) -> Path:
        edit = Set(read(1), 0.5, when=Above(direction(HOOK)))
        save_steering(tiny("llama"), {"sea": edit}, tmp_path / "out")
        path = tmp_path / "out" / FILE
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["steering"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        said = how(header, tensors)
        text = said if isinstance(said, str) else json.dumps(header)
        save_file(tensors, path, metadata={"steering": text})
        return tmp_path / "out"

    return change


def deep(header: dict[str, Any], n: int) -> None:
    for _ in range(n):
        header["edits"][0]["says"]["when"] = {
            "kind": "No",
            "inner": header["edits"][0]["says"]["when"],
        }


def whole(header: dict[str, Any], tensors: dict[str, torch.Tensor], **changed: Any) -> None:
    sae = autoencoder(TopK(3), None)
    facts = autoencoder_facts(sae).model_dump() | changed
    header["autoencoders"] = {"sae-1": facts}
    tensors |= autoencoder_tensors("sae-1", sae)


MALFORMED: dict[str, tuple[Callable[[dict[str, Any], dict[str, torch.Tensor]], Any], str]] = {
    "another width": (
        lambda _, t: t.update({"sea.reader": torch.ones(4)}),
        r"'sea.reader' is of shape \[4\] and not \[16\]",
    ),
    "a scalar that is none": (lambda _, t: t.update({"sea.bias": torch.ones(9)}), "sea.bias"),
    "a missing tensor": (lambda _, t: t.pop("sea.bias"), "lacks the tensor 'sea.bias'"),
    "one too many": (lambda _, t: t.update(more=torch.ones(16)), "also holds the tensor 'more'"),
    "not JSON": (lambda *_: "{", "Expecting property name"),
    "a list": (lambda *_: "[]", "does not read as steering"),
    "nested without end": (lambda *_: "[" * 100_000, "recursion"),
    "too much": (lambda *_: " " * (MOST_HEADER + 1), "bytes of itself"),
    "the first format": (lambda h, _: h.update(format=1), "of format 1 and not 2"),
    "an unknown field": (lambda h, _: h.update(more=1), "field more"),
    "a missing field": (lambda h, _: [h.pop("model_sha")], "field model_sha"),
    "a huge width": (lambda h, _: h.update(d_model=10**12), "field d_model"),
    "no edits": (lambda h, _: h.update(edits=[]), "field edits"),
    "a number as text": (
        lambda h, _: h["targets"]["sea"].update(max_act="2"),
        "field targets.sea.Latent.max_act",
    ),
    "another number": (
        lambda h, _: h["edits"][0]["says"]["does"]["at"].update(number=0.75),
        "not those that were saved",
    ),
    "an unknown operation": (
        lambda h, _: h["edits"][0]["says"]["does"].update(kind="Explode"),
        r"field \[0\].does is of kind 'Explode'",
    ),
    "a gate in a hundred gates": (lambda h, _: deep(h, 100), "expected at most 64"),
    "two edits of one name": (
        lambda h, _: h.update(edits=h["edits"] * 2),
        "not those that were saved",
    ),
    "an edit said to be elsewhere": (
        lambda h, _: h["edits"][0].update(at="blocks.0.hook_resid_mid"),
        "expected one place",
    ),
    "an unknown kind of target": (
        lambda h, _: h["targets"]["sea"].update(kind="Matrix"),
        "field targets.sea",
    ),
    "an autoencoder that is not there": (
        lambda h, _: h["targets"]["sea"].update(
            whole={"autoencoder": "sae-1", "feature_id": 1, "scale": 1.0}
        ),
        "no latent 1 of 'sae-1'",
    ),
    "an unknown sparsity": (lambda h, t: whole(h, t, sparsity="Magic"), "'Magic'"),
    "a sparsity of no latents": (lambda h, t: whole(h, t, settings={"k": 0}), "k is 0"),
    "a sparsity without its number": (lambda h, t: whole(h, t, settings={}), "field k"),
    "an autoencoder of another width": (lambda h, t: whole(h, t, d_sae=3), "W_enc"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_file_is_refused_in_one_line(
    case: str, rewrite: Callable[[Any], Path], tmp_path: Path
) -> None:
    how, message = MALFORMED[case]
    folder = rewrite(how)
    with pytest.raises(ExportError, match=message) as raised:
        load_steering(folder)
    assert "\n" not in str(raised.value)
    assert str(raised.value).count(";") >= 2


def test_a_vector_with_nan_in_the_file_is_refused(rewrite: Callable[[Any], Path]) -> None:
    def spoil(_: Any, tensors: dict[str, torch.Tensor]) -> None:
        tensors["sea.reader"][3] = math.nan

    with pytest.raises(DirectionError, match="NaN"):
        load_steering(rewrite(spoil))
