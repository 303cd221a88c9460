"""What decoder rows promote, suppress and lie near."""

from __future__ import annotations

import numpy as np
import pytest

from features import logits
from features.logits import decoder_neighbours, decoder_table, logit_table
from store.schema import conform

D_SAE, D_MODEL, VOCAB = 7, 5, 11


def rows(seed: int = 0) -> np.ndarray:
    W_dec = np.random.default_rng(seed).normal(size=(D_SAE, D_MODEL)).astype(np.float32)
    return np.asarray(W_dec / np.linalg.norm(W_dec, axis=1, keepdims=True))


def test_a_row_promotes_the_piece_whose_unembedding_it_is() -> None:
    rng = np.random.default_rng(1)
    unembedding = rng.normal(size=(VOCAB, D_MODEL)).astype(np.float32)
    unembedding[3] *= 10
    W_dec = (unembedding[3] / np.linalg.norm(unembedding[3]))[None]
    norm_weight = np.ones(D_MODEL, dtype=np.float32)
    table = logit_table(W_dec, norm_weight, unembedding, run_id="a", k=4)
    best = [r for r in table.to_pylist() if r["side"] == "promotes" and r["rank"] == 0]
    assert [r["token_id"] for r in best] == [3]


def test_logits_are_the_dense_product_centred_over_the_vocabulary(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logits, "_CHUNK", 3)
    rng = np.random.default_rng(2)
    unembedding = rng.normal(size=(VOCAB, D_MODEL)).astype(np.float32)
    norm_weight = rng.random(D_MODEL).astype(np.float32)
    dense = (rows() * norm_weight) @ unembedding.T
    dense -= dense.mean(axis=1, keepdims=True)
    table = conform("logit", logit_table(rows(), norm_weight, unembedding, run_id="a", k=VOCAB))
    assert table.num_rows == 2 * D_SAE * VOCAB
    order = {"promotes": np.argsort(-dense, axis=1), "suppresses": np.argsort(dense, axis=1)}
    for r in table.to_pylist():
        assert r["token_id"] == order[r["side"]][r["feature_id"], r["rank"]]
        assert r["logit"] == pytest.approx(dense[r["feature_id"], r["token_id"]], abs=1e-5)


def test_more_pieces_than_the_vocabulary_has_are_not_asked_for() -> None:
    ones = np.ones(D_MODEL, dtype=np.float32)
    table = logit_table(rows(), ones, np.eye(D_MODEL, dtype=np.float32), run_id="a", k=50)
    assert max(table["rank"].to_pylist()) == D_MODEL - 1


def test_decoder_rows_come_back_bit_for_bit() -> None:
    table = conform("decoder", decoder_table(rows(), run_id="a"))
    assert np.array_equal(np.array(table["vec"].to_pylist(), dtype=np.float32), rows())


def test_neighbours_by_cosine_leave_the_row_itself_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logits, "_CHUNK", 2)
    table = conform("neighbour", decoder_neighbours(3 * rows(), run_id="a", k=D_SAE - 1))
    cosine = rows() @ rows().T
    for r in table.to_pylist():
        assert r["feature_id"] != r["other_id"]
        assert r["score"] == pytest.approx(cosine[r["feature_id"], r["other_id"]], abs=1e-5)
    first = [r["other_id"] for r in table.to_pylist() if r["rank"] == 0]
    np.fill_diagonal(cosine, -2)
    assert first == cosine.argmax(axis=1).tolist()


def test_a_zero_row_is_near_nothing() -> None:
    W_dec = rows()
    W_dec[2] = 0
    table = decoder_neighbours(W_dec, run_id="a", k=2)
    scores = [r["score"] for r in table.to_pylist() if r["feature_id"] == 2]
    assert scores == [0, 0]
