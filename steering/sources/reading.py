"""The stream of some texts at one hook point, as rows that a source can average.

Special tokens and position 0 are left out, as they are everywhere in steering.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, assert_never

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lm.collect import collect
from lm.hookpoint import HookPoint
from lm.model import LanguageModel
from steering.errors import DirectionError

Pooling: TypeAlias = Literal["last", "mean", "all"]
"""One row a text, from its last token or the mean of its tokens; or one row a token."""

BATCH_TOKENS = 8192


def read_tokens(
    lm: LanguageModel, texts: Sequence[str], hook_point: str, *, batch_tokens: int = BATCH_TOKENS
) -> tuple[Int[Tensor, " token"], Float[Tensor, "token d_model"]]:
    """(number of the text, stream in float32) of every ordinary token, in order.

    Raises:
        DirectionError: there are no texts, or a text has no token besides special ones.
    """
    point = HookPoint.parse(hook_point)
    documents = [(number, lm.encode(text)) for number, text in enumerate(texts)]
    numbers, rows = [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0, lm.d_model)]
    for batch in collect(lm, documents, [point], batch_tokens=batch_tokens):
        ordinary = torch.from_numpy(~batch.is_special)
        numbers.append(torch.from_numpy(batch.doc_id).long()[ordinary])
        rows.append(torch.from_numpy(batch.resid[point]).float()[ordinary])
    number = torch.cat(numbers)
    absent = sorted(set(range(len(texts))) - set(number.tolist()))
    if absent or not texts:
        what = f"text {absent[0]}, {texts[absent[0]]!r}," if absent else "an empty list"
        raise DirectionError(
            f"{what} has no token besides special ones and the first; expected texts of two tokens "
            "or more; leave it out or write more"
        )
    return number, torch.cat(rows)


def read_texts(
    lm: LanguageModel, texts: Sequence[str], hook_point: str, pooling: Pooling
) -> Float[Tensor, "row d_model"]:
    """Rows of the stream: one a text for `last` and `mean`, one a token for `all`.

    Raises:
        DirectionError: there are no texts, or a text has no token besides special ones.
    """
    number, rows = read_tokens(lm, texts, hook_point)
    return pooled(number, rows, pooling)


def pooled(
    number: Int[Tensor, " token"], rows: Float[Tensor, "token d_model"], pooling: Pooling
) -> Float[Tensor, "row d_model"]:
    """Tokens gathered into rows; the tokens of a text stand together, in order."""
    match pooling:
        case "all":
            return rows
        case "last":
            is_last = torch.ones_like(number, dtype=torch.bool)
            is_last[:-1] = number[1:] != number[:-1]
            return rows[is_last]
        case "mean":
            _, group, count = torch.unique_consecutive(
                number, return_inverse=True, return_counts=True
            )
            total = torch.zeros(len(count), rows.shape[1], dtype=torch.float64)
            total.index_add_(0, group, rows.double())
            mean: Tensor = total / count[:, None]
            return mean.float()
        case _:
            assert_never(pooling)


def mean_norm_of(rows: Float[Tensor, "row d_model"]) -> float:
    """Mean length of the rows, in the stream's units."""
    return float(rows.double().norm(dim=1).mean())
