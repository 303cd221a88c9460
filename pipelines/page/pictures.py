"""Which pictures the report has: each from a table that an earlier stage wrote."""

from __future__ import annotations

import base64
import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pipelines.errors import require
from pipelines.page import plots

Numbers = Mapping[str, float | str | None]


def draw(slugs: Iterable[str]) -> dict[str, tuple[bytes, str]]:
    """The pictures by name, each as PNG bytes with its caption; one without numbers is left out."""
    steps = {slug: numbers(require(Path(f"plots/train-{slug}.csv"), "train")) for slug in slugs}
    steps = {slug: rows for slug, rows in steps.items() if rows}
    frontier = numbers(require(Path("plots/steering-frontier.csv"), "evaluate"))
    dose = numbers(require(Path("plots/steering-dose.csv"), "evaluate"))
    found = {}
    if steps:
        found["training"] = (
            plots.training(steps),
            "Training: explained variance and the share of latents that have not fired lately.",
        )
    if frontier:
        found["steering-frontier"] = (
            _panels(frontier, "budget", {"value": "HM", "concept": "C, concept", "fluency": "F"}),
            "The frontier: what each method reaches at equal cost. Bands are 95 % intervals of HM "
            "over concepts' prompts; grey lines are controls.",
        )
    if dose:
        found["steering-dose"] = (
            _panels(dose, "coefficient", {"value": "C, concept", "fluency": "F", "hm": "HM"}),
            "Dose and response: the concept rises with the coefficient, fluency pays for it. Bands "
            "are 95 % intervals of C; grey lines are controls.",
        )
    return found


def embedded(pictures: Mapping[str, tuple[bytes, str]], prefix: str) -> list[dict[str, str]]:
    """The pictures whose names begin so, ready to stand inside a page."""
    return [
        {"alt": name, "caption": caption, "data": base64.b64encode(picture).decode("ascii")}
        for name, (picture, caption) in pictures.items()
        if name.startswith(prefix)
    ]


def numbers(path: Path) -> list[dict[str, float | str | None]]:
    """Rows of a CSV, its numbers as floats, an empty cell as None."""
    with path.open(encoding="utf-8", newline="") as lines:
        return [{key: _value(text) for key, text in row.items()} for row in csv.DictReader(lines)]


def _panels(rows: Sequence[Numbers], x: str, titles: Mapping[str, str]) -> bytes:
    panels = [
        (title, plots.curves(rows, name="method", x=x, y=column))
        for column, title in titles.items()
    ]
    if x == "budget":
        return plots.lines(panels, x_label="ΔCE, nats a token", y_label="score", log_x=True)
    return plots.lines(panels, x_label="coefficient, multiples of the mean norm", y_label="score")


def _value(text: str) -> float | str | None:
    if text == "":
        return None
    try:
        return float(text)
    except ValueError:
        return text
