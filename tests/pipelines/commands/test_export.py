"""`tiller export steering`: what is written is what `tiller steer` would push, and says where."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import duckdb
import gguf
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from features.errors import UnknownFeature
from lm.errors import HookPointError
from lm.model import LanguageModel, open_model
from pipelines.cli import app
from pipelines.commands.export import Form, export_steering
from pipelines.errors import MissingInput
from steering.errors import CoefficientError, DirectionError, ExportError
from steering.export.constant import ALL_POSITIONS
from steering.export.vectors import load_steering
from steering.gate import Above
from steering.intervention import Add, Intervention, KeepNorm, Scale, Set
from steering.positions import Decay, Everywhere, Generation
from steering.sources.decoder import decoder, latent
from steering.steer import steer
from steering.target import Latent
from tests.pipelines.commands.conftest import autoencoder, steering_store

HOOK = "blocks.1.hook_resid_post"
IDS = torch.randint(3, 320, (2, 9), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def workspace(steering_workspace: Callable[..., Path]) -> Path:
    """A folder with an autoencoder and a stand-in for the store."""
    return steering_workspace(HOOK, lambda: steering_store(1))


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """A name in the folder that the command is called from."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return lambda name: here / name


def sea(coefficient: float, *, everywhere: bool = True) -> Add:
    along = decoder(autoencoder(HOOK), 2, max_act=4.0, mean_norm=2.0)
    return Add(along, coefficient, positions=Everywhere(include_special=everywhere))


def hooked(lm: LanguageModel, edits: Sequence[Intervention]) -> torch.Tensor:
    with steer(lm, list(edits)):
        logits: torch.Tensor = lm.model(IDS).logits
    return logits


def test_safetensors_hold_the_push_that_steering_by_name_makes(
    workspace: Path, out: Callable[[str], Path], tiny_lm: LanguageModel
) -> None:
    export_steering(["sea=+0.5", "main/3=-1"], Form.SAFETENSORS, Path("sea"), workspace=workspace)
    found = load_steering(out("sea"), tiny_lm).edits
    assert list(found) == ["sea", "main/3"]
    edit = found["sea"]
    assert isinstance(edit, Add)
    assert (edit.coefficient, edit.unit, edit.positions) == (0.5, "norm", Everywhere())
    assert torch.equal(hooked(tiny_lm, [edit]), hooked(tiny_lm, [sea(0.5, everywhere=False)]))


def test_safetensors_hold_whatever_can_be_said_of_features(
    workspace: Path,
    out: Callable[[str], Path],
    tiny_lm: LanguageModel,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = "sea:scale 1.5@generation decay 3 when 1/3>0.2 & (sea - 0.5*main/3):+0.3 & keep norm 2"
    export_steering(["main/3:=0.5"], Form.SAFETENSORS, Path("all"), edit=line, workspace=workspace)
    assert "4 edits with their vectors and a model card in" in capsys.readouterr().out
    found = load_steering(out("all"), tiny_lm).edits
    assert list(found) == [
        "main/3",
        "sea",
        "(1*sea + -0.5*main/3)",
        f"keep norm at {HOOK}",
    ]
    held, scaled, pushed, kept = found.values()
    assert isinstance(held, Set)
    assert isinstance(scaled, Scale)
    assert isinstance(pushed, Add)
    assert isinstance(kept, KeepNorm)
    assert isinstance(scaled.target, Latent)
    assert torch.equal(scaled.target.reader, latent(autoencoder(HOOK), 2, max_act=4.0).reader)
    assert scaled.target.provenance["sae_sha"] == "aa"
    assert (scaled.positions, scaled.schedule) == (Generation(), Decay(3.0))
    assert isinstance(scaled.when, Above)
    assert (scaled.when.target.concept, scaled.when.value) == ("1/3", 0.2)
    with steer(tiny_lm, list(found.values())):
        tiny_lm.model(IDS)


@pytest.mark.parametrize("form", [form for form in Form if form != Form.SAFETENSORS])
def test_a_form_of_pushes_takes_a_line_of_pushes_and_names_what_fits_otherwise(
    workspace: Path, out: Callable[[str], Path], form: Form, tiny_lm: LanguageModel
) -> None:
    with pytest.raises(ExportError, match=r"Set depends on .*; expected Add.*; write Add"):
        export_steering([], form, Path("sea.pt"), edit="sea:set 0", workspace=workspace)
    with pytest.raises(ExportError, match=r"expected every token.*include_special=True"):
        export_steering([], form, Path("sea.pt"), edit="sea:+1", workspace=workspace)
    assert list(out("sea.pt").parent.iterdir()) == []
    line = "sea:+1@everywhere+special"
    export_steering([], form, Path("sea.pt"), edit=line, workspace=workspace)
    assert out("sea.pt").exists()


def test_nothing_to_export_is_said(workspace: Path, out: Callable[[str], Path]) -> None:
    with pytest.raises(ExportError, match="no edit was given"):
        export_steering([], Form.SAFETENSORS, Path("sea"), workspace=workspace)
    given = ["export", "steering", "--format", "gguf", "--out", "sea.gguf", "--edit", "sea:+"]
    done = CliRunner().invoke(app, [*given, "--workspace", str(workspace)])
    assert done.exit_code != 0
    assert not out("sea.gguf").exists()


def test_a_store_of_another_model_is_refused_before_anything_is_written(
    workspace: Path, out: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def foreign(_workspace: Path) -> duckdb.DuckDBPyConnection:
        connection = steering_store(1)
        connection.execute("UPDATE run SET model_sha = 'feedbeef'")
        return connection

    monkeypatch.setattr("pipelines.names.open_store", foreign)
    for form in (Form.SAFETENSORS, Form.GGUF):
        with pytest.raises(DirectionError, match="was made on weights feedbeef"):
            export_steering(["sea=1"], form, Path("sea"), workspace=workspace)
    assert not out("sea").exists()


def test_a_checkpoint_runs_as_the_hooks_do_and_the_command_says_where_it_acts(
    workspace: Path, out: Callable[[str], Path], tiny_lm: LanguageModel
) -> None:
    given = ["export", "steering", "sea=+0.5", "--format", "checkpoint", "--out", "folded"]
    done = CliRunner().invoke(app, [*given, "--workspace", str(workspace)])
    assert done.exit_code == 0, done.output
    assert f"sea +0.5 norm = +1 raw, main/2 at {HOOK}" in done.output
    assert "mlp_bias: True" in done.output
    assert "every position: also position 0" in done.output
    folded = open_model(out("folded"), device="cpu")
    torch.testing.assert_close(folded.model(IDS).logits, hooked(tiny_lm, [sea(0.5)]))
    assert folded.encode("One day") == tiny_lm.encode("One day")


def test_a_control_vector_holds_the_push_in_the_asked_unit(
    workspace: Path, out: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    export_steering(["sea=-1"], Form.GGUF, Path("sea.gguf"), unit="max_act", workspace=workspace)
    said = capsys.readouterr().out
    assert "sea -1 max_act = -4 raw" in said
    assert "output of block 1" in said
    assert "every position" in said
    (tensor,) = gguf.GGUFReader(out("sea.gguf")).tensors
    row = autoencoder(HOOK).W_dec[2].numpy()
    np.testing.assert_allclose(tensor.data, -4 * row, atol=1e-6)


def test_a_file_for_the_harness_names_its_module(
    workspace: Path, out: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    export_steering(["sea=1"], Form.LM_EVAL, Path("sea.pt"), workspace=workspace)
    assert "steer_path=sea.pt" in capsys.readouterr().out
    assert list(torch.load(out("sea.pt"), weights_only=True)) == ["layers.1"]


def test_a_vector_of_another_tool_is_taken_as_long_as_it_is(
    workspace: Path,
    out: Callable[[str], Path],
    tiny_lm: LanguageModel,
    capsys: pytest.CaptureFixture[str],
) -> None:
    vector = 3 * torch.nn.functional.normalize(torch.arange(16.0), dim=0)
    torch.save(vector, out("vec_layer_1_tiny.pt"))
    export_steering(["vec_layer_1_tiny.pt=-2"], Form.GGUF, Path("v.gguf"), workspace=workspace)
    assert f"vec_layer_1_tiny.pt -2 times = -6 raw, at {HOOK}" in capsys.readouterr().out
    (tensor,) = gguf.GGUFReader(out("v.gguf")).tensors
    np.testing.assert_allclose(tensor.data, -2 * vector.numpy(), atol=1e-5)
    export_steering(["v.gguf=1"], Form.CHECKPOINT, Path("folded"), workspace=workspace)
    folded = open_model(out("folded"), device="cpu")
    along = decoder(autoencoder(HOOK), 2, max_act=1.0)
    given = type(along).from_vector(-2 * vector, HOOK)
    edit = Add(given, given.norm, "raw", positions=ALL_POSITIONS)
    torch.testing.assert_close(folded.model(IDS).logits, hooked(tiny_lm, [edit]))


def test_a_vector_that_does_not_say_where_it_belongs_asks(
    workspace: Path, out: Callable[[str], Path]
) -> None:
    torch.save(torch.ones(16), out("sea.pt"))
    with pytest.raises(ExportError, match="--hook-point"):
        export_steering(["sea.pt=1"], Form.GGUF, Path("v.gguf"), workspace=workspace)
    with pytest.raises(HookPointError, match="has 2 layers"):
        export_steering(
            ["sea.pt=1"],
            Form.GGUF,
            Path("v.gguf"),
            hook_point="blocks.9.hook_resid_post",
            workspace=workspace,
        )
    export_steering(["sea.pt=1"], Form.GGUF, Path("v.gguf"), hook_point=HOOK, workspace=workspace)
    assert out("v.gguf").is_file()


@pytest.mark.parametrize(
    ("push", "unit", "error", "message"),
    [
        ("sea", "norm", CoefficientError, "name=number"),
        ("sea=nan", "norm", CoefficientError, "name=number"),
        ("sea=1", "sigma", CoefficientError, "norm, max_act, raw"),
        ("sea:=1", "norm", ExportError, r"sea:=1.*a push.*sea=\+0\.5"),
        ("sea=off", "norm", ExportError, "depends on what the stream holds"),
        ("main/99=1", "norm", UnknownFeature, "no feature 99"),
        ("main/4=1", "norm", DirectionError, "dead"),
        ("sea=0", "norm", ExportError, "push nothing"),
        ("none.gguf=1", "norm", ExportError, "not there"),
    ],
)
def test_what_cannot_be_exported_is_said_in_one_line_and_leaves_nothing(
    workspace: Path,
    out: Callable[[str], Path],
    push: str,
    unit: str,
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message) as raised:
        export_steering([push], Form.CHECKPOINT, Path("folded"), unit=unit, workspace=workspace)
    assert "\n" not in str(raised.value)
    assert list(out("folded").parent.iterdir()) == []


def test_one_name_or_file_twice_is_refused(workspace: Path, out: Callable[[str], Path]) -> None:
    torch.save(torch.ones(16), out("vec_layer_1.pt"))
    with pytest.raises(ExportError, match="is given twice"):
        export_steering(["vec_layer_1.pt=1"] * 2, Form.GGUF, Path("v.gguf"), workspace=workspace)
    with pytest.raises(ExportError, match="sea is given twice"):
        export_steering(["sea=1", "sea=2"], Form.CHECKPOINT, Path("folded"), workspace=workspace)


@pytest.mark.parametrize("form", Form)
def test_what_exists_is_not_touched(
    workspace: Path, out: Callable[[str], Path], form: Form
) -> None:
    out("sea.pt").write_text("kept")
    with pytest.raises(ExportError, match="exists"):
        export_steering(["sea=1"], form, Path("sea.pt"), workspace=workspace)
    assert out("sea.pt").read_text() == "kept"


def test_a_folder_without_a_store_says_what_to_run(
    workspace: Path, out: Callable[[str], Path]
) -> None:
    (workspace / "data" / "store").rmdir()
    with pytest.raises(MissingInput, match="tiller run --to index"):
        export_steering(["sea=1"], Form.GGUF, Path("v.gguf"), workspace=workspace)
