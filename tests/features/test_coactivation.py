"""Neighbour scores equal the dense computation that memory would not allow at size."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from features import coactivation
from features.coactivation import coactivation_neighbours
from features.tokens import SPLITS, Tokens
from store.schema import conform

D_SAE = 6


def dense_acts(tokens: Tokens) -> np.ndarray:
    rng = np.random.default_rng(4)
    acts = rng.lognormal(size=(len(tokens), D_SAE)) * (rng.random((len(tokens), D_SAE)) < 0.4)
    acts[:, 1] = np.where(rng.random(len(tokens)) < 0.9, 2 * acts[:, 0], 0)
    return acts.astype(np.float32)


def chunks(acts: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
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
    seen = seen[seen.any(axis=1)]
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


@pytest.mark.parametrize("flush", [10, D_SAE**2])
def test_chunking_and_merging_change_nothing(
    tokens: Tokens, monkeypatch: pytest.MonkeyPatch, flush: int
) -> None:
    """Merged by sorting where pairs outnumber the bound, and else in one dense array."""
    acts = dense_acts(tokens)
    whole = coactivation_neighbours(chunks(acts, 400), tokens, run_id="a", d_sae=D_SAE)
    monkeypatch.setattr(coactivation, "_FLUSH_PAIRS", flush)
    pieces = coactivation_neighbours(chunks(acts, 7), tokens, run_id="a", d_sae=D_SAE)
    assert whole.drop_columns("score").equals(pieces.drop_columns("score"))
    np.testing.assert_allclose(whole["score"], pieces["score"], rtol=1e-6)


def test_documents_of_the_test_split_are_passed_over(tokens: Tokens) -> None:
    acts = dense_acts(tokens)
    planted = acts.copy()
    test = tokens.split == SPLITS.index("test")
    planted[test] = 99.0
    clean = coactivation_neighbours(chunks(acts, 50), tokens, run_id="a", d_sae=D_SAE)
    marked = coactivation_neighbours(chunks(planted, 50), tokens, run_id="a", d_sae=D_SAE)
    assert clean.equals(marked)


def test_counting_stops_at_its_bound(tokens: Tokens) -> None:
    asked: list[int] = []

    def watched() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        for chunk in chunks(dense_acts(tokens), 10):
            asked.append(1)
            yield chunk

    coactivation_neighbours(watched(), tokens, run_id="a", d_sae=D_SAE, max_pairs=1)
    assert len(asked) == 1


def test_no_activation_gives_no_neighbour(tokens: Tokens) -> None:
    assert coactivation_neighbours([], tokens, run_id="a", d_sae=D_SAE).num_rows == 0
