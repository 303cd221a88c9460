from __future__ import annotations

from pathlib import Path

from pipelines.page.pictures import numbers


def test_numbers_of_a_plot_read_empty_cells_as_none(tmp_path: Path) -> None:
    path = tmp_path / "plot.csv"
    path.write_text("method,value\ncausal,0.5\nrandom,\n")
    assert numbers(path) == [
        {"method": "causal", "value": 0.5},
        {"method": "random", "value": None},
    ]
