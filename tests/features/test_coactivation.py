"""Neighbour scores equal the dense computation that memory would not allow at size."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from features import coactivation
from features.coactivation import TokenChunk, coactivation_neighbours
from features.tokens import SPLITS, Tokens
from store.schema import conform

D_SAE = 6


def dense_acts(tokens: Tokens) -> np.ndarray:
    rng = np.random.default_rng(4)
    acts = rng.lognormal(size=(len(tokens), D_SAE)) * (rng.random((len(tokens), D_SAE)) < 0.4)
    acts[:, 1] = np.where(rng.random(len(tokens)) < 0.9, 2 * acts[:, 0], 0)
    return acts.astype(np.float32)


def chunks(acts: np.ndarray, size: int) -> Callable[[], Iterable[TokenChunk]]:
    return lambda: cut(acts, size)


def cut(acts: np.ndarray, size: int) -> Iterator[TokenChunk]:
    for start in range(0, len(acts), size):
        tok, feature = np.nonzero(acts[start : start + size])
        value = acts[start : start + size][tok, feature]
        yield (tok + start).astype(np.int64), feature.astype(np.int32), value


def usable(tokens: Tokens) -> np.ndarray:
    return np.asarray((tokens.split != SPLITS.index("test")) & ~tokens.is_special)


def test_jaccard_and_correlation_equal_the_dense_ones(tokens: Tokens) -> None:
    acts = dense_acts(tokens)
    table = coactivation_neighbours(chunks(acts, 50), tokens, run_id="a", d_sae=D_SAE, k=D_SAE)
    rows = {
        (r["kind"], r["feature_id"], r["other_id"]): r["score"]
        for r in conform("neighbour", table).to_pylist()
    }
    seen = acts[usable(tokens)]
    assert not seen.any(axis=1).all(), "a token on which nothing fires counts as well"
    fires = seen > 0
    for a in range(D_SAE):
        for b in range(D_SAE):
            if a == b:
                assert ("coact_jaccard", a, b) not in rows
                continue
            jaccard = (fires[:, a] & fires[:, b]).sum() / (fires[:, a] | fires[:, b]).sum()
            assert rows["coact_jaccard", a, b] == pytest.approx(jaccard, rel=1e-5)
            corr = np.corrcoef(seen[:, a], seen[:, b])[0, 1]
            assert rows["value_corr", a, b] == pytest.approx(corr, abs=1e-5)


@pytest.mark.parametrize("most", [1, 10, 300])
@pytest.mark.parametrize("d_sae", [D_SAE, 5000])
def test_cutting_the_chunks_and_the_pairs_changes_nothing(
    tokens: Tokens, monkeypatch: pytest.MonkeyPatch, most: int, d_sae: int
) -> None:
    """Summed by sorting where cells outnumber the pairs by far, and else in one dense array."""
    acts = dense_acts(tokens)
    whole = coactivation_neighbours(chunks(acts, 400), tokens, run_id="a", d_sae=D_SAE)
    monkeypatch.setattr(coactivation, "_MOST_AT_ONCE", most)
    pieces = coactivation_neighbours(chunks(acts, 7), tokens, run_id="a", d_sae=d_sae)
    whole, pieces = conform("neighbour", whole), conform("neighbour", pieces)
    assert whole.drop_columns("score").equals(pieces.drop_columns("score"))
    np.testing.assert_allclose(whole["score"], pieces["score"], rtol=1e-6)


def test_a_sample_holds_no_more_activations_than_it_may(
    tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where few features fire on a token, activations are many for their pairs."""
    held: list[int] = []
    read = coactivation._Sample.of

    def counting(*args: Any) -> coactivation._Sample:
        sample = read(*args)
        held.append(len(sample.feature))
        return sample

    monkeypatch.setattr(coactivation._Sample, "of", counting)
    acts = dense_acts(tokens)
    for most in (10**6, 100):
        monkeypatch.setattr(coactivation, "_MOST_HELD", most)
        coactivation_neighbours(chunks(acts, 50), tokens, run_id="a", d_sae=D_SAE)
    firing = (acts[usable(tokens)] > 0).sum(axis=1)
    assert held[0] == firing[firing > 1].sum() > 500
    assert 50 < held[1] < 150


def test_memory_does_not_grow_with_the_activations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight times the tokens, all with many pairs, cost a byte or two a token and no more."""
    monkeypatch.setattr(coactivation, "_MOST_AT_ONCE", 20_000)
    d_sae, at_once, per_token = 512, 500, 16

    def generated(n: int) -> Iterator[TokenChunk]:
        for start in range(0, n, at_once):
            rng = np.random.default_rng(start)
            feature = rng.integers(0, d_sae // per_token, (at_once, per_token))
            feature += np.arange(0, d_sae, d_sae // per_token)
            tok = np.repeat(np.arange(start, start + at_once), per_token)
            yield tok, feature.ravel().astype(np.int32), np.ones(len(tok), dtype=np.float32)

    def peak(n: int) -> int:
        ids, none = np.arange(n, dtype=np.int32), np.zeros(n, dtype=bool)
        corpus = Tokens(ids, ids, ids, none, np.zeros(n, dtype=np.int8))
        tracemalloc.start()
        coactivation_neighbours(
            lambda: generated(n), corpus, run_id="a", d_sae=d_sae, max_pairs=200_000
        )
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(2_000)
    few, many = peak(4_000), peak(32_000)
    assert many / few < 1.15
    assert many < 32_000 * per_token * 16, "less than the activations themselves"


def test_documents_of_the_test_split_are_passed_over(tokens: Tokens) -> None:
    acts = dense_acts(tokens)
    planted = acts.copy()
    test = tokens.split == SPLITS.index("test")
    planted[test] = 99.0
    clean = coactivation_neighbours(chunks(acts, 50), tokens, run_id="a", d_sae=D_SAE)
    marked = coactivation_neighbours(chunks(planted, 50), tokens, run_id="a", d_sae=D_SAE)
    assert clean.equals(marked)


def test_scores_equal_what_sql_says_of_the_same_activations(tokens: Tokens) -> None:
    acts = dense_acts(tokens)
    table = coactivation_neighbours(chunks(acts, 50), tokens, run_id="a", d_sae=D_SAE, k=D_SAE)
    tok, feature = np.nonzero(acts * usable(tokens)[:, None])
    act = pa.table({"tok": tok, "feature_id": feature, "value": acts[tok, feature].astype(float)})
    with duckdb.connect() as con:
        con.register("act", act)
        rows = con.execute(
            """
            WITH each AS (FROM act SELECT feature_id, count(*) AS n GROUP BY feature_id)
            SELECT a.feature_id, b.feature_id,
                   count(*) / (any_value(i.n) + any_value(j.n) - count(*))
            FROM act AS a JOIN act AS b ON b.tok = a.tok AND b.feature_id <> a.feature_id
            JOIN each AS i ON i.feature_id = a.feature_id
            JOIN each AS j ON j.feature_id = b.feature_id
            GROUP BY ALL
            """
        ).fetchall()
    found = {
        (row["feature_id"], row["other_id"]): row["score"]
        for row in table.to_pylist()
        if row["kind"] == "coact_jaccard"
    }
    assert len(rows) == len(found) == D_SAE * (D_SAE - 1)
    for first, second, jaccard in rows:
        assert found[first, second] == pytest.approx(jaccard, rel=1e-6)


def score_of(table: pa.Table, kind: str, first: int, second: int) -> float:
    (row,) = [
        row
        for row in table.to_pylist()
        if (row["kind"], row["feature_id"], row["other_id"]) == (kind, first, second)
    ]
    return float(row["score"])


def test_a_sample_of_the_tokens_is_drawn_from_all_of_the_corpus() -> None:
    """Two features share every token of the first half and none of the second."""
    n = 8000
    corpus = Tokens(
        doc_id=np.zeros(n, dtype=np.int32),
        pos=np.arange(n, dtype=np.int32),
        token_id=np.zeros(n, dtype=np.int32),
        is_special=np.zeros(n, dtype=bool),
        split=np.zeros(n, dtype=np.int8),
    )
    acts = np.zeros((n, 3), dtype=np.float32)
    acts[:, 0] = 1
    acts[: n // 2, 1] = 1
    acts[n // 2 :, 2] = 1

    def jaccard(seed: int, max_pairs: int) -> float:
        table = coactivation_neighbours(
            chunks(acts, 500), corpus, run_id="a", d_sae=3, max_pairs=max_pairs, seed=seed
        )
        return score_of(table, "coact_jaccard", 0, 1)

    assert jaccard(0, n) == 0.5
    drawn = [jaccard(seed, n // 10) for seed in range(20)]
    assert len(set(drawn)) > 10
    standard_error = 0.5 / np.sqrt(n / 10)
    assert np.mean(drawn) == pytest.approx(0.5, abs=3 * standard_error / np.sqrt(20))
    assert np.std(drawn) == pytest.approx(standard_error, rel=0.5)


def test_a_draw_is_the_same_again_and_however_the_chunks_are_cut(tokens: Tokens) -> None:
    acts = dense_acts(tokens)
    first, again, other = (
        coactivation_neighbours(
            chunks(acts, size), tokens, run_id="a", d_sae=D_SAE, max_pairs=100, seed=seed
        )
        for size, seed in ((50, 3), (7, 3), (50, 4))
    )
    assert first.equals(again)
    assert not first.equals(other)


def test_no_activation_gives_no_neighbour(tokens: Tokens) -> None:
    assert coactivation_neighbours(list, tokens, run_id="a", d_sae=D_SAE).num_rows == 0
