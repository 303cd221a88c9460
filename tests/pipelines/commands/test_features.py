"""What `tiller features` prints."""

from __future__ import annotations

from io import StringIO

import numpy as np
from rich.console import Console

from features.card import Context, FeatureCard, LabelScore, Piece
from features.search import FeatureRef
from pipelines.commands.features import print_card, strongest

STATISTICS = {"n_act": 7, "n_docs": 3, "density": 0.01, "max_value": 4.0, "mean_value": 2.0}


def card(*, is_weak: bool = False, text: str = "Fires on 'ship'") -> FeatureCard:
    context = Context(5, "train", (Piece(" a", 0.0, False), Piece(" ship\n", 4.0, True)))
    return FeatureCard(
        ref=FeatureRef("main", 3, "ship", "blocks.2.hook_resid_post", is_weak),
        text=text,
        statistics=STATISTICS,
        contexts=(context,),
        promotes=((" sail", 1.5),),
        suppresses=((" ", -1.0),),
        neighbours=(("boat", 0.4),),
        concepts=(("sea", 0.9),),
        scores=(
            LabelScore("detection", 0.9, 0.8, 0.95, 0.5, None),
            LabelScore("fuzzing", None, None, None, None, "the feature is silent"),
        ),
    )


def console(out: StringIO, *, colour: bool) -> Console:
    return Console(
        file=out, width=120, force_terminal=colour, color_system="256" if colour else None
    )


def printed(shown: FeatureCard, *, colour: bool = False) -> str:
    out = StringIO()
    print_card(shown, console(out, colour=colour))
    return out.getvalue()


def test_a_card_prints_its_scores_with_interval_and_null() -> None:
    text = printed(card())
    assert "ship  main/3 at blocks.2.hook_resid_post" in text
    assert "detection 0.900 [0.8, 0.95], null 0.5" in text
    assert "fuzzing: undefined, the feature is silent" in text
    assert "promotes  sail 1.50" in text
    assert "a ship⏎" in text
    assert "weak" not in text


def test_a_weak_name_is_called_weak() -> None:
    assert "weak: its score does not beat its null" in printed(card(is_weak=True))


def test_markup_in_a_text_is_printed_as_it_is() -> None:
    assert "[bold]x[/nothing]" in printed(card(text="[bold]x[/nothing]"))


def test_the_background_of_a_piece_is_its_activation() -> None:
    text = printed(card(), colour=True)
    silent, firing = text.split(" ship⏎")[0].rsplit("\x1b[", 1)
    assert " a" in silent
    assert "48;5" in firing


def test_only_named_features_that_fire_are_listed_strongest_first() -> None:
    acts = np.array([0.5, 2.0, 0.0, 1.0, 3.0])
    names = {0: "sea", 1: "ship", 2: "silent", 3: "weak: odd"}
    assert strongest(acts, names, 2) == (("ship", 2.0), ("weak: odd", 1.0))
    assert strongest(np.zeros(5), names, 2) == ()
