"""A stranger's dashboards held against the store, feature by feature and field by field.

Dashboards hold statistics and no explanations, so there is nothing in them to take over: what
they are good for is to see whether another tool, on its own corpus, saw the same features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np

from features.exchange.compare_fields import FIELDS, Difference
from features.exchange.dashboard_file import Batch, read_batch
from features.exchange.page import RunFacts, run_facts
from features.exchange.store_pages import read_pages


@dataclass(frozen=True, slots=True)
class Agreement:
    """One field over all features of a file."""

    field: str
    measure: str
    """What a difference's size is."""
    by_feature: Mapping[int, Difference]
    """Features where both sides have the field."""

    @property
    def n_agree(self) -> int:
        """Features where both sides agree."""
        return sum(one.agrees for one in self.by_feature.values())

    @property
    def median(self) -> float | None:
        """Size of the middle difference."""
        sizes = [one.size for one in self.by_feature.values()]
        return float(np.median(sizes)) if sizes else None

    @property
    def worst(self) -> tuple[int, Difference] | None:
        """The feature that differs most, the lowest of equals."""
        if not self.by_feature:
            return None
        return max(self.by_feature.items(), key=lambda item: (item[1].size, -item[0]))


def compare_batch(
    con: duckdb.DuckDBPyConnection, workspace: Path, path: Path, *, run_id: str | None = None
) -> tuple[Batch, RunFacts, tuple[Agreement, ...]]:
    """What a `batch-N.json` says, of what it is held against, and each field's agreement.

    Raises:
        UnknownFeature: there is no such SAE.
        MalformedFile, OversizedFile: as `read_batch`.
        ForeignFile: a feature that the SAE has not.
    """
    facts = run_facts(con, run_id)
    batch = read_batch(path, facts.d_sae)
    theirs = {one.page.feature_id: one.page for one in batch.features}
    ours = {page.feature_id: page for page in read_pages(con, workspace, facts, list(theirs))}
    found = []
    for name, (measure, compare) in FIELDS.items():
        differences = {
            feature: one
            for feature, page in sorted(theirs.items())
            if (one := compare(page, ours[feature])) is not None
        }
        found.append(Agreement(name, measure, differences))
    return batch, facts, tuple(found)
