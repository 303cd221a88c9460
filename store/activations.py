"""Sparse activations in both sort orders: written as they come, re-sorted, read back.

Token order answers "what fires here", feature order "where does this fire". The first is
written by `store.activation_writer`, the second made from it by `store.activation_sort`;
both are offered here, beside what reads them.
"""

from collections.abc import Generator, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from store.activation_files import (
    activation_schema,
    bucket_path,
    bucket_width,
    file_meta,
    n_buckets,
    open_file,
    round_mantissa,
)
from store.activation_sort import sort_by_feature
from store.activation_writer import ActivationWriter, writer
from store.errors import MissingArtefact, SchemaMismatch

__all__ = [
    "ActivationWriter",
    "FeatureRows",
    "TokenRows",
    "iter_features",
    "iter_tokens",
    "read_feature",
    "read_tokens",
    "round_mantissa",
    "sort_by_feature",
    "writer",
]

FeatureRows = tuple[int, npt.NDArray[np.int64], npt.NDArray[np.float32]]
"""A feature, the tokens it fires on in ascending order, and how strongly."""

TokenRows = tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.float32]]
"""Tokens in ascending order, the features that fire on them, and how strongly."""


def read_feature(
    root: Path, feature_id: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Where one feature fires, ascending, and how strongly; empty arrays if it never does.

    Raises:
        MissingArtefact: there is no feature order under `root`.
        SchemaMismatch: the SAE has no such latent.
    """
    first = open_file(bucket_path(root / "act_feature", 0))
    d_sae = int(file_meta(first)["d_sae"])
    if not 0 <= feature_id < d_sae:
        raise SchemaMismatch(
            f"feature {feature_id} of {root}; expected 0 to {d_sae - 1}; correct the number"
        )
    width = bucket_width(d_sae)
    file = open_file(bucket_path(root / "act_feature", feature_id // width))
    groups = []
    for number in range(file.metadata.num_row_groups):
        seen = file.metadata.row_group(number).column(0).statistics
        if seen.min <= feature_id <= seen.max:
            groups.append(number)
    rows = file.read_row_groups(groups, columns=["feature_id", "tok", "value"])
    rows = rows.filter(pc.equal(rows["feature_id"], feature_id))
    return rows["tok"].to_numpy(), rows["value"].to_numpy()


def iter_features(root: Path) -> Iterator[FeatureRows]:
    """Each feature that fires, ascending: its number, its tokens, its activations.

    One row group and one feature are in memory at a time.

    Raises:
        MissingArtefact: there is no feature order under `root`, or a bucket is not there.
    """
    first = bucket_path(root / "act_feature", 0)
    if not first.is_file():
        raise MissingArtefact(
            f"no bucket under {root / 'act_feature'}; expected activations in feature order; "
            "run `dvc repro harvest` first"
        )
    d_sae = int(file_meta(open_file(first))["d_sae"])
    paths = [bucket_path(root / "act_feature", bucket) for bucket in range(n_buckets(d_sae))]
    for path in paths:
        file = open_file(path)
        held: pa.Table | None = None
        for number in range(file.metadata.num_row_groups):
            rows = file.read_row_group(number)
            rows = pa.concat_tables([held, rows]) if held is not None else rows
            held = yield from _all_but_the_last(rows)
        if held is not None:
            yield _one_feature(held)


def iter_tokens(root: Path) -> Iterator[TokenRows]:
    """Every activation in token order, a row group at a time; no token is split over two.

    Raises:
        MissingArtefact: there is no token order under `root`, or a part is not there.
    """
    for path in _token_parts(root):
        file = open_file(path)
        held: pa.Table | None = None
        for number in range(file.metadata.num_row_groups):
            rows = file.read_row_group(number)
            rows = pa.concat_tables([held, rows]) if held is not None else rows
            tok = rows["tok"].to_numpy()
            last = int(np.searchsorted(tok, tok[-1]))
            held = rows.slice(last)
            if last:
                yield _token_rows(rows.slice(0, last))
        if held is not None:
            yield _token_rows(held)


def read_tokens(root: Path, tok0: int, tok1: int) -> pa.Table:
    """Every activation with tok0 <= tok < tok1, in token order.

    Raises:
        MissingArtefact: there is no token order under `root`.
    """
    found = [activation_schema("act_token", {}).empty_table()]
    for path in _token_parts(root):
        file = open_file(path)
        groups = [
            number
            for number in range(file.metadata.num_row_groups)
            if (seen := file.metadata.row_group(number).column(0).statistics).min < tok1
            and seen.max >= tok0
        ]
        if groups:
            rows = file.read_row_groups(groups).cast(found[0].schema)
            inside = pc.and_(pc.greater_equal(rows["tok"], tok0), pc.less(rows["tok"], tok1))
            found.append(rows.filter(inside))
    return pa.concat_tables(found).combine_chunks()


def _token_rows(rows: pa.Table) -> TokenRows:
    return rows["tok"].to_numpy(), rows["feature_id"].to_numpy(), rows["value"].to_numpy()


def _token_parts(root: Path) -> list[Path]:
    paths = sorted((root / "act_token").glob("part-*.parquet"))
    if not paths:
        raise MissingArtefact(
            f"no part under {root / 'act_token'}; expected activations in token order; "
            "run `dvc repro harvest` first"
        )
    for number, path in enumerate(paths):
        if path.name != f"part-{number:05d}.parquet":
            raise MissingArtefact(
                f"{path} follows part {number - 1} under {root / 'act_token'}; expected part "
                f"{number:05d}; run `dvc repro harvest` again"
            )
    return paths


def _all_but_the_last(rows: pa.Table) -> Generator[FeatureRows, None, pa.Table]:
    """Yields each feature that surely ends in these rows, and returns the rows left over."""
    features = rows["feature_id"].to_numpy()
    starts = np.flatnonzero(np.diff(features, prepend=-1))
    for start, stop in pairwise(starts):
        yield _one_feature(rows.slice(start, stop - start))
    return rows.slice(starts[-1])


def _one_feature(rows: pa.Table) -> FeatureRows:
    return rows["feature_id"][0].as_py(), rows["tok"].to_numpy(), rows["value"].to_numpy()
