from pathlib import Path

import pytest

from pipelines import report

STEERING = {
    "budgets": {
        "dce=0.1": {
            "causal": {
                "hm": 0.7,
                "hm_lo": 0.6,
                "hm_hi": 0.8,
                "concept": 0.8,
                "preservation": 0.9,
                "fluency": 0.7,
                "delta_ce": 0.1,
            },
            "random": {"hm": None, "hm_lo": None, "hm_hi": None},
        }
    },
    "unsteered": {"hm": 0.1, "hm_lo": 0.05, "hm_hi": 0.15, "concept": 0.1},
    "prompt": {},
    "causal_against_label": {
        "dce=0.1": {
            "hm": {"value": 0.2, "lo": 0.1, "hi": 0.3},
            "concepts_better": 3,
            "n_concepts": 4,
        }
    },
    "causal_against_diff_mean": {
        "dce=0.1": {
            "hm": {"value": 0.01, "lo": -0.1, "hi": 0.1},
            "concepts_better": 2,
            "n_concepts": 4,
        }
    },
}


def test_the_league_is_ranked_and_marks_its_controls() -> None:
    rows = report._league(STEERING)["rows"]
    assert rows[0]["cells"][0] == "causal"
    assert rows[1]["control"]
    assert rows[0]["cells"][1] == "0.70 [0.60, 0.80]"


def test_a_score_that_is_not_defined_is_a_dash_and_never_a_zero() -> None:
    random = next(row for row in report._league(STEERING)["rows"] if row["cells"][0] == "random")
    assert set(random["cells"][1:]) == {"–"}


def test_a_finding_says_better_only_if_its_interval_lies_above_zero() -> None:
    better, open_question = report._findings(STEERING)
    assert "better; " in better
    assert "not told apart" in open_question


def test_numbers_of_a_plot_read_empty_cells_as_none(tmp_path: Path) -> None:
    path = tmp_path / "plot.csv"
    path.write_text("method,value\ncausal,0.5\nrandom,\n")
    assert report._numbers(path) == [
        {"method": "causal", "value": 0.5},
        {"method": "random", "value": None},
    ]


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "<|bos|> & <b>"])
def test_text_of_corpus_and_model_is_escaped(text: str) -> None:
    from jinja2 import Environment, FileSystemLoader

    page = Environment(loader=FileSystemLoader(report.TEMPLATES), autoescape=True)
    html = page.get_template("report.html.j2").render(
        model=text,
        title=text,
        subtitle="",
        runs=[],
        names=[],
        cards=[],
        figures={"sae": [], "steering": []},
        league={"columns": [text], "rows": [], "note": ""},
        findings=[],
        samples=[{"title": text, "rows": [{"prompt": text, "base": text, "steered": text}]}],
        samples_note="",
    )
    assert text not in html
    assert "&lt;" in html
