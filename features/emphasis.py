"""Which of a rule's pieces come first: those that carry most of the feature's activation.

A name says the first pieces of its rule, and a reader expects them where the feature fires most
strongly. The order of a set changes nothing of what the rule says.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from features.rows import Rows
from features.rules import Both, Either, NGram, Rule, TokenSet


def strongest_first(
    rule: Rule,
    rows: Rows,
    row: Int[np.ndarray, " act"],
    value: Float[np.ndarray, " act"],
) -> Rule:
    """The same rule, its pieces or runs by the fourth power of the activation where they hold.

    A plain sum is led by what fires often and weakly: docs/log.md has the shares of the strongest
    contexts that the first piece then says.

    Args:
        rows: the documents that the rule was made from.
        row: where the feature fires in them.
        value: its activations there.
    """
    weight = (value / value.max()).astype(np.float64) ** 4
    match rule:
        case TokenSet(token_ids, offset):
            runs = tuple((piece,) for piece in token_ids)
            ordered = _ordered(runs, rows, row, weight, offset)
            return TokenSet(tuple(piece for (piece,) in ordered), offset)
        case NGram(patterns, ahead):
            return NGram(_ordered(patterns, rows, row, weight, ahead), ahead)
        case Both(left, right):
            return Both(
                strongest_first(left, rows, row, value), strongest_first(right, rows, row, value)
            )
        case Either(left, right):
            return Either(
                strongest_first(left, rows, row, value), strongest_first(right, rows, row, value)
            )
        case _:
            return rule


def _ordered(
    runs: tuple[tuple[int, ...], ...],
    rows: Rows,
    row: Int[np.ndarray, " act"],
    weight: Float[np.ndarray, " act"],
    end: int,
) -> tuple[tuple[int, ...], ...]:
    """Runs that end `end` places on, by the weight of the tokens that they hold at."""

    if len(runs) == 1:
        return runs
    back_to = range(max(len(run) for run in runs))
    piece_at = [rows.piece_at(end - back)[row] for back in back_to]

    def carried(run: tuple[int, ...]) -> float:
        holds = piece_at[0] == run[-1]
        for back, piece in enumerate(run[-2::-1], start=1):
            holds &= piece_at[back] == piece
        return float(weight[holds].sum())

    return tuple(sorted(runs, key=carried, reverse=True))
