"""The report's pictures: drawn from small tables, the same bytes for the same rows."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CONTROLS = ("random", "random_feature")
COLOURS = ("#0b5f8a", "#d67800", "#2f8f4e", "#8a3fa0", "#c0392b", "#566573", "#b7950b", "#117a65")


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a plot: points in order, with an interval around each where it is known."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    lo: Sequence[float] | None = None
    hi: Sequence[float] | None = None

    @property
    def is_control(self) -> bool:
        """Whether the line is a null that the others must beat."""
        return self.name in CONTROLS


def curves(
    rows: Sequence[Mapping[str, Any]], *, name: str, x: str, y: str = "value"
) -> list[Curve]:
    """Rows of a table as lines, one a value of the column `name`; empty values are left out.

    The columns `lo` and `hi` are the interval of the column `value`, and of no other.
    """
    names = sorted({row[name] for row in rows}, key=lambda text: (text in CONTROLS, text))
    found = []
    for one in names:
        mine = sorted(
            (row for row in rows if row[name] == one and row[y] is not None), key=lambda row: row[x]
        )
        if mine:
            has_interval = y == "value" and all(row.get("lo") is not None for row in mine)
            found.append(
                Curve(
                    name=one,
                    x=[row[x] for row in mine],
                    y=[row[y] for row in mine],
                    lo=[row["lo"] for row in mine] if has_interval else None,
                    hi=[row["hi"] for row in mine] if has_interval else None,
                )
            )
    return found


def lines(
    panels: Sequence[tuple[str, Sequence[Curve]]],
    *,
    x_label: str,
    y_label: str,
    log_x: bool = False,
) -> bytes:
    """Panels side by side, each a title and its curves, as PNG bytes."""
    figure = _figure(len(panels))
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    names = list(dict.fromkeys(curve.name for _, curves in panels for curve in curves))
    for axis, (title, drawn) in zip(axes, panels, strict=True):
        for curve in drawn:
            _draw(axis, curve, COLOURS[names.index(curve.name) % len(COLOURS)])
        axis.set_title(title, fontsize=10, loc="left")
        axis.set_xlabel(x_label, fontsize=9)
        if log_x:
            marks = sorted({x for curve in drawn for x in curve.x})
            axis.set_xscale("log")
            axis.set_xticks(marks, [f"{mark:g}" for mark in marks])
            axis.minorticks_off()
    axes[0].set_ylabel(y_label, fontsize=9)
    axes[-1].legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return _png(figure)


def _draw(axis: Axes, curve: Curve, colour: str) -> None:
    colour = "#9aa5b1" if curve.is_control else colour
    style = {"random": "--", "random_feature": ":"}.get(curve.name, "-")
    axis.plot(curve.x, curve.y, style, color=colour, marker="o", ms=3, lw=1.6, label=curve.name)
    if curve.lo is not None and curve.hi is not None:
        axis.fill_between(curve.x, curve.lo, curve.hi, color=colour, alpha=0.12, lw=0)


def training(steps: Mapping[str, Sequence[Mapping[str, Any]]]) -> bytes:
    """Explained variance and share of dead latents by step, a line an SAE, as PNG bytes."""
    figure = _figure(2)
    axes = figure.subplots(1, 2)
    for i, (slug, rows) in enumerate(steps.items()):
        colour = COLOURS[i % len(COLOURS)]
        x = [row["step"] for row in rows]
        for axis, column in zip(axes, ("explained_variance", "dead"), strict=True):
            axis.plot(x, [row[column] for row in rows], color=colour, lw=1.6, label=slug)
    for axis, title in zip(axes, ("explained variance", "share of dead latents"), strict=True):
        axis.set_title(title, fontsize=10, loc="left")
        axis.set_xlabel("training step", fontsize=9)
    axes[0].set_ylim(top=1.0)
    axes[1].set_ylim(bottom=0.0)
    axes[1].legend(fontsize=8, frameon=False)
    return _png(figure)


def _figure(panels: int) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(4.2 * panels + 1.6, 3.6), dpi=110, layout="constrained")


def _png(figure: Figure) -> bytes:
    for axis in figure.axes:
        axis.grid(color="#e6eaee", lw=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    sink = io.BytesIO()
    figure.savefig(sink, format="png", metadata={"Software": None})
    return sink.getvalue()
