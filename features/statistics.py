"""Statistics of every latent, from one pass over its activations in feature order.

Density, moments, percentiles, histogram and burstiness describe the rows of `act`,
whatever their split: they are what SQL over all activations would say. The pass also
collects the contexts that people look at (features/contexts.py). Nothing here looks at
labels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int

from features.contexts import ContextPicker
from features.logits import DirectLogits
from features.tokens import Tokens

Activations = tuple[int, np.ndarray, np.ndarray]
"""One feature: its index, the tokens where it fires in ascending order, and its values."""


@dataclass(frozen=True, slots=True)
class StatisticsConfig:
    """How features are summarised."""

    dense_density: float = 0.1
    """A feature that fires on a larger share of tokens is called dense."""
    hist_bins: int = 32
    """Bins of the histogram, equal in the logarithm of the value."""
    top: int = 20
    """Contexts of the largest activations."""
    per_decile: int = 3
    """Contexts from each of the nine lower tenths of the activations."""
    silent: int = 8
    """Random tokens on which the feature is silent."""
    hard: int = 8
    """Silent tokens that carry a piece on which the feature's top contexts fire."""
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Summary:
    """The three tables that one pass over the activations gives."""

    feature_stats: pa.Table
    feature_hist: pa.Table
    topk: pa.Table


def summarise(
    features: Iterable[Activations],
    tokens: Tokens,
    *,
    run_id: str,
    d_sae: int,
    W_enc: Float[np.ndarray, "d_model d_sae"],
    W_dec: Float[np.ndarray, "d_sae d_model"],
    logits: DirectLogits | None = None,
    config: StatisticsConfig = StatisticsConfig(),
) -> Summary:
    """Statistics, histogram and contexts of every feature, dead ones included.

    Special tokens are left out of every figure; a density is a share of the others.

    Args:
        features: each feature at most once, in any order.
        run_id: the SAE's slug, the first column of each table.
        logits: what the decoder rows do to the logits; NULL in the table where not given.
    """
    lengths = _document_lengths(tokens)
    n_real = int(lengths.sum())
    columns = _empty_columns(d_sae)
    columns["dec_norm"] = np.linalg.norm(W_dec, axis=1)
    columns["enc_dec_cos"] = _cosine(W_enc.T, W_dec)
    if logits is not None:
        columns["logit_footprint"], columns["logit_kurtosis"] = logits.footprint, logits.kurtosis
    picker = ContextPicker(
        tokens,
        top=config.top,
        per_decile=config.per_decile,
        silent=config.silent,
        hard=config.hard,
        seed=config.seed,
    )
    hist: list[tuple[int, Float[np.ndarray, " edge"], Int[np.ndarray, " bin"]]] = []
    for feature, all_tok, all_value in features:
        keep = ~tokens.is_special[all_tok]
        tok, value = all_tok[keep], all_value[keep]
        if len(tok) == 0:
            continue
        for name, figure in _figures(tok, value, tokens, lengths).items():
            columns[name][feature] = figure
        hist.append((feature, *log_histogram(value, config.hist_bins)))
        picker.add(feature, tok, value)
    columns["density"] = columns["n_act"] / max(n_real, 1)
    columns["is_dead"] = columns["n_act"] == 0
    columns["is_dense"] = columns["density"] > config.dense_density
    return Summary(
        feature_stats=_stats_table(columns, run_id),
        feature_hist=_hist_table(hist, config.hist_bins, run_id),
        topk=picker.table(run_id),
    )


def _document_lengths(tokens: Tokens) -> Int[np.ndarray, " doc"]:
    """Tokens of each document, special ones left out; documents follow one another in a corpus."""
    docs = tokens.doc_id[~tokens.is_special]
    bounds = np.flatnonzero(docs[1:] != docs[:-1]) + 1
    return np.diff(bounds, prepend=0, append=len(docs)) if len(docs) else bounds


def _figures(
    tok: Int[np.ndarray, " act"],
    value: Float[np.ndarray, " act"],
    tokens: Tokens,
    lengths: Int[np.ndarray, " doc"],
) -> dict[str, int | float]:
    """The figures of one living feature."""
    wide = value.astype(np.float64)
    p50, p90, p99 = np.percentile(wide, [50, 90, 99])
    count = np.bincount(tokens.token_id[tok])
    share = count[count > 0] / len(tok)
    docs = tokens.doc_id[tok]
    n_docs = 1 + int(np.count_nonzero(docs[1:] != docs[:-1]))
    return {
        "n_act": len(tok),
        "n_docs": n_docs,
        "max_value": float(wide.max()),
        "mean_value": float(wide.mean()),
        "std_value": float(wide.std()),
        "p50": float(p50),
        "p90": float(p90),
        "p99": float(p99),
        "top_token_share": float(share.max()),
        "token_entropy": float(-(share * np.log2(share)).sum()),
        "burstiness": burstiness(len(tok), n_docs, lengths),
    }


def burstiness(n_act: int, n_docs: int, lengths: Int[np.ndarray, " doc"]) -> float:
    """Firings a document where it fires, over what chance would give; about 1 is chance.

    Chance scatters the same firings over all tokens alike, so that a document of L tokens
    stays silent with probability (1 − density)^L. Large values are features of a topic.
    """
    density = n_act / lengths.sum()
    length, count = np.unique(lengths, return_counts=True)
    by_chance = (count * (1 - (1 - density) ** length)).sum()
    return float(by_chance / n_docs)


def log_histogram(
    value: Float[np.ndarray, " act"], bins: int
) -> tuple[Float[np.ndarray, " edge"], Int[np.ndarray, " bin"]]:
    """Edges and counts of positive values, in `bins` equal steps of their logarithm."""
    low, high = float(value.min()), float(value.max())
    if low == high:
        high = np.nextafter(np.float32(high), np.float32(np.inf))
    edges = np.geomspace(low, high, bins + 1)
    edges[0], edges[-1] = low, high
    place = np.searchsorted(edges, value.astype(np.float64), side="right") - 1
    return edges, np.bincount(np.clip(place, 0, bins - 1), minlength=bins)


def _cosine(
    left: Float[np.ndarray, "d_sae d_model"], right: Float[np.ndarray, "d_sae d_model"]
) -> Float[np.ndarray, " d_sae"]:
    """Row-wise cosine; 0 where a row is zero."""
    length = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    dot: np.ndarray = np.einsum("fd,fd->f", left, right)
    cosine: np.ndarray = np.divide(dot, length, out=np.zeros_like(dot), where=length > 0)
    return cosine


_COUNTS = ("n_act", "n_docs")
_MOMENTS = ("max_value", "mean_value", "std_value", "p50", "p90", "p99")
_SHAPES = ("top_token_share", "token_entropy", "burstiness")
_LOGITS = ("logit_footprint", "logit_kurtosis")
_ORDER = (
    *("n_act", "n_docs", "density"),
    *_MOMENTS,
    *("is_dead", "is_dense", "dec_norm", "enc_dec_cos"),
    *_SHAPES,
    *_LOGITS,
)


def _empty_columns(d_sae: int) -> dict[str, np.ndarray]:
    columns: dict[str, np.ndarray] = {name: np.zeros(d_sae, dtype=np.int64) for name in _COUNTS}
    for name in (*_MOMENTS, *_SHAPES, *_LOGITS):
        columns[name] = np.full(d_sae, np.nan)
    return columns


def _stats_table(columns: dict[str, np.ndarray], run_id: str) -> pa.Table:
    """A figure that is undefined (a dead feature's mean) is NULL, never NaN."""
    d_sae = len(columns["n_act"])
    arrays = {
        "run_id": pa.array([run_id] * d_sae, pa.string()),
        "feature_id": pa.array(np.arange(d_sae, dtype=np.int32)),
    }
    for name in _ORDER:
        arrays[name] = pa.array(columns[name], from_pandas=True)
    return pa.table(arrays)


def _hist_table(hist: list[tuple[int, np.ndarray, np.ndarray]], bins: int, run_id: str) -> pa.Table:
    feature = np.repeat([entry[0] for entry in hist], bins)
    edges = np.array([entry[1] for entry in hist]).reshape(len(hist), bins + 1)
    counts = np.array([entry[2] for entry in hist]).reshape(-1)
    return pa.table(
        {
            "run_id": pa.array([run_id] * len(feature), pa.string()),
            "feature_id": pa.array(feature.astype(np.int32)),
            "bin": pa.array(np.tile(np.arange(bins), len(hist)).astype(np.int8)),
            "lo": pa.array(edges[:, :-1].reshape(-1).astype(np.float32)),
            "hi": pa.array(edges[:, 1:].reshape(-1).astype(np.float32)),
            "n": pa.array(counts.astype(np.int64)),
        }
    )
