import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.activation_files import bucket_width, n_buckets, row_group_rows
from store.activations import (
    iter_features,
    iter_tokens,
    read_feature,
    read_tokens,
    round_mantissa,
    sort_by_feature,
    writer,
)
from store.errors import MissingArtefact, SchemaMismatch, TruncatedShard
from store.manifest import content_hash
from store.tables import SCHEMA_VERSION

META = {"hook_point": "blocks.2.hook_resid_post"}


def some_activations(
    n_tokens: int = 400, d_sae: int = 600, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """tok, feature_id and value, four features a token, in token order."""
    rng = np.random.default_rng(seed)
    fired = rng.integers(0, d_sae, 4 * n_tokens) ** 2 // d_sae
    keys = np.unique(np.repeat(np.arange(n_tokens), 4) * d_sae + fired)
    value = round_mantissa(rng.lognormal(size=len(keys)).astype(np.float32))
    return keys // d_sae, (keys % d_sae).astype(np.int32), value


def harvest(
    root: Path,
    rows: tuple[np.ndarray, np.ndarray, np.ndarray],
    d_sae: int = 600,
    part_rows: int = 500,
    stop_after: int | None = None,
) -> int:
    """Writes rows fifty tokens a call, going on where an earlier call stopped."""
    tok, feature_id, value = rows
    n_tokens = int(tok.max()) + 1
    with writer(root, META, d_sae, part_rows) as out:
        for start in range(out.tokens_done, n_tokens, 50):
            if stop_after is not None and start >= stop_after:
                raise KeyboardInterrupt
            inside = (tok >= start) & (tok < start + 50)
            out.write(tok[inside], feature_id[inside], value[inside], tokens_done=start + 50)
        return out.finish()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("activations")
    assert harvest(folder, some_activations()) == len(some_activations()[0])
    sort_by_feature(folder, 600)
    return folder


@given(
    value=st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False),
    bits=st.integers(1, 23),
)
def test_a_rounded_value_is_near_and_stays_put(value: float, bits: int) -> None:
    rounded = round_mantissa(np.array([value]), bits)
    assert np.isfinite(rounded).all()
    limit = 2.0 ** -(bits + 1) if abs(value) < 3e38 else 2.0**-bits
    assert abs(float(rounded[0]) - value) <= abs(value) * limit
    np.testing.assert_array_equal(round_mantissa(rounded, bits), rounded)


def test_ties_go_to_even_and_the_largest_value_stays_finite() -> None:
    largest = np.finfo(np.float32).max
    values = np.array([1 + 2.0**-11, 1 + 3 * 2.0**-11, largest, -largest, math.inf], np.float32)
    rounded = round_mantissa(values)
    assert rounded[:2].tolist() == [1.0, 1 + 2.0**-9]
    assert np.isfinite(rounded[:4]).all()
    assert rounded[4] == math.inf
    assert math.isnan(round_mantissa(np.array([math.nan]))[0])


def test_full_mantissa_changes_nothing() -> None:
    values = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    np.testing.assert_array_equal(round_mantissa(values, 23), values)


@given(d_sae=st.integers(1, 200_000))
def test_buckets_are_at_most_32_of_the_smallest_power_of_two(d_sae: int) -> None:
    width = bucket_width(d_sae)
    assert width >= 128
    assert width & (width - 1) == 0
    assert n_buckets(d_sae) <= 32
    assert width == 128 or -(-d_sae // (width // 2)) > 32


@given(n_rows=st.integers(0, 10**10))
def test_row_groups_are_a_three_hundredth_within_limits(n_rows: int) -> None:
    rows = row_group_rows(n_rows)
    assert 131_072 <= rows <= 1_048_576
    assert rows in {131_072, n_rows // 300, 1_048_576}


@settings(max_examples=10)
@given(seed=st.integers(0, 1000), part_rows=st.integers(1, 2000))
def test_both_orders_give_back_what_was_written(
    seed: int, part_rows: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("round")
    tok, feature_id, value = rows = some_activations(120, 300, seed)
    harvest(folder, rows, 300, part_rows)
    assert sort_by_feature(folder, 300, threads=1) == len(tok)
    by_token = read_tokens(folder, 0, 10**9)
    np.testing.assert_array_equal(by_token["tok"].to_numpy(), tok)
    np.testing.assert_array_equal(by_token["feature_id"].to_numpy(), feature_id)
    np.testing.assert_array_equal(by_token["value"].to_numpy(), value)
    found = {number: (places, strengths) for number, places, strengths in iter_features(folder)}
    assert sorted(found) == sorted(set(feature_id.tolist()))
    for number, (places, strengths) in found.items():
        np.testing.assert_array_equal(places, tok[feature_id == number])
        np.testing.assert_array_equal(strengths, value[feature_id == number])


def test_every_file_is_sorted_and_every_pair_is_there_once(root: Path) -> None:
    seen = []
    for path in sorted(root.glob("act_feature/*/*.parquet")):
        rows = pq.read_table(path, partitioning=None)
        keys = rows["feature_id"].to_numpy().astype(np.int64) * 10**9 + rows["tok"].to_numpy()
        assert (np.diff(keys) > 0).all()
        bucket = int(path.parent.name.removeprefix("bucket="))
        assert set(rows["feature_id"].to_numpy() // bucket_width(600)) <= {bucket}
        seen.append(keys)
    assert len(np.concatenate(seen)) == len(some_activations()[0])
    assert len(seen) == n_buckets(600)
    for path in root.glob("act_token/*.parquet"):
        rows = pq.read_table(path, partitioning=None)
        keys = rows["tok"].to_numpy() * 10**6 + rows["feature_id"].to_numpy()
        assert (np.diff(keys) > 0).all()


def test_bytes_do_not_depend_on_threads_or_on_the_day(root: Path, tmp_path: Path) -> None:
    harvest(tmp_path, some_activations())
    assert content_hash(tmp_path / "act_token") == content_hash(root / "act_token")
    for threads in (1, 2):
        sort_by_feature(tmp_path, 600, threads=threads)
        assert content_hash(tmp_path / "act_feature") == content_hash(root / "act_feature")


def test_a_sort_of_many_row_groups_keeps_order_and_bytes(tmp_path: Path) -> None:
    n = 400_000
    tok = np.repeat(np.arange(n // 4), 4)
    feature_id = np.tile(np.array([0, 1, 130, 131], dtype=np.int32), n // 4)
    with writer(tmp_path, META, 200, part_rows=150_000) as out:
        for start in range(0, n, 100_000):
            inside = slice(start, start + 100_000)
            out.write(tok[inside], feature_id[inside], np.ones(100_000, dtype=np.float32))
        out.finish()
    hashes = set()
    for threads in (1, 2):
        sort_by_feature(tmp_path, 200, memory_limit="200MB", threads=threads)
        hashes.add(content_hash(tmp_path / "act_feature"))
    assert len(hashes) == 1
    file = pq.ParquetFile(tmp_path / "act_feature/bucket=00/part-0.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(2)] == [131_072, 200_000 - 131_072]
    assert [(number, len(places)) for number, places, _ in iter_features(tmp_path)] == [
        (number, n // 4) for number in (0, 1, 130, 131)
    ]
    assert not list(tmp_path.glob(".*"))


def test_the_encodings_are_the_promised_ones(root: Path) -> None:
    wanted = {"feature_id": "DELTA_BINARY_PACKED", "tok": "DELTA_BINARY_PACKED"}
    wanted["value"] = "BYTE_STREAM_SPLIT"
    for path in [*root.glob("act_feature/*/*.parquet"), *root.glob("act_token/*.parquet")]:
        group = pq.ParquetFile(path).metadata.row_group(0)
        for number in range(3):
            column = group.column(number)
            name = column.path_in_schema
            by_dictionary = (name, path.parent.name) == ("feature_id", "act_token")
            assert ("RLE_DICTIONARY" if by_dictionary else wanted[name]) in column.encodings
            assert column.compression == "ZSTD"
            assert column.has_dictionary_page == by_dictionary


def test_a_wide_sae_has_no_dictionaries(tmp_path: Path) -> None:
    with writer(tmp_path, META, 16_385) as out:
        out.write(np.array([0]), np.array([16_384]), np.ones(1, dtype=np.float32))
        out.finish()
    column = pq.ParquetFile(tmp_path / "act_token/part-00000.parquet").metadata.row_group(0)
    assert not column.column(1).has_dictionary_page
    assert "DELTA_BINARY_PACKED" in column.column(1).encodings


def test_a_page_holds_131072_rows_so_that_split_bytes_compress(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    value = rng.lognormal(size=262_144).astype(np.float32)
    with writer(tmp_path, META, 200) as out:
        out.write(np.arange(262_144), rng.integers(0, 200, 262_144), value)
        out.finish()
    group = pq.ParquetFile(tmp_path / "act_token/part-00000.parquet").metadata.row_group(0)
    assert group.num_rows == 131_072
    assert group.column(2).total_compressed_size < 1.75 * group.num_rows


def test_files_say_what_they_are_and_no_more(root: Path) -> None:
    meta = pq.read_schema(root / "act_feature/bucket=00/part-0.parquet").metadata
    assert {key.decode(): text.decode() for key, text in meta.items()} == {
        "bucket_width": "128",
        "d_sae": "600",
        "hook_point": META["hook_point"],
        "schema_version": str(SCHEMA_VERSION),
        "table": "act",
        "value_bits": "10",
    }


@pytest.mark.parametrize("stop_after", [50, 150, 350])
def test_an_interrupted_harvest_goes_on_to_the_same_files(
    stop_after: int, root: Path, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        harvest(tmp_path, some_activations(), stop_after=stop_after)
    kept = len(list(tmp_path.glob("act_token/*")))
    assert harvest(tmp_path, some_activations()) == len(some_activations()[0])
    assert len(list(tmp_path.glob("act_token/*"))) >= kept
    assert content_hash(tmp_path / "act_token") == content_hash(root / "act_token")


def test_parts_of_another_harvest_are_not_gone_on_with(root: Path) -> None:
    with pytest.raises(SchemaMismatch, match="another harvest"):
        writer(root, {"hook_point": "blocks.0.hook_resid_pre"}, 600)
    with pytest.raises(SchemaMismatch, match="another harvest"):
        writer(root, META, 601)


def test_reading_a_few_tokens_or_one_feature(root: Path) -> None:
    tok, feature_id, value = some_activations()
    few = read_tokens(root, 37, 41)
    inside = (tok >= 37) & (tok < 41)
    np.testing.assert_array_equal(few["feature_id"].to_numpy(), feature_id[inside])
    assert read_tokens(root, 10**6, 10**7).num_rows == 0
    for number in (0, 127, 128, 599):
        places, strengths = read_feature(root, number)
        np.testing.assert_array_equal(places, tok[feature_id == number])
        np.testing.assert_array_equal(strengths, value[feature_id == number])
    parts = [places for places, _features, _values in iter_tokens(root)]
    np.testing.assert_array_equal(np.concatenate(parts), tok)
    assert all(a[-1] < b[0] for a, b in pairwise(parts))


def test_token_order_is_read_a_row_group_at_a_time_and_no_token_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four activations a token in row groups of seven, and one token of thirty."""
    monkeypatch.setattr("store.activation_writer.row_group_rows", lambda n_rows: 7)
    tok = np.sort(np.concatenate([np.repeat(np.arange(100), 4), np.full(26, 50)]))
    feature_id = np.concatenate([np.arange(np.count_nonzero(tok == t)) for t in range(100)])
    value = np.arange(1, len(tok) + 1).astype(np.float32)
    rows = tok, feature_id.astype(np.int32), value
    assert harvest(tmp_path, rows, part_rows=150) == len(tok)
    parts = list(iter_tokens(tmp_path))
    assert len(parts) > len(list((tmp_path / "act_token").glob("*"))) > 1
    assert max(len(places) for places, _features, _values in parts) <= 30 + 7
    for column, wanted in zip(zip(*parts, strict=True), rows, strict=True):
        np.testing.assert_array_equal(np.concatenate(column), wanted)
    assert all(a[-1] < b[0] for (a, *_), (b, *_) in pairwise(parts))


def test_an_sae_that_never_fires_still_has_both_orders(tmp_path: Path) -> None:
    with writer(tmp_path, META, 300) as out:
        assert out.finish(tokens_done=100) == 0
    assert out.tokens_done == 100
    assert sort_by_feature(tmp_path, 300) == 0
    assert list(iter_features(tmp_path)) == []
    assert len(read_feature(tmp_path, 5)[0]) == 0
    assert read_tokens(tmp_path, 0, 100).num_rows == 0


@pytest.mark.parametrize(
    ("tok", "feature_id", "value", "kind", "message"),
    [
        ([7], [300], [1.0], SchemaMismatch, "features 300 to 300; expected 0 to 299"),
        ([7], [-1], [1.0], SchemaMismatch, "expected 0 to 299"),
        ([4], [0], [1.0], SchemaMismatch, "token 4 after token 4"),
        ([7, 7], [3, 3], [1.0, 2.0], SchemaMismatch, "feature 3 twice at token 7"),
        ([7, 8], [3], [1.0], SchemaMismatch, "2 tokens, 1 features and 1 values"),
    ],
)
def test_what_could_not_be_read_back_is_refused(
    tok: list[int],
    feature_id: list[int],
    value: list[float],
    kind: type[Exception],
    message: str,
    tmp_path: Path,
) -> None:
    def write_badly() -> None:
        with writer(tmp_path, META, 300) as out:
            out.write(np.array([4]), np.array([0]), np.array([1.0], dtype=np.float32))
            out.write(np.array(tok), np.array(feature_id), np.array(value, dtype=np.float32))

    with pytest.raises(kind, match=message):
        write_badly()
    assert not list(tmp_path.glob("act_token/*"))


def test_tokens_done_cannot_lie_before_an_activation(tmp_path: Path) -> None:
    out = writer(tmp_path, META, 300)
    with pytest.raises(SchemaMismatch, match="tokens_done is 3"):
        out.write(np.array([4]), np.array([0]), np.array([1.0], dtype=np.float32), tokens_done=3)


def test_features_of_one_token_may_come_in_any_order(tmp_path: Path) -> None:
    with writer(tmp_path, META, 300) as out:
        out.write(np.array([1, 0, 0]), np.array([5, 9, 2]), np.array([1, 2, 4], dtype=np.float32))
        out.finish()
    rows = read_tokens(tmp_path, 0, 2)
    assert rows.to_pydict() == {"tok": [0, 0, 1], "feature_id": [2, 9, 5], "value": [4, 2, 1]}


def test_what_does_not_fit_is_moved_to_what_does_and_counted(tmp_path: Path) -> None:
    values = [1e-45, 1e-300, 1.0, 3.4028235e38, 1e300, -1e300]
    with writer(tmp_path, META, 300) as out:
        out.write(np.arange(6), np.ones(6, dtype=np.int64), np.array(values))
        out.finish()
    for counted in (out, writer(tmp_path, META, 300)):
        assert (counted.n_clipped, counted.n_overflow, counted.n_not_finite) == (2, 3, 0)
    stored = read_tokens(tmp_path, 0, 6)["value"].to_numpy()
    assert stored[:3].tolist() == [2.0**-136, 2.0**-136, 1.0]
    largest = float(np.finfo(np.float32).max) / (2 - 2.0**-23) * (2 - 2.0**-10)
    assert stored[3:].tolist() == [largest, largest, -largest]
    np.testing.assert_array_equal(round_mantissa(stored), stored)


def test_what_is_no_number_is_counted_left_out_and_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values = np.array([1.0, math.nan, math.inf, -math.inf], dtype=np.float32)
    with writer(tmp_path, META, 300) as out:
        out.write(np.arange(4), np.arange(4), values, tokens_done=4)
        out.write(np.array([4]), np.array([9]), np.array([math.nan]), tokens_done=5)
        assert out.finish() == 1
    assert (out.n_clipped, out.n_overflow, out.n_not_finite, out.tokens_done) == (0, 0, 4, 5)
    assert writer(tmp_path, META, 300).n_not_finite == 4
    assert read_tokens(tmp_path, 0, 9)["value"].to_pylist() == [1.0]
    assert [record.getMessage().split(";")[0] for record in caplog.records] == [
        "the activation of feature 1 at token 1 is nan"
    ]


def test_reading_before_writing_says_what_to_do(tmp_path: Path, root: Path) -> None:
    for read in (lambda: list(iter_features(tmp_path)), lambda: read_tokens(tmp_path, 0, 1)):
        with pytest.raises(MissingArtefact, match="dvc repro harvest"):
            read()
    with pytest.raises(MissingArtefact, match="sparse activations"):
        read_feature(tmp_path, 0)
    with pytest.raises(MissingArtefact, match="token order"):
        sort_by_feature(tmp_path, 300)
    with pytest.raises(SchemaMismatch, match="feature 600"):
        read_feature(root, 600)


def test_a_cut_file_is_named(tmp_path: Path) -> None:
    harvest(tmp_path, some_activations())
    path = tmp_path / "act_token/part-00000.parquet"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(TruncatedShard, match=r"part-00000\.parquet is not whole Parquet"):
        read_tokens(tmp_path, 0, 10)
