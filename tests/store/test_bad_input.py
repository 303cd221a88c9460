"""What the store says of files that are old, cut short, missing, or there twice."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from store.activation_files import activation_schema, bucket_path
from store.activations import iter_features, iter_tokens, read_tokens, sort_by_feature, writer
from store.catalog import write_catalog
from store.errors import MissingArtefact, SchemaMismatch, StoreError, TruncatedShard
from store.manifest import content_hash
from store.schema import read_table
from store.tables import SCHEMA_VERSION

Builder = Callable[..., Path]
FEATURES = "data/features/main"


def harvest(root: Path) -> None:
    """Six parts of fifty tokens, two activations each."""
    with writer(root, {}, 300, part_rows=100) as out:
        for first in range(out.tokens_done, 300, 50):
            tok = np.repeat(np.arange(first, first + 50), 2)
            feature = np.tile([3, 200], 50)
            out.write(tok, feature, tok + 1.0)
        out.finish()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize("part", [0, 2, 5])
def test_a_part_cut_short_is_written_anew_with_all_that_follow(
    part: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    harvest(tmp_path / "whole")
    harvest(tmp_path / "cut")
    broken = tmp_path / f"cut/act_token/part-{part:05d}.parquet"
    cut(broken)
    with pytest.raises(TruncatedShard, match=f"part-0000{part}.parquet is not whole Parquet"):
        list(iter_tokens(tmp_path / "cut"))
    with caplog.at_level(logging.WARNING):
        out = writer(tmp_path / "cut", {}, 300, part_rows=100)
    assert out.tokens_done == 50 * part
    assert f"part-0000{part}.parquet is not whole" in caplog.text
    harvest(tmp_path / "cut")
    assert content_hash(tmp_path / "cut") == content_hash(tmp_path / "whole")


def test_a_part_damaged_inside_is_no_sort_and_leaves_nothing(tmp_path: Path) -> None:
    harvest(tmp_path)
    part = tmp_path / "act_token/part-00001.parquet"
    whole = part.read_bytes()
    part.write_bytes(whole[:4] + bytes(200) + whole[204:])
    with pytest.raises(TruncatedShard, match=r"cannot be sorted.*remove them and run"):
        sort_by_feature(tmp_path, 300)
    assert [path.name for path in tmp_path.iterdir()] == ["act_token"]


def test_a_bucket_or_part_that_is_missing_is_named(tmp_path: Path) -> None:
    harvest(tmp_path)
    sort_by_feature(tmp_path, 300)
    bucket_path(tmp_path / "act_feature", 1).unlink()
    with pytest.raises(MissingArtefact, match=r"bucket=01.*run `dvc repro harvest`"):
        list(iter_features(tmp_path))
    (tmp_path / "act_token/part-00003.parquet").unlink()
    with pytest.raises(MissingArtefact, match="expected part 00003"):
        read_tokens(tmp_path, 0, 10)


def test_activations_of_an_older_version_say_what_to_run(tmp_path: Path) -> None:
    harvest(tmp_path)
    part = tmp_path / "act_token/part-00000.parquet"
    rows, schema = pq.read_table(part, partitioning=None), activation_schema("act_token", {})
    pq.write_table(rows.replace_schema_metadata({**schema.metadata, b"schema_version": b"0"}), part)
    wanted = rf"schema version 0; expected {SCHEMA_VERSION}; run `dvc repro harvest` again"
    with pytest.raises(SchemaMismatch, match=wanted):
        list(iter_tokens(tmp_path))
    with pytest.raises(SchemaMismatch, match=wanted):
        writer(tmp_path, {}, 300)


def test_two_runs_with_one_slug_are_refused(build_workspace: Builder, tmp_path: Path) -> None:
    folder = build_workspace(tmp_path)
    with pytest.raises(SchemaMismatch, match=r"two runs with the slug main.*rename one"):
        write_catalog(folder, ["main", "main"])
    (folder / FEATURES).rename(folder / "data/features/other")
    with pytest.raises(SchemaMismatch, match=r"speaks of the runs \['main'\]; expected 'other'"):
        write_catalog(folder, ["other"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("topk.parquet", "not whole Parquet"),
        ("run.parquet", "not whole Parquet"),
        ("act_token/part-00001.parquet", "not whole Parquet"),
        ("act_feature/bucket=02/part-0.parquet", "not whole Parquet"),
    ],
)
def test_a_store_with_a_file_cut_short_is_not_catalogued(
    name: str, message: str, build_workspace: Builder, tmp_path: Path
) -> None:
    folder = build_workspace(tmp_path)
    before = content_hash(folder / "data/store")
    cut(folder / FEATURES / name)
    with pytest.raises(TruncatedShard, match=message):
        write_catalog(folder)
    assert content_hash(folder / "data/store") == before


@pytest.mark.parametrize(
    "name", ["act_token/part-00001.parquet", "act_feature/bucket=02/part-0.parquet"]
)
def test_a_run_whose_activations_are_not_all_there_is_not_catalogued(
    name: str, build_workspace: Builder, tmp_path: Path
) -> None:
    folder = build_workspace(tmp_path)
    (folder / FEATURES / name).unlink()
    with pytest.raises(StoreError, match=r"holds \d+ activations; expected \d+"):
        write_catalog(folder)


def test_the_tables_of_all_saes_say_what_the_saes_files_say(
    build_workspace: Builder, tmp_path: Path
) -> None:
    folder = build_workspace(tmp_path, ["main", "second"])
    for slug, sha in (("main", "aa"), ("second", "bb")):
        path = folder / "data/features" / slug / "run.parquet"
        rows = read_table(path, "run")
        said = {"sae_sha": sha, "model_sha": "cc", "schema_version": str(SCHEMA_VERSION)}
        pq.write_table(rows.replace_schema_metadata(said), path)
    write_catalog(folder)
    meta = pq.read_schema(folder / "data/store/topk.parquet").metadata
    assert (meta[b"sae_sha"], meta[b"model_sha"]) == (b"aa,bb", b"cc")
    assert (meta[b"table"], meta[b"run_id"]) == (b"topk", b"main,second")
    without_rows = pq.read_schema(folder / "data/store/label.parquet").metadata
    assert without_rows[b"sae_sha"] == b"aa,bb"
