"""`tiller steer`: what may be asked for, what is printed, and that it is what the model says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from features.errors import AmbiguousFeature, UnknownFeature
from lm.errors import ContextOverflow
from lm.generate import generate
from lm.model import LanguageModel
from pipelines.commands.steer import Wish, parse_wish, steer_text
from pipelines.errors import MissingInput
from steering.errors import CoefficientError, DirectionError, SteeringError
from steering.intervention import Add, Intervention, KeepNorm
from steering.positions import Generation
from steering.sources.decoder import decoder
from steering.steer import edits_for
from tests.pipelines.commands.conftest import autoencoder, steering_store

HOOK = "blocks.0.hook_resid_post"
PROMPT = "One day a boat"


@pytest.fixture
def workspace(steering_workspace: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an autoencoder, a stand-in for the store, and a terminal of 200 columns."""
    monkeypatch.setenv("COLUMNS", "200")
    return steering_workspace(HOOK, lambda: steering_store(0, ("wide", "deep")))


def printed(capsys: pytest.CaptureFixture[str], workspace: Path, *features: str, **how: Any) -> str:
    steer_text(PROMPT, features, workspace=workspace, max_new_tokens=6, temperature=0.0, **how)
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "wish"),
    [
        ("sea=+0.5", Wish("sea", "add", 0.5)),
        ("sea = -1e-1", Wish("sea", "add", -0.1)),
        ("main/12=2", Wish("main/12", "add", 2.0)),
        ("sea:=0.8", Wish("sea", "set", 0.8)),
        ("sea=off", Wish("sea", "off", 0.0)),
        ("token: a=b=1", Wish("token: a=b", "add", 1.0)),
    ],
)
def test_a_wish_is_read_as_it_is_written(text: str, wish: Wish) -> None:
    assert parse_wish(text) == wish


@pytest.mark.parametrize("text", ["sea", "=1", "sea=", "sea=much", "sea=nan", "sea:=off", ""])
def test_anything_else_says_how_to_write_it(text: str) -> None:
    with pytest.raises(CoefficientError, match=r"--feature sea=\+0.5"):
        parse_wish(text)


def test_both_texts_are_printed_side_by_side_with_coefficient_and_unit(
    workspace: Path, capsys: pytest.CaptureFixture[str], tiny_lm: LanguageModel
) -> None:
    out = printed(capsys, workspace, "sea=+1.5", compare=True)
    ids = tiny_lm.encode(PROMPT)
    along = decoder(autoencoder(HOOK), 2, max_act=4.0, mean_norm=2.0)
    for edits in ([], [Add(along, 1.5)]):
        made = generate(
            tiny_lm,
            [ids],
            max_new_tokens=6,
            temperature=0.0,
            seeds=[0],
            edits=edits_for(tiny_lm, edits),
        )[0]
        words = tiny_lm.decode([*made.prompt_ids, *made.ids]).split()
        assert all(word in out for word in words if word.isprintable())
    assert "sea +1.5 norm = +3 raw, main/2 at blocks.0.hook_resid_post" in out
    assert out.index("unsteered") < out.rindex("steered")


@pytest.mark.parametrize(
    ("feature", "how", "line"),
    [
        ("main/3=-0.5", {}, "main/3 -0.5 norm = -1 raw"),
        ("0/3=2", {"unit": "max_act"}, "0/3 +2 max_act = +3 raw"),
        ("sea:=0.5", {}, "sea held at 0.5 max_act = 2 raw"),
        ("sea=off", {}, "sea off"),
    ],
)
def test_a_feature_may_be_numbered_held_or_off(
    workspace: Path,
    capsys: pytest.CaptureFixture[str],
    feature: str,
    how: dict[str, Any],
    line: str,
) -> None:
    out = printed(capsys, workspace, feature, **how)
    assert line in out
    assert "unsteered" not in out


def test_a_line_of_the_language_is_built_shown_in_every_unit_and_done(
    workspace: Path,
    capsys: pytest.CaptureFixture[str],
    tiny_lm: LanguageModel,
) -> None:
    out = printed(capsys, workspace, edit="sea:+1.5@generation & keep norm 3")
    assert "sea:+1.5norm@generation & keep norm 3" in out
    assert "main/2 +1.5 norm = +0.75 max_act = +3 raw at blocks.0.hook_resid_post" in out
    along = decoder(autoencoder(HOOK), 2, max_act=4.0, mean_norm=2.0)
    done: list[Intervention] = [Add(along, 1.5, positions=Generation()), KeepNorm(HOOK, 3.0)]
    edits = edits_for(tiny_lm, done)
    how: dict[str, Any] = {"max_new_tokens": 6, "temperature": 0.0, "seeds": [0]}
    made = generate(tiny_lm, [tiny_lm.encode(PROMPT)], edits=edits, **how)[0]
    words = tiny_lm.decode(made.ids).split()
    assert all(word in out for word in words if word.isprintable())


@pytest.mark.parametrize(("unit", "dose"), [("norm", "+0.25 norm"), ("max_act", "+0.12 max_act")])
def test_the_dose_that_did_best_is_told_where_the_store_knows_it(
    workspace: Path, capsys: pytest.CaptureFixture[str], unit: str, dose: str
) -> None:
    assert f"{dose} did best" in printed(capsys, workspace, "sea=1", unit=unit)
    assert "did best" not in printed(capsys, workspace, "main/3=1", unit=unit)


@pytest.mark.parametrize(
    ("feature", "how", "error", "message"),
    [
        ("sea=1", {"unit": "sigma"}, CoefficientError, "norm, max_act, raw"),
        ("7/3=1", {}, UnknownFeature, r"main \(layer 0\)"),
        ("1/3=1", {}, AmbiguousFeature, "deep, wide"),
        ("main/99=1", {}, UnknownFeature, "no feature 99"),
        ("main/4=1", {}, DirectionError, "dead"),
        ("main/3=1e9", {}, CoefficientError, "at most 100; .*--unit norm"),
        ("sea=1", {"max_new_tokens": 999}, ContextOverflow, "context"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    workspace: Path, feature: str, how: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as raised:
        steer_text(PROMPT, [feature], workspace=workspace, **how)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("prompt", "features", "message"),
    [(" ", ["sea=1"], "the prompt is empty"), (PROMPT, [], "--feature sea=")],
)
def test_nothing_to_continue_or_to_steer_by_says_what_to_write(
    workspace: Path, prompt: str, features: list[str], message: str
) -> None:
    with pytest.raises(SteeringError, match=message):
        steer_text(prompt, features, workspace=workspace)


def test_a_folder_without_a_store_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="tiller run --to index"):
        steer_text(PROMPT, ["sea=1"], workspace=tmp_path)
