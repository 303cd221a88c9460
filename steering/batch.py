"""One list of edits for each row: a batch of another size is refused before a layer computes.

How many rows there are is known when a pass begins, and no sooner. The edits themselves may sit
in the last layer, which is far too late to say so.
"""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from lm.hookpoint import HookPoint
from lm.step import Step
from lm.tap import Edit
from steering.errors import InterventionError

BEGINNING = HookPoint(0, "resid_pre")
"""The embedded tokens: the first place at which a batch can be seen."""


def refused_early(
    edits: Mapping[HookPoint, Edit], n_lists: int, copies: int
) -> dict[HookPoint, Edit]:
    """The edits, and at the beginning of every text a look at how many rows there are.

    Raises, at that place:
        InterventionError: the batch has another number of rows than there are lists.
    """
    given = edits.get(BEGINNING)

    def counted(
        resid: Float[Tensor, "batch pos d_model"], step: Step
    ) -> Float[Tensor, "batch pos d_model"]:
        if step.pass_index == 0:
            require_a_list_a_row(step.n_rows, n_lists, copies)
        return resid if given is None else given(resid, step)

    return {BEGINNING: counted, **{point: edits[point] for point in edits if point != BEGINNING}}


def require_a_list_a_row(n_rows: int, n_lists: int, copies: int) -> None:
    """Raises InterventionError unless there is a list for each row that was expanded."""
    if n_rows != n_lists * copies:
        copied = f" of {copies} copies each" if copies > 1 else ""
        raise InterventionError(
            f"a batch of {n_rows} rows and {n_lists} lists of edits{copied}; "
            "expected one list a row; give as many lists as rows, and say copies=n where "
            "generate expands each row into n (num_beams, or num_return_sequences)"
        )
