"""Statistics agree with plain counting, and with what SQL over the rows would say."""

from __future__ import annotations

import tracemalloc

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from features.logits import direct_logits
from features.statistics import StatisticsConfig, Summary, burstiness, log_histogram, summarise
from features.tokens import Tokens
from store.schema import conform

D_SAE, D_MODEL = 5, 4


def activations(tokens: Tokens, seed: int = 1) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Features 0 to 3 fire at random on ever more tokens; feature 4 is dead."""
    rng = np.random.default_rng(seed)
    made = []
    for feature, n_act in enumerate((1, 7, 40, 250)):
        tok = np.sort(rng.choice(len(tokens), n_act, replace=False)).astype(np.int64)
        made.append((feature, tok, rng.lognormal(size=n_act).astype(np.float32)))
    return made


def summary(tokens: Tokens, seed: int = 1) -> Summary:
    rng = np.random.default_rng(2)
    W_dec = rng.normal(size=(D_SAE, D_MODEL)).astype(np.float32)
    W_dec /= np.linalg.norm(W_dec, axis=1, keepdims=True)
    return summarise(
        activations(tokens, seed),
        tokens,
        run_id="a",
        d_sae=D_SAE,
        W_enc=-2 * W_dec.T.copy(),
        W_dec=W_dec,
        config=StatisticsConfig(dense_density=0.5, top=5, per_decile=2, silent=3, hard=3),
    )


def test_every_table_has_the_columns_that_the_store_promises(tokens: Tokens) -> None:
    made = summary(tokens)
    for name in ("feature_stats", "feature_hist", "topk"):
        table = getattr(made, name)
        assert conform(name, table).num_rows == table.num_rows
        assert table.column_names == conform(name, table).column_names


def test_memory_follows_the_corpus_and_the_busiest_feature_not_all_activations() -> None:
    n = 20_000
    ids = np.arange(n, dtype=np.int32)
    corpus = Tokens(ids // 100, ids % 100, ids % 500, ids % 100 == 0, np.zeros(n, dtype=np.int8))

    def peak(*n_act: int) -> int:
        W = np.ones((len(n_act), 2), dtype=np.float32)
        fired = (
            (feature, np.arange(n), np.arange(1, n + 1).astype(np.float32))
            for feature, n in enumerate(n_act)
        )
        tracemalloc.start()
        summarise(fired, corpus, run_id="a", d_sae=len(n_act), W_enc=W.T, W_dec=W)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(100)
    busy = peak(5_000, *[300] * 15)
    assert peak(*[5_000] * 16) / busy < 1.2
    assert peak(20_000, *[300] * 15) / busy > 1.5, "a feature is in memory whole, one at a time"


def test_moments_agree_with_sql_over_the_same_rows(tokens: Tokens) -> None:
    made = summary(tokens).feature_stats.to_pylist()
    rows = [
        (feature, int(t), float(v), int(tokens.doc_id[t]))
        for feature, tok, value in activations(tokens)
        for t, v in zip(tok, value, strict=True)
        if not tokens.is_special[t]
    ]
    act = pa.table([list(c) for c in zip(*rows, strict=True)], names=["f", "tok", "v", "doc"])
    with duckdb.connect() as con:
        con.register("act", act)
        expected = con.execute(
            "SELECT f, count(*), count(DISTINCT doc), max(v), avg(v), stddev_pop(v), "
            "quantile_cont(v, .5), quantile_cont(v, .9) FROM act GROUP BY f ORDER BY f"
        ).fetchall()
    assert len(expected) == 4
    for feature, n_act, n_docs, high, mean, spread, p50, p90 in expected:
        row = made[feature]
        assert (row["n_act"], row["n_docs"]) == (n_act, n_docs)
        figures = [row[k] for k in ("max_value", "mean_value", "std_value", "p50", "p90")]
        np.testing.assert_allclose(figures, [high, mean, spread, p50, p90], rtol=1e-6)
        assert row["density"] == pytest.approx(n_act / 360)


def test_a_dead_feature_has_a_row_with_nulls_and_a_dense_one_is_flagged(tokens: Tokens) -> None:
    made = summary(tokens).feature_stats.to_pylist()
    assert made[4]["is_dead"]
    assert made[4]["n_act"] == 0
    assert made[4]["density"] == 0
    assert made[4]["max_value"] is None
    assert made[4]["token_entropy"] is None
    assert [row["is_dense"] for row in made] == [False, False, False, True, False]
    assert [row["is_dead"] for row in made] == [False] * 4 + [True]


def test_encoder_and_decoder_are_compared_by_cosine(tokens: Tokens) -> None:
    made = summary(tokens).feature_stats
    np.testing.assert_allclose(made["dec_norm"], 1, rtol=1e-6)
    np.testing.assert_allclose(made["enc_dec_cos"], -1, rtol=1e-6)


def test_what_a_row_does_to_the_logits_stands_beside_it_and_is_null_where_unknown(
    tokens: Tokens,
) -> None:
    W_dec = np.array([[1, 0], [0, 0], [0, 2]], dtype=np.float32)
    unembedding = np.array([[2, 0], [0, 4], [0, 0], [1, 1]], dtype=np.float32)
    logits = direct_logits(W_dec, np.ones(2, dtype=np.float32), unembedding, run_id="a")
    given, unknown = (
        summarise(
            [], tokens, run_id="a", d_sae=3, W_enc=W_dec.T.copy(), W_dec=W_dec, logits=known
        ).feature_stats
        for known in (logits, None)
    )
    for name, column in (("footprint", logits.footprint), ("kurtosis", logits.kurtosis)):
        found = given[f"logit_{name}"].to_pylist()
        assert found[1] is None
        assert [found[0], found[2]] == [column[0], column[2]]
        assert unknown[f"logit_{name}"].to_pylist() == [None, None, None]


def test_special_tokens_count_nowhere(tokens: Tokens) -> None:
    only_special = np.flatnonzero(tokens.is_special).astype(np.int64)
    made = summarise(
        [(0, only_special, np.ones(len(only_special), dtype=np.float32))],
        tokens,
        run_id="a",
        d_sae=1,
        W_enc=np.ones((2, 1), dtype=np.float32),
        W_dec=np.ones((1, 2), dtype=np.float32),
    )
    assert made.feature_stats["is_dead"].to_pylist() == [True]
    assert made.topk.num_rows == 0
    assert made.feature_hist.num_rows == 0


def test_a_second_run_gives_equal_tables(tokens: Tokens) -> None:
    first, second = summary(tokens), summary(tokens)
    assert first.topk.equals(second.topk)
    assert first.feature_stats.equals(second.feature_stats)


@settings(deadline=None)
@given(
    value=arrays(np.float32, st.integers(1, 40), elements=st.floats(0.0078125, 1000, width=32)),
    bins=st.integers(1, 40),
)
def test_a_histogram_counts_every_value_once_between_its_extremes(
    value: np.ndarray, bins: int
) -> None:
    edges, count = log_histogram(value, bins)
    assert count.sum() == len(value)
    assert len(edges) == bins + 1
    assert edges[0] == value.min()
    assert edges[-1] >= value.max()
    assert (np.diff(edges) > 0).all()


def test_firings_in_one_document_are_burstier_than_one_in_each() -> None:
    lengths = np.full(100, 10)
    clumped = burstiness(n_act=10, n_docs=1, lengths=lengths)
    spread = burstiness(n_act=10, n_docs=10, lengths=lengths)
    assert clumped == pytest.approx(10 * spread)
    assert spread == pytest.approx(1, abs=0.06)


def test_histogram_rows_sum_to_the_number_of_firings(tokens: Tokens) -> None:
    made = summary(tokens)
    by_feature = made.feature_hist.group_by("feature_id").aggregate([("n", "sum")])
    n_act = made.feature_stats["n_act"].to_pylist()
    for row in by_feature.to_pylist():
        assert row["n_sum"] == n_act[row["feature_id"]]
