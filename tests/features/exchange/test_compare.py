"""A stranger's dashboards against the store: equal files agree, and each change is found."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from features.errors import UnknownFeature
from features.exchange import compare_batch, export_dashboards
from features.exchange.compare import Agreement
from features.exchange.errors import ForeignFile, MalformedFile

FEATURE = 4


@pytest.fixture
def batch(con: duckdb.DuckDBPyConnection, workspace: Path, tmp_path: Path) -> Path:
    export_dashboards(con, workspace, tmp_path / "out")
    return tmp_path / "out/batch-0.json"


def compared(con: duckdb.DuckDBPyConnection, workspace: Path, batch: Path) -> dict[str, Agreement]:
    return {one.field: one for one in compare_batch(con, workspace, batch)[2]}


def change(batch: Path, how: Callable[[dict[str, Any]], None]) -> None:
    raw = json.loads(batch.read_text())
    how(raw["features"][FEATURE])
    batch.write_text(json.dumps(raw))


def test_our_own_dashboards_agree_in_every_field(
    con: duckdb.DuckDBPyConnection, workspace: Path, batch: Path
) -> None:
    found = compared(con, workspace, batch)
    assert len(found) == 10
    for name, one in found.items():
        assert one.by_feature, name
        assert one.n_agree == len(one.by_feature), name
        assert one.median == 0, name
    assert len(found["density"].by_feature) == 12
    assert list(found["histogram"].by_feature) == [0]


def test_numbers_rounded_as_sae_dashboard_rounds_them_still_agree(
    con: duckdb.DuckDBPyConnection, workspace: Path, batch: Path
) -> None:
    raw = json.loads(batch.read_text())
    for feature in raw["features"]:
        feature["frac_nonzero"] = round(feature["frac_nonzero"], 5)
        feature["pos_values"] = [round(one, 3) for one in feature["pos_values"]]
        for activation in feature["activations"]:
            activation["values"] = [round(one, 3) for one in activation["values"]]
            activation["bin_max"] = round(activation["bin_max"], 3)
    batch.write_text(json.dumps(raw))
    for name, one in compared(con, workspace, batch).items():
        assert one.n_agree == len(one.by_feature), name


def put(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def how(feature: dict[str, Any]) -> None:
        feature[name] = value

    return how


def doubled(feature: dict[str, Any]) -> None:
    feature["frac_nonzero"] *= 2


def stronger(feature: dict[str, Any]) -> None:
    for one in feature["activations"]:
        one["bin_max"] *= 1.5


def elsewhere(feature: dict[str, Any]) -> None:
    for one in feature["activations"]:
        one["tokens"] = ["x"] * len(one["tokens"])


@pytest.mark.parametrize(
    ("field", "how", "size"),
    [
        ("density", doubled, 0.5),
        ("largest activation", stronger, 1 / 3),
        ("promoted tokens", put("pos_str", [" other"]), 1.0),
        ("their logits", put("pos_values", [0.2]), 0.5),
        ("suppressed tokens", put("neg_str", [" other"]), 1.0),
        ("logits of these", put("neg_values", [0.3]), 2.0),
        ("largest weights", put("neuron_alignment_indices", [97, 98, 99]), 1.0),
        ("correlated features", put("correlated_features_indices", [0]), 1.0),
        ("strongest contexts", elsewhere, 1.0),
    ],
)
def test_a_field_that_differs_is_named_with_the_feature_and_both_values(
    con: duckdb.DuckDBPyConnection,
    workspace: Path,
    batch: Path,
    field: str,
    how: Callable[[dict[str, Any]], None],
    size: float,
) -> None:
    change(batch, how)
    found = compared(con, workspace, batch)
    differing = {name for name, one in found.items() if one.n_agree < len(one.by_feature)}
    assert differing == {field}
    worst = found[field].worst
    assert worst is not None
    assert worst[0] == FEATURE
    assert worst[1].size == pytest.approx(size, rel=1e-6)
    assert worst[1].theirs != worst[1].ours


def test_a_histogram_is_compared_though_its_bins_are_others(
    con: duckdb.DuckDBPyConnection, workspace: Path, batch: Path
) -> None:
    """Ours: 3 activations about .75 and 4 about 2.75."""
    raw = json.loads(batch.read_text())
    first = raw["features"][0]
    first["freq_hist_data_bar_values"] = [0.7, 0.75, 0.8, 2.7, 2.75, 2.8]
    first["freq_hist_data_bar_heights"] = [1, 1, 1, 1, 2, 1]
    batch.write_text(json.dumps(raw))
    assert compared(con, workspace, batch)["histogram"].by_feature[0].size < 0.25
    first["freq_hist_data_bar_values"] = [10.0, 11.0, 12.0, 13.0, 14.0, 15.0]
    batch.write_text(json.dumps(raw))
    apart = compared(con, workspace, batch)["histogram"].by_feature[0]
    assert apart.size == pytest.approx(1 - 1 / 14)
    assert not apart.agrees


def test_what_only_one_side_has_is_compared_with_nothing(
    con: duckdb.DuckDBPyConnection, workspace: Path, batch: Path
) -> None:
    raw = json.loads(batch.read_text())
    for feature in raw["features"]:
        feature["pos_str"], feature["pos_values"] = [], []
    batch.write_text(json.dumps(raw))
    found = compared(con, workspace, batch)["promoted tokens"]
    assert (found.median, found.worst, found.n_agree) == (None, None, 0)


def test_a_file_of_a_wider_sae_or_no_file_at_all_is_refused(
    con: duckdb.DuckDBPyConnection, workspace: Path, batch: Path
) -> None:
    with pytest.raises(UnknownFeature, match="expected one of main"):
        compare_batch(con, workspace, batch, run_id="other")
    change(batch, put("feature_index", 12))
    with pytest.raises(ForeignFile, match="feature_index is 12; expected 0 to 11"):
        compare_batch(con, workspace, batch)
    with pytest.raises(MalformedFile, match="no file"):
        compare_batch(con, workspace, batch.parent / "absent.json")


@pytest.mark.real
def test_a_real_dashboard_of_another_model_agrees_in_nothing(
    con: duckdb.DuckDBPyConnection, workspace: Path, real_dir: Path
) -> None:
    sample = real_dir / "dashboards/batch-0.json"
    if not sample.is_file():
        pytest.skip(f"{sample} is absent: no real dashboard to hold the store against")
    batch, facts, found = compare_batch(con, workspace, sample)
    assert (batch.model_id, facts.model) == ("gpt2-small", "made-model")
    for one in found:
        if one.field not in ("largest weights", "correlated features"):
            assert one.n_agree == 0, one.field
