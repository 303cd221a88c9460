"""One line says what is done; it reads back as it was written, and errors point at a character."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from steering.direction import Direction
from steering.errors import LanguageError, PositionError, SteeringError
from steering.gate import Above, AllOf, Not
from steering.intervention import (
    Ablate,
    Add,
    Cap,
    Floor,
    KeepNorm,
    ProjectOut,
    Replace,
    Rotate,
    Scale,
    Set,
)
from steering.language import syntax as s
from steering.language.build import Builder
from steering.language.parse import parse
from steering.language.plain import content_hash, from_plain, to_plain
from steering.language.text import written
from steering.positions import (
    EVERYWHERE,
    Decay,
    Everywhere,
    Except,
    FirstN,
    Generation,
    Places,
    Prompt,
    Tokens,
    WarmUp,
    Window,
)
from steering.steer import apply

HOOK = "blocks.0.hook_resid_post"


def direction(seed: int, hook_point: str = HOOK) -> Direction:
    vector = torch.randn(8, generator=torch.Generator().manual_seed(seed))
    return Direction.from_vector(vector, hook_point, mean_norm=2.0, max_act=4.0)


class Known:
    """Every name is known, each with a direction of its own."""

    def direction(self, name: str) -> Direction:
        hook = "blocks.1.hook_resid_post" if name == "late" else HOOK
        return direction(sum(name.encode()), hook)

    def reading(self, name: str) -> Direction:
        return self.direction(name)


def build(line: str) -> list[Any]:
    return list(
        Builder(Known(), lambda text: [len(word) for word in text.split()]).build(parse(line))
    )


def test_the_line_of_the_documentation_says_what_it_seems_to_say() -> None:
    sea, sad = build("sea:+0.5norm@generation & sad:set 0 when story>0.3")
    assert isinstance(sea, Add)
    assert (sea.coefficient, sea.unit, sea.positions) == (0.5, "norm", Generation())
    assert isinstance(sad, Set)
    assert (sad.value, sad.unit, sad.positions) == (0.0, "max_act", EVERYWHERE)
    assert isinstance(sad.when, Above)
    assert (sad.when.value, sad.when.unit, sad.when.over) == (0.3, "max_act", "token")


def test_an_ampersand_begins_a_statement_only_before_a_target() -> None:
    first, second = build("a:off to 0 when lang_es > 0.5*max & ~code & b:-1raw")
    assert isinstance(first.when, AllOf)
    assert isinstance(first.when.gates[1], Not)
    assert isinstance(second, Add)
    assert second.when is None


@pytest.mark.parametrize(
    ("line", "kind", "fields"),
    [
        ("a:+2raw", Add, {"coefficient": 2.0, "unit": "raw"}),
        ("a:-0.25max", Add, {"coefficient": -0.25, "unit": "max_act"}),
        ("a:-.25max", Add, {"coefficient": -0.25, "unit": "max_act"}),
        ("a:set 1.5 * raw", Set, {"value": 1.5, "unit": "raw"}),
        ("a:min -1norm", Floor, {"value": -1.0, "unit": "norm"}),
        ("a:max 0.2", Cap, {"value": 0.2, "unit": "max_act"}),
        ("a:scale -0.5", Scale, {"factor": -0.5}),
        ("a:off to 0.5max", Ablate, {"reference": 2.0}),
        ("a:project_out", ProjectOut, {}),
        ("a:rotate 30deg to b", Rotate, {"degrees": 30.0}),
        ("a:rotate to b", Rotate, {"degrees": None}),
        ("a:replace by b * 0.5", Replace, {"factor": 0.5}),
        ("a:+1@prompt", Add, {"positions": Prompt()}),
        ("a:+1@everywhere+special", Add, {"positions": Everywhere(True)}),
        ("a:+1@!prompt", Add, {"positions": Except(Prompt())}),
        ("a:+1@3,-1", Add, {"positions": Places((3, -1))}),
        ("a:+1@-9+prompt_only", Add, {"positions": Places((-9,), True)}),
        ("a:+1@2..-1", Add, {"positions": Window(2, -1)}),
        ("a:+1@-3..", Add, {"positions": Window(-3)}),
        ("a:+1@tokens(7,9)", Add, {"positions": Tokens((7, 9))}),
        ("a:+1@tokens('the barn')", Add, {"positions": Tokens((3, 4))}),
        ("a:+1 first 3", Add, {"schedule": FirstN(3)}),
        ("a:+1 decay 2.5", Add, {"schedule": Decay(2.5)}),
        ("a:+1@generation warmup 4 when b", Add, {"schedule": WarmUp(4)}),
    ],
)
def test_each_form_builds_its_edit(line: str, kind: type, fields: dict[str, Any]) -> None:
    (edit,) = build(line)
    assert isinstance(edit, kind)
    assert {name: getattr(edit, name) for name in fields} == fields


def test_a_group_is_the_weighted_sum_of_unit_vectors() -> None:
    (edit,) = build("(sea + 0.5*sky - farm):+1")
    known = Known()
    expected = (
        known.direction("sea").vector
        + 0.5 * known.direction("sky").vector
        - known.direction("farm").vector
    )
    torch.testing.assert_close(edit.target.vector * edit.target.norm, expected)
    with pytest.raises(SteeringError, match="one hook point"):
        build("(sea + late):+1")


def test_a_kept_norm_bounds_every_place_that_is_edited() -> None:
    *_, one, other = build("a:+1 & late:+1 & keep norm 1.2@generation")
    assert isinstance(one, KeepNorm)
    assert isinstance(other, KeepNorm)
    assert [one.hook_point, other.hook_point] == [HOOK, "blocks.1.hook_resid_post"]
    assert (one.at_most, one.positions) == (1.2, Generation())
    with pytest.raises(LanguageError, match="keep norm alone"):
        build("keep norm")


def test_a_budget_is_solved_for_the_very_edit() -> None:
    asked: list[tuple[Add, s.Budget]] = []

    def solve(edit: Add, budget: s.Budget) -> float:
        asked.append((edit, budget))
        return -3.0

    (edit,) = Builder(Known(), solve=solve).build(parse("sea:-dce(0.1)@generation"))
    assert isinstance(edit, Add)
    assert (edit.coefficient, edit.unit) == (-3.0, "raw")
    assert asked[0][1] == s.Budget("dce", -0.1)
    assert asked[0][0].positions == Generation()
    with pytest.raises(LanguageError, match="expected `solve`"):
        build("sea:+kl(0.1)")


@pytest.mark.parametrize(
    ("line", "character", "expected"),
    [
        ("sea+0.5", 4, ":"),
        ("sea:+", 6, "a number"),
        ("sea:0.5", 5, "off"),
        ("sea:+0.5foo", 9, "a unit"),
        ("sea:+0.5norm@now", 14, "everywhere, prompt or generation"),
        ("sea:+1 when", 12, "a name"),
        ("sea:+1 when story >", 20, "a number"),
        ("sea:+1 when (story", 19, r"\)"),
        ("12:+1", 3, r"\*"),
        ("sea:+1 &", 8, "another statement"),
        ("(sea - :+1", 8, "a name"),
        ("sea:set", 8, "a number"),
        ("sea:+1 first", 13, "a number"),
    ],
)
def test_an_error_points_at_the_character(line: str, character: int, expected: str) -> None:
    with pytest.raises(LanguageError, match=rf"character {character} of .*expected.*{expected}"):
        parse(line)


@pytest.mark.parametrize(
    ("line", "error", "message"),
    [
        ("", LanguageError, "an empty line"),
        ("sea:+1@2.5", PositionError, "whole number"),
        ("sea:+1@0", PositionError, "place 0"),
        ("sea:+1@5..3", PositionError, "holds no token"),
        ("sea:+1 first 1.5", PositionError, "whole number"),
        ("sea:+dce(0)", LanguageError, "other than 0"),
        ("keep norm 0", LanguageError, "positive"),
        ("sea:+1@!everywhere", PositionError, "nowhere"),
        ("sea:+1e999", LanguageError, "finite"),
    ],
)
def test_what_can_be_read_but_not_be_is_refused(
    line: str, error: type[SteeringError], message: str
) -> None:
    with pytest.raises(error, match=message):
        parse(line)


def of(kind: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Plain values of one kind: checked constructors draw numbers of their own."""
    return st.fixed_dictionaries({"kind": st.just(kind), **fields})


def several(parts: st.SearchStrategy[Any], least: int) -> st.SearchStrategy[list[Any]]:
    return st.lists(parts, min_size=least, max_size=3)


NAMES = st.sampled_from(["sea", "sea-2", "main/12", "2/17", "lang_es", "été", "set", "when", "a b"])
NUMBERS = st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: x + 0.0)
POSITIVE = st.floats(1e-6, 1e6)
GROUPS = st.one_of(
    of("Term", name=NAMES, weight=st.just(1.0)).map(lambda term: [term]),
    several(of("Term", name=NAMES, weight=NUMBERS), 1),
)
AMOUNTS = of("Amount", number=NUMBERS, unit=st.sampled_from(["norm", "max_act", "raw"]))
BUDGETS = of("Budget", price=st.sampled_from(["dce", "kl"]), nats=POSITIVE)
DOES = st.one_of(
    of("Push", by=st.one_of(AMOUNTS, BUDGETS)),
    of("Hold", bound=st.sampled_from(["set", "min", "max"]), at=AMOUNTS),
    of("Multiply", factor=NUMBERS),
    of("Off", to=st.one_of(st.none(), AMOUNTS)),
    of("Without"),
    of("Turn", towards=GROUPS, degrees=st.one_of(st.none(), NUMBERS)),
    of("Swap", by=GROUPS, factor=NUMBERS),
)
SPOTS: list[tuple[str, dict[str, Any]]] = [
    ("Everywhere", {}),
    ("Everywhere", {"include_special": True}),
    ("Prompt", {}),
    ("Generation", {"include_special": True}),
    ("Places", {"places": [3, -1]}),
    ("Places", {"places": [0], "prompt_only": True, "include_special": True}),
    ("Window", {"start": 2}),
    ("Window", {"start": -4, "stop": -1}),
    ("Tokens", {"ids": [5, 6]}),
    ("Except", {"inner": {"kind": "Generation"}}),
    ("Except", {"inner": {"kind": "Window", "start": 3}}),
    ("Said", {"text": "the 'sea'"}),
]
WHERE = st.sampled_from([{"kind": kind, **fields} for kind, fields in SPOTS])
SCHEDULES = st.sampled_from(
    [
        {"kind": "Constant"},
        {"kind": "FirstN", "n": 3},
        {"kind": "Decay", "half_life": 0.5},
        {"kind": "WarmUp", "n": 2},
    ]
)
OVER = st.sampled_from(["token", "mean", "max", "last"])
CONDITIONS = st.recursive(
    of("Exceeds", target=GROUPS, amount=AMOUNTS, over=OVER),
    lambda inner: st.one_of(
        of("No", inner=inner),
        of("Every", parts=several(inner, 2)),
        of("Some", parts=several(inner, 2)),
    ),
    max_leaves=5,
)
MAYBE = st.one_of(st.none(), CONDITIONS)
PROGRAMS = several(
    st.one_of(
        of("Statement", target=GROUPS, does=DOES, where=WHERE, schedule=SCHEDULES, when=MAYBE),
        of("Keep", at_most=st.one_of(st.none(), POSITIVE), where=WHERE, when=MAYBE),
    ),
    1,
)


@settings(max_examples=50)
@given(PROGRAMS)
def test_what_is_written_reads_back_as_line_json_and_yaml(data: list[dict[str, Any]]) -> None:
    program = from_plain(data)
    assert parse(written(program)) == program
    plain = to_plain(program)
    assert from_plain(json.loads(json.dumps(plain))) == program
    assert from_plain(yaml.safe_load(yaml.safe_dump(plain))) == program
    assert content_hash(from_plain(plain)) == content_hash(program)


def test_the_hash_is_of_what_is_said_and_not_of_how() -> None:
    one = content_hash(parse("sea:+0.5norm@generation"))
    assert content_hash(parse(" sea : +0.50 @ generation ")) == one
    assert content_hash(parse("sea:+0.6norm@generation")) != one


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "a list of statements"),
        ([], "a list of statements"),
        ([{"kind": "Foo"}], r"field \[0\] is of kind 'Foo'"),
        ([{"kind": "Term", "name": "sea"}], r"field \[0\] is a Term"),
        ([{"kind": "Keep", "most": 1.0}], r"field \[0\] has \['most'\]"),
        ([{"kind": "Keep", "at_most": "1"}], r"field \[0\].at_most is '1'"),
        ([{"kind": "Keep", "at_most": -1}], r"field \[0\]: keep norm -1"),
        ([{"kind": "Statement", "target": [], "does": {"kind": "Without"}}], "one or more parts"),
        ([{"kind": "Statement"}], r"field \[0\] does not read as Statement"),
    ],
)
def test_a_wrong_field_is_named(data: Any, message: str) -> None:
    with pytest.raises(LanguageError, match=message):
        from_plain(data)


def test_a_condition_that_is_said_twice_is_one_gate_and_its_opposite_excludes_it() -> None:
    first, second = build("a:set 1 when b>0.3 & a:set 0 when ~b>0.3")
    assert isinstance(second.when, Not)
    assert second.when.gate is first.when
    stream = torch.zeros(1, 2, 8)
    apply([first, second], stream)  # no token undergoes both
    with pytest.raises(SteeringError, match="Set and Set of one target"):
        apply(build("a:set 1 when b>0.3 & a:set 0 when ~b>0.4"), stream)


def test_edits_go_by_what_they_act_on() -> None:
    named = Builder(Known()).named(parse("a:+1 & (a + 2*b):+1 & a:+2@prompt & keep norm"))
    assert list(named) == ["a", "(1*a + 2*b)", "a #2", f"keep norm at {HOOK}"]


def test_what_is_nested_too_deep_is_refused_and_does_not_break_the_reader() -> None:
    data = to_plain(parse("a:+1 when b"))
    for _ in range(100):
        data[0]["when"] = {"kind": "No", "inner": data[0]["when"]}
    with pytest.raises(LanguageError, match="expected at most 64"):
        from_plain(data)
    with pytest.raises(LanguageError, match="nested too deep"):
        parse(f"a:+1 when {'~' * 5000}b")
