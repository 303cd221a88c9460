"""Documents come out as rows, in order, whatever batches they ran in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lm import HookPoint, LanguageModel
from lm.collect import Collected, batches_by_length, collect
from lm.errors import ContextOverflow, HookPointError, TokenizerMismatch

PRE, MID, POST = HookPoint(0, "resid_pre"), HookPoint(1, "resid_mid"), HookPoint(1)


def documents(lengths: list[int], seed: int = 0) -> list[tuple[int, list[int]]]:
    rng = np.random.default_rng(seed)
    return [(10 + i, [1, *rng.integers(0, 320, n - 1).tolist()]) for i, n in enumerate(lengths)]


def joined(batches: list[Collected]) -> Collected:
    return Collected(
        np.concatenate([batch.doc_id for batch in batches]),
        np.concatenate([batch.pos for batch in batches]),
        np.concatenate([batch.token_id for batch in batches]),
        np.concatenate([batch.is_special for batch in batches]),
        {p: np.concatenate([batch.resid[p] for batch in batches]) for p in batches[0].resid},
    )


@settings(max_examples=8)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=8),
    batch_tokens=st.sampled_from([1, 16, 64, 4096]),
)
def test_every_token_of_every_document_comes_once_and_in_order(
    tiny_lm: LanguageModel, lengths: list[int], batch_tokens: int
) -> None:
    docs = documents(lengths)
    rows = joined(list(collect(tiny_lm, docs, [PRE], batch_tokens)))
    assert rows.doc_id.tolist() == [d for d, ids in docs for _ in ids]
    assert rows.pos.tolist() == [pos for _, ids in docs for pos in range(len(ids))]
    assert rows.token_id.tolist() == [i for _, ids in docs for i in ids]
    special = [pos == 0 or i in (0, 1, 2) for _, ids in docs for pos, i in enumerate(ids)]
    assert rows.is_special.tolist() == special


def test_rows_are_the_stream_of_the_document_run_alone(tiny_lm: LanguageModel) -> None:
    docs = documents([5, 17, 1, 9, 17, 30])
    rows = joined(list(collect(tiny_lm, docs, [PRE, MID, POST], batch_tokens=40)))
    for doc_id, ids in docs:
        states = tiny_lm.model(
            input_ids=torch.tensor([ids]), output_hidden_states=True
        ).hidden_states
        mine = rows.doc_id == doc_id
        np.testing.assert_allclose(rows.resid[PRE][mine], states[0][0], rtol=1e-5, atol=1e-6)
        normed = tiny_lm.final_norm(torch.from_numpy(rows.resid[POST][mine]))
        np.testing.assert_allclose(normed, states[2][0], rtol=1e-4, atol=1e-5)
    assert rows.resid[MID].dtype == np.float32


def test_equal_calls_give_equal_bytes(tiny_lm: LanguageModel) -> None:
    docs = documents([5, 17, 9, 30, 12])
    one, two = (joined(list(collect(tiny_lm, docs, [POST], batch_tokens=32))) for _ in range(2))
    assert one.resid[POST].tobytes() == two.resid[POST].tobytes()


def test_another_batch_size_changes_no_more_than_rounding(tiny_lm: LanguageModel) -> None:
    docs = documents([5, 17, 9, 30, 12])
    one, two = (joined(list(collect(tiny_lm, docs, [POST], n))) for n in (1, 4096))
    np.testing.assert_allclose(one.resid[POST], two.resid[POST], rtol=1e-4, atol=1e-5)


def test_layers_after_the_last_hook_point_do_not_run(tiny_lm: LanguageModel) -> None:
    ran: list[int] = []
    handle = tiny_lm.blocks[1].register_forward_hook(lambda *_: ran.append(1))
    list(collect(tiny_lm, documents([5]), [HookPoint(0)], batch_tokens=32))
    handle.remove()
    assert not ran


def test_rows_arrive_before_all_documents_have_been_read(tiny_lm: LanguageModel) -> None:
    asked: list[int] = []

    def endless() -> Any:
        for i in range(10_000):
            asked.append(i)
            yield i, [1] * 30

    next(iter(collect(tiny_lm, endless(), [PRE], batch_tokens=64)))
    assert len(asked) < 50


@given(lengths=st.lists(st.integers(1, 50), max_size=30), batch_tokens=st.integers(1, 200))
def test_batches_hold_each_sequence_once_and_no_more_than_their_tokens(
    lengths: list[int], batch_tokens: int
) -> None:
    batches = list(batches_by_length(lengths, batch_tokens))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        padded = len(batch) * max(lengths[i] for i in batch)
        assert padded <= batch_tokens or len(batch) == 1


def test_documents_that_the_model_cannot_read_are_named(tiny_lm: LanguageModel) -> None:
    with pytest.raises(ContextOverflow, match="document 7 has 65 tokens; expected 1 to 64"):
        list(collect(tiny_lm, [(7, [1] * 65)], [PRE], 4096))
    with pytest.raises(ContextOverflow, match="document 3 has 0 tokens"):
        list(collect(tiny_lm, [(3, [])], [PRE], 4096))
    with pytest.raises(TokenizerMismatch, match="ids go from 1 to 320"):
        list(collect(tiny_lm, [(3, [1, 320])], [PRE], 4096))
    with pytest.raises(HookPointError, match="beyond"):
        list(collect(tiny_lm, documents([3]), [HookPoint(2)], 4096))
