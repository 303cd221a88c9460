"""What `tiller import dashboard` prints: where another tool's dashboards and the store agree."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from features.exchange.compare import Agreement
    from features.exchange.dashboard_file import Batch
    from features.exchange.page import RunFacts

_PIPE_COLUMNS = 160
"""Width of the table where it goes into a file or a pipe."""


def print_agreement(batch: Batch, facts: RunFacts, found: Sequence[Agreement]) -> None:
    """Whose features are compared, a line a field, and what the store has no place for."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_COLUMNS)
    first = batch.features[0]
    console.print(
        _clean(
            f"theirs: {len(batch.features)} features of {batch.model_id}, layer {batch.layer}, "
            f"{batch.sae_set}, on {first.n_prompts:,} prompts of {first.dataset}"
        )
    )
    console.print(
        _clean(
            f"ours: {facts.model}, layer {facts.layer}, {facts.run_id}, on {facts.n_docs:,} "
            f"documents of {facts.corpus}"
        )
    )
    if batch.layer != facts.layer:
        console.print("the layers differ: these are features of different autoencoders")
    table = Table("field", "agree", "apart (median)", "most apart", "theirs", "ours", box=None)
    for one in found:
        table.add_row(one.field, *_cells(one))
    console.print(table)
    unheld = sorted({name for feature in batch.features for name in feature.unheld})
    if unheld:
        console.print(_clean(f"not compared, the store has no place for: {', '.join(unheld)}"))


def _cells(one: Agreement) -> tuple[str, ...]:
    worst, median = one.worst, one.median
    if worst is None or median is None:
        return ("on one side only", "", "", "", "")
    feature, difference = worst
    counted = (f"{one.n_agree} of {len(one.by_feature)}", f"{median:.3f} {one.measure}")
    if difference.size == 0:
        return (*counted, "", "", "")
    return (
        *counted,
        f"{feature}: {difference.size:.3f}",
        _clean(difference.theirs),
        _clean(difference.ours),
    )


def _clean(text: str) -> str:
    """A stranger's text on one line, without control characters and markup."""
    from features.exchange.fields import one_line

    return escape(one_line(text))
