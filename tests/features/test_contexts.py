"""Every stratum holds what its name says."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from features.contexts import HARD, SILENT, TOP, ContextPicker, contains
from features.tokens import SPLITS, Tokens


def picked(tokens: Tokens, n_act: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[Any]]:
    rng = np.random.default_rng(3)
    real = np.flatnonzero(~tokens.is_special)
    tok = np.sort(rng.choice(real, n_act, replace=False))
    value = rng.lognormal(size=n_act).astype(np.float32)
    picker = ContextPicker(tokens, top=5, per_decile=2, silent=4, hard=4, seed=seed)
    picker.add(7, tok, value)
    return tok, value, picker.table("a").to_pylist()


def test_the_top_stratum_is_the_largest_values_in_order(tokens: Tokens) -> None:
    tok, value, rows = picked(tokens, 60)
    top = [row for row in rows if row["stratum"] == TOP]
    assert [row["tok"] for row in top] == tok[np.argsort(-value)[:5]].tolist()
    assert [row["rank"] for row in top] == list(range(5))


def test_tenths_are_graded_from_the_weakest_and_never_repeat_the_top(tokens: Tokens) -> None:
    _, value, rows = picked(tokens, 60)
    edges = np.quantile(value, np.arange(11) / 10, method="inverted_cdf")
    tops = {row["tok"] for row in rows if row["stratum"] == TOP}
    for row in rows:
        if 1 <= row["stratum"] <= 9:
            assert row["tok"] not in tops
            assert edges[row["stratum"] - 1] <= row["value"] <= edges[row["stratum"]] + 1e-6


def test_silent_and_hard_tokens_do_not_fire_and_hard_ones_share_a_top_piece(
    tokens: Tokens,
) -> None:
    tok, _, rows = picked(tokens, 60)
    tops = {tokens.token_id[row["tok"]] for row in rows if row["stratum"] == TOP}
    strata = [row["stratum"] for row in rows]
    assert strata.count(SILENT) == 4
    assert strata.count(HARD) == 4
    for row in rows:
        if row["stratum"] in (SILENT, HARD):
            assert row["tok"] not in tok
            assert row["value"] == 0
            assert not tokens.is_special[row["tok"]]
        if row["stratum"] == HARD:
            assert tokens.token_id[row["tok"]] in tops
        assert row["split"] == SPLITS[tokens.split[row["tok"]]]


def test_a_feature_with_one_firing_has_one_top_context(tokens: Tokens) -> None:
    tok, _, rows = picked(tokens, 1)
    assert [row["tok"] for row in rows if row["stratum"] < SILENT] == tok.tolist()


def test_a_feature_that_never_rests_has_no_silent_contexts(tokens: Tokens) -> None:
    n_real = int((~tokens.is_special).sum())
    _, _, rows = picked(tokens, n_real)
    assert all(row["stratum"] < SILENT for row in rows)


def test_the_seed_decides_the_sample(tokens: Tokens) -> None:
    assert picked(tokens, 60, seed=0)[2] == picked(tokens, 60, seed=0)[2]
    assert picked(tokens, 60, seed=0)[2] != picked(tokens, 60, seed=1)[2]


@settings(deadline=None)
@given(st.sets(st.integers(0, 50)), st.lists(st.integers(0, 50)))
def test_contains_is_membership(held: set[int], wanted: list[int]) -> None:
    ascending = np.array(sorted(held), dtype=np.int64)
    found = contains(ascending, np.array(wanted, dtype=np.int64))
    assert found.tolist() == [number in held for number in wanted]
