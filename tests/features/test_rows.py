"""Shifted pieces, runs and contexts stay within their document."""

from __future__ import annotations

import numpy as np
import pytest

from features.rows import CONTEXT_TOKENS, NO_PIECE, Rows
from features.vocab import Vocab

VOCAB = Vocab(tuple("abcdef"), (True,) * 6)


def rows(*texts: str) -> Rows:
    doc = np.concatenate([np.full(len(text), i) for i, text in enumerate(texts)])
    return Rows(
        doc=doc,
        pos=np.concatenate([np.arange(len(text)) for text in texts]),
        token_id=np.array(["abcdef".index(c) for c in "".join(texts)]),
        is_special=np.zeros(len(doc), dtype=bool),
        vocab=VOCAB,
    )


def test_pieces_beyond_a_document_are_no_pieces() -> None:
    made = rows("ab", "cd")
    assert made.piece_at(-1).tolist() == [NO_PIECE, 0, NO_PIECE, 2]
    assert made.piece_at(1).tolist() == [1, NO_PIECE, 3, NO_PIECE]
    assert made.piece_at(0).tolist() == [0, 1, 2, 3]
    assert made.n_docs == 2


def test_a_run_is_spelled_back_from_its_key() -> None:
    made = rows("abcab")
    keys, place = made.runs(2)
    spelled = [made.pieces_of_run(int(key), 2) for key in keys[place]]
    assert spelled == [(NO_PIECE, 0), (0, 1), (1, 2), (2, 0), (0, 1)]
    assert made.run_counts(2)[place].tolist() == [1, 2, 1, 1, 2]


def test_a_run_without_its_oldest_piece_is_the_shorter_run() -> None:
    made = rows("abcab")
    longer, place = made.runs(3)
    shorter, short_place = made.runs(2)
    assert made.without_oldest(longer[place], 3).tolist() == shorter[short_place].tolist()


def test_runs_do_not_cross_documents() -> None:
    assert not rows("ab", "ca").ends_run([(1, 2)], 0).any()
    assert rows("ab", "ca").ends_run([(2, 0)], 1).tolist() == [False, False, True, False]


@pytest.mark.parametrize("patterns", [[(5, 5)], [(4,)]])
def test_a_run_that_never_occurs_is_found_nowhere(patterns: list[tuple[int, ...]]) -> None:
    assert not rows("abc").ends_run(patterns, 0).any()


def test_repetition_starts_anew_in_each_document() -> None:
    assert rows("aba", "ab").is_repeated.tolist() == [False, False, True, False, False]


def test_contexts_are_stretches_of_one_document() -> None:
    made = rows("a" * (CONTEXT_TOKENS + 3), "b" * 4)
    window = made.window
    assert np.bincount(window).tolist() == [CONTEXT_TOKENS, 3, 4]
    assert (np.diff(window) >= 0).all()


def test_no_rows_have_no_documents() -> None:
    empty = np.zeros(0, dtype=np.int64)
    made = Rows(doc=empty, pos=empty, token_id=empty, is_special=empty > 0, vocab=VOCAB)
    assert (len(made), made.n_docs) == (0, 0)
