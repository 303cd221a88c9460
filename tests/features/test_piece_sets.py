"""Sets of pieces looked up together say what each of them says alone."""

from __future__ import annotations

import numpy as np

from features.piece_sets import PieceSets
from features.rules import TokenSet, fires
from features.tally import Tally
from tests.features.planted import SHIP, THE, A, documents_of, make_world

ROWS = documents_of(make_world(), "label").rows
SETS = [TokenSet((SHIP,), -1), TokenSet((THE, A, THE), -1), TokenSet((A,), -1)]


def test_each_set_is_counted_and_looked_up_as_it_is_executed() -> None:
    tally, sets = Tally(ROWS), PieceSets(SETS)
    row = np.flatnonzero(~ROWS.is_special)
    executed = np.stack([fires(rule, ROWS)[row] for rule in SETS])
    assert executed.any(axis=1).all()
    np.testing.assert_array_equal(sets.holding(ROWS.piece_at(-1)[row]), executed)
    np.testing.assert_array_equal(sets.said(tally.total(-1)), executed.sum(axis=1))


def test_a_piece_that_no_set_lists_is_in_none() -> None:
    unlisted = np.array([max(SHIP, THE, A) + 1, -1])
    assert not PieceSets(SETS).holding(unlisted).any()
