"""No stage reads the split `test` but the final scoring: other test texts, the same choices."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from safetensors.numpy import load_file

from pipelines.walk.graph import PROJECT
from pipelines.walk.inputs import open_digests
from store.atomic import link_tree

if TYPE_CHECKING:
    from tests.end_to_end.conftest import House

pytestmark = pytest.mark.slow

STAGES = (
    ("dump",),
    ("train", "a"),
    ("harvest", "a"),
    ("index",),
    ("label",),
    ("directions",),
    ("steer",),
    ("evaluate",),
)
CONTROL = "random_feature"
"""Matched in density over the whole corpus: a control describes, and chooses nothing."""


@pytest.fixture(scope="module")
def other(house: House, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first workspace again with every test document and test prompt altered, and SAE `a`."""
    folder = tmp_path_factory.mktemp("other")
    params = {**house.params, "sae": {"a": house.params["sae"]["a"]}}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    for part in ("inputs", "data/corpus"):
        (folder / part).parent.mkdir(exist_ok=True)
        link_tree(house.tiller_dir / part, folder / part)
    _alter(folder / "data" / "corpus")
    for stage, *arguments in STAGES:
        done = subprocess.run(
            [sys.executable, "-P", "-m", f"pipelines.{stage}", *arguments],
            cwd=folder,
            env=house.environment_with(PROJECT),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    return folder


def test_the_autoencoder_and_its_figures_are_the_same(house: House, other: Path) -> None:
    assert _digest(other, "data/sae/a") == house.digest("data/sae/a")
    assert _digest(other, "metrics/train-a.json") == house.digest("metrics/train-a.json")


def test_every_rule_and_every_slug_is_the_same(house: House, other: Path) -> None:
    columns = ["label_id", "feature_id", "slug", "text", "rule", "method", "side"]
    ours, theirs = (
        [row for row in _rows(folder, "labels/label", ["run_id", *columns]) if row["run_id"] == "a"]
        for folder in (other, house.tiller_dir)
    )
    assert ours == theirs
    assert len(ours) > 5


def test_every_direction_and_every_choice_of_a_feature_is_the_same(
    house: House, other: Path
) -> None:
    ours, theirs = (
        load_file(folder / "data" / "directions" / "directions.safetensors")
        for folder in (other, house.tiller_dir)
    )
    assert ours.keys() == theirs.keys()
    same = [name for name in ours if name.split("/")[1] != CONTROL]
    assert all(np.array_equal(ours[name], theirs[name]) for name in same)
    columns = ["feature_id", "best_coefficient", "hm", "lo", "hi"]
    assert _rows(other, "directions/causal", columns) == _rows(
        house.tiller_dir, "directions/causal", columns
    )


def test_every_solved_coefficient_is_the_same(house: House, other: Path) -> None:
    ours, theirs = (
        [row for row in _rows(folder, "steer/coefficient") if row["method"] != CONTROL]
        for folder in (other, house.tiller_dir)
    )
    assert ours == theirs


def test_the_final_scores_are_not(house: House, other: Path) -> None:
    for scores in ("labels/label_score", "evaluation/steer_score"):
        assert _rows(other, scores) != _rows(house.tiller_dir, scores)


def _alter(corpus: Path) -> None:
    """Turn the tokens of each test document round, its labels over, and mark each test prompt."""
    doc = pq.read_table(corpus / "doc.parquet")
    is_test = np.array(doc["split"].to_pylist()) == "test"
    assert is_test.sum() >= 5
    token = pq.read_table(corpus / "token.parquet")
    ids = token["token_id"].to_numpy().copy()
    starts, lengths = doc["tok_start"].to_numpy(), doc["n_tok"].to_numpy()
    for start, length in zip(starts[is_test], lengths[is_test], strict=True):
        ids[start + 1 : start + length] = ids[start + 1 : start + length][::-1]
    _replace(corpus / "token.parquet", token, "token_id", ids)
    label = pq.read_table(corpus / "concept_label.parquet")
    of_test = np.isin(label["doc_id"].to_numpy(), doc["doc_id"].to_numpy()[is_test])
    holds = np.array(label["y"].to_pylist()) ^ of_test
    _replace(corpus / "concept_label.parquet", label, "y", holds)
    prompt = pq.read_table(corpus / "prompt.parquet")
    texts = [
        f"{row['text']} again" if row["split"] == "test" else row["text"]
        for row in prompt.to_pylist()
    ]
    _replace(corpus / "prompt.parquet", prompt, "text", texts)


def _replace(path: Path, table: pa.Table, name: str, values: object) -> None:
    """Write a table with one column's values replaced, as a new file: the old one is a link."""
    place, column = table.schema.get_field_index(name), table.schema.field(name)
    path.unlink()
    pq.write_table(table.set_column(place, column, pa.array(values, column.type)), path)


def _rows(folder: Path, table: str, columns: list[str] | None = None) -> list[dict[str, object]]:
    found: list[dict[str, object]] = pq.read_table(
        folder / "data" / f"{table}.parquet", columns=columns
    ).to_pylist()
    return found


def _digest(folder: Path, out: str) -> str | None:
    return open_digests(folder).of(folder / out)
