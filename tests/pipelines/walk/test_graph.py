"""The stage graph as a value."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.errors import PipelineError
from pipelines.params import load_params
from pipelines.walk.graph import PROJECT, Stage, between, overlap, read_graph, value_at

STAGES = [
    "corpus",
    "dump",
    "train",
    "harvest",
    "index",
    "label",
    "directions",
    "steer",
    "evaluate",
    "report",
]


def project_graph(*slugs: str) -> tuple[Stage, ...]:
    values = load_params(PROJECT / "params.yaml").model_dump(mode="json")
    values["sae"] = {slug: next(iter(values["sae"].values())) for slug in slugs}
    return read_graph(PROJECT / "dvc.yaml", values)


def read(folder: Path, text: str, **params: object) -> tuple[Stage, ...]:
    (folder / "dvc.yaml").write_text(text)
    return read_graph(folder / "dvc.yaml", params)


def names(stages: tuple[Stage, ...]) -> list[str]:
    return [stage.name for stage in stages]


def test_the_project_has_its_ten_stages_in_order() -> None:
    stages = project_graph("main")
    assert [stage.group for stage in stages] == STAGES
    assert names(stages)[2:4] == ["train@main", "harvest@main"]
    assert all(stage.module == f"pipelines.{stage.group}" for stage in stages)
    assert [stage.arguments for stage in stages[1:4]] == [(), ("main",), ("main",)]


def test_each_sae_has_its_own_stages_and_parameters() -> None:
    stages = {stage.name: stage for stage in project_graph("a", "b")}
    assert {"train@a", "train@b", "harvest@a", "harvest@b"} <= stages.keys()
    assert "sae.a.train" in stages["train@a"].params
    assert "data/sae/b" in stages["train@b"].outs
    assert not any("sae.a" in key for key in stages["train@b"].params)


def test_where_and_how_fast_it_runs_is_in_no_stages_parameters() -> None:
    for stage in project_graph("main"):
        for key in stage.params:
            assert not key.startswith("executor"), stage.name
            assert key not in {"model", "model.device"}, stage.name


def test_no_out_lies_in_another_and_every_dep_is_written_or_there() -> None:
    stages = project_graph("main")
    outs = [(stage.name, out) for stage in stages for out in stage.outs]
    for number, (name, out) in enumerate(outs):
        for other, second in outs[number + 1 :]:
            assert not overlap(out, second), (name, other)
    for stage in stages:
        for dep in stage.deps:
            written = any(overlap(dep, out) for _, out in outs)
            assert written or (PROJECT / dep).exists(), f"{stage.name} needs {dep}"


def test_a_stage_reads_only_what_earlier_stages_wrote() -> None:
    written: list[str] = []
    for stage in project_graph("a", "b"):
        for dep in stage.deps:
            if dep.startswith(("data/", "metrics", "plots")):
                assert any(overlap(dep, out) for out in written), (stage.name, dep)
        written += stage.outs


def test_residuals_are_not_pushed_and_metrics_are_not_cached() -> None:
    import yaml

    text = yaml.safe_load((PROJECT / "dvc.yaml").read_text("utf-8"))
    assert text["stages"]["dump"]["outs"] == [{"data/residuals": {"push": False}}]
    for name, stage in text["stages"].items():
        entry = stage.get("do", stage)
        for listed in [*entry.get("metrics", []), *entry.get("plots", [])]:
            assert next(iter(listed.values()))["cache"] is False, name
        assert "persist" not in str(entry), name


def test_a_part_of_the_graph_is_chosen_by_its_ends() -> None:
    stages = project_graph("a", "b")
    assert names(between(stages, "label", "steer")) == ["label", "directions", "steer"]
    assert names(between(stages, "evaluate", None)) == ["evaluate", "report"]
    assert names(between(stages, None, "train@b")) == ["corpus", "dump", "train@b"]
    assert names(between(stages, "train", "harvest")) == [
        "train@a",
        "train@b",
        "harvest@a",
        "harvest@b",
    ]
    assert names(between(stages, "train@a", "index")) == ["train@a", "harvest@a", "index"]
    assert between(stages, None, None) == stages


def test_an_unknown_stage_is_answered_with_the_nearest() -> None:
    with pytest.raises(PipelineError, match=r"no stage 'lable'.*did you mean 'label'\?"):
        between(project_graph("main"), "lable", None)


def test_ends_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(PipelineError, match="no stage lies between 'report' and 'dump'"):
        between(project_graph("main"), "report", "dump")


def test_stages_are_ordered_by_what_they_read_and_not_by_where_they_stand(tmp_path: Path) -> None:
    stages = read(
        tmp_path,
        """
        stages:
          last: {cmd: python -m pipelines.last, deps: [data/x/part], outs: [out]}
          first: {cmd: python -m pipelines.first, outs: [{data/x: {push: false}}]}
        """,
    )
    assert names(stages) == ["first", "last"]
    assert stages[0].outs == ("data/x",)


def test_templates_are_filled_from_vars_parameters_and_items(tmp_path: Path) -> None:
    stages = read(
        tmp_path,
        """
        vars: [{python: env python}]
        stages:
          s:
            foreach: ${sae}
            do:
              cmd: ${python} -m pipelines.s ${key} x
              deps: ["data/${item.hook_point}/${seed}"]
              outs: ["data/s/${key}"]
        """,
        sae={"main": {"hook_point": "h"}},
        seed=3,
    )
    assert stages == (
        Stage("s@main", "pipelines.s", ("main", "x"), ("data/h/3",), (), ("data/s/main",)),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stages: {s: {cmd: 'python s.py'}}", r"expected `\.\.\. -m pipelines"),
        ("stages: {s: {cmd: 'python -m pipelines.s ${sed}'}}", "names 'sed'"),
        ("stages: {s: {foreach: '${seed}', do: {cmd: x}}}", "not a mapping"),
    ],
)
def test_what_is_not_understood_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        read(tmp_path, text, seed=1)


def test_a_missing_graph_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="expected the stage graph"):
        read_graph(tmp_path / "dvc.yaml", {})


def test_paths_overlap_when_one_lies_in_the_other() -> None:
    assert overlap("data/sae", "data/sae/main")
    assert overlap("data/sae/main", "data/sae")
    assert overlap("metrics", "metrics")
    assert not overlap("data/sae", "data/sae2")
    assert not overlap("data/steer", "data/store")


def test_a_value_is_found_by_its_dotted_key() -> None:
    assert value_at({"sae": {"a-b": {"k": 8}}}, "sae.a-b.k") == 8
    with pytest.raises(PipelineError, match=r"'sae\.c'"):
        value_at({"sae": {}}, "sae.c")
