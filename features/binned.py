"""Every feature's values as bin numbers, so that a concept costs one count for all of them.

Values are counted in bins beside one for silence; ties inside a bin count one half. On tokens
bins are equal in the logarithm between a feature's smallest and largest activation. Documents
are few, so their values are sorted: bins hold equally many distinct ones, and up to 256 the
area under the curve is exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from features.documents import Evidence
from features.rules import Level

BINS: dict[Level, int] = {"token": 64, "document": 256}


@dataclass(frozen=True, slots=True, eq=False)
class Binned:
    """Each feature's values on documents (their largest) or tokens, as bin numbers."""

    unit: Int[np.ndarray, " act"]
    code: Int[np.ndarray, " act"]
    """feature · (bins + 1) + bin, bins from 1; bin 0 is silence and is never listed."""
    edges: Float[np.ndarray, "feature bin"]
    """Lower edge of each bin from 1 on."""

    def count(self, valid: Bool[np.ndarray, " unit"]) -> Float[np.ndarray, "feature bin"]:
        """Valid units in each bin of each feature, silence included."""
        d_sae, bins = self.edges.shape
        size = d_sae * (bins + 1)
        seen = np.bincount(self.code[valid[self.unit]], minlength=size)
        count: np.ndarray = seen.reshape(d_sae, bins + 1).astype(np.float64)
        count[:, 0] = valid.sum() - count.sum(axis=1)
        return count


def largest_by_document(
    evidence: Evidence,
) -> tuple[Int[np.ndarray, " pair"], Int[np.ndarray, " pair"], Float[np.ndarray, " pair"]]:
    """Feature, document and largest value of every pair in which the feature fires."""
    feature = np.repeat(np.arange(evidence.d_sae), evidence.n_act)
    doc = evidence.documents.rows.doc[evidence.row]
    if len(doc) == 0:
        return feature, doc, evidence.value
    first = np.ones(len(doc), dtype=bool)
    first[1:] = (feature[1:] != feature[:-1]) | (doc[1:] != doc[:-1])
    start = np.flatnonzero(first)
    return feature[start], doc[start], np.maximum.reduceat(evidence.value, start)


def bin_values(evidence: Evidence, level: Level) -> Binned:
    """The values of every feature as bin numbers."""
    if level == "document":
        feature, unit, value = largest_by_document(evidence)
        return _ranked(feature, unit, value, evidence.d_sae, BINS[level])
    feature = np.repeat(np.arange(evidence.d_sae), evidence.n_act)
    return _spaced(feature, evidence.row, evidence.value, evidence.d_sae, BINS[level])


def _ranked(
    feature: Int[np.ndarray, " act"],
    unit: Int[np.ndarray, " act"],
    value: Float[np.ndarray, " act"],
    d_sae: int,
    bins: int,
) -> Binned:
    """Bins of equally many distinct values of a feature; one each if there are few enough."""
    order = np.lexsort((value, feature))
    own, ascending = feature[order], value[order].astype(np.float64)
    is_new = np.ones(len(own), dtype=bool)
    is_new[1:] = (own[1:] != own[:-1]) | (ascending[1:] != ascending[:-1])
    distinct = np.cumsum(is_new) - 1
    n_distinct = np.bincount(own[is_new], minlength=d_sae)
    rank = distinct - (np.cumsum(n_distinct) - n_distinct)[own]
    place = rank * bins // np.maximum(n_distinct, bins)[own]
    first = np.flatnonzero(np.diff(own * bins + place, prepend=-1))
    edges = np.full((d_sae, bins), np.inf)
    # Half-way down to the value below; a feature's lowest bin has none and begins at 0.
    edges[own[first], place[first]] = (ascending[first - 1] + ascending[first]) / 2
    edges[:, 0] = 0.0
    code = np.empty(len(own), dtype=np.int64)
    code[order] = own * (bins + 1) + place + 1
    return Binned(unit=unit, code=code, edges=edges)


def _spaced(
    feature: Int[np.ndarray, " act"],
    unit: Int[np.ndarray, " act"],
    value: Float[np.ndarray, " act"],
    d_sae: int,
    bins: int,
) -> Binned:
    """Bins equal in the logarithm between a feature's smallest and largest value."""
    log = np.log(value.astype(np.float64))
    low = np.full(d_sae, np.inf)
    high = np.full(d_sae, -np.inf)
    if len(log):
        start = np.flatnonzero(np.diff(feature, prepend=-1))
        low[feature[start]] = np.minimum.reduceat(log, start)
        high[feature[start]] = np.maximum.reduceat(log, start)
    alive = high >= low
    low[~alive], high[~alive] = 0.0, 0.0
    width = np.where(high > low, (high - low) / bins, 1.0)
    place = np.minimum((log - low[feature]) / width[feature], bins - 1).astype(np.int64)
    edges = np.exp(low[:, None] + width[:, None] * np.arange(bins))
    edges[:, 0] = 0.0
    return Binned(unit=unit, code=feature * (bins + 1) + place + 1, edges=edges)
