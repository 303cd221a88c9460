from __future__ import annotations

from pipelines.page.league import aims, findings, league

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
            "concepts_better": 2,
            "concepts_equal": 1,
            "n_concepts": 4,
        }
    },
    "causal_against_diff_mean": {
        "dce=0.1": {
            "hm": {"value": 0.01, "lo": -0.1, "hi": 0.1},
            "concepts_better": 2,
            "concepts_equal": 0,
            "n_concepts": 4,
        }
    },
    "aims": {
        "median_hm": {"aim": 0.7, "value": 0.71},
        "anti_steerable": {"aim": 0.05, "value": 0.1},
        "causal_over_label_lift": {"aim": 1.5, "value": 1.8, "lo": 1.4, "hi": 2.4},
        "median_off_target": {"aim": 0.05, "value": None},
    },
}


def test_the_league_is_ranked_and_marks_its_controls() -> None:
    rows = league(STEERING)["rows"]
    assert rows[0]["cells"][0] == "causal"
    assert rows[1]["control"]
    assert rows[0]["cells"][1] == "0.70 [0.60, 0.80]"


def test_a_score_that_is_not_defined_is_a_dash_and_never_a_zero() -> None:
    random = next(row for row in league(STEERING)["rows"] if row["cells"][0] == "random")
    assert set(random["cells"][1:]) == {"–"}


def test_a_finding_says_better_only_if_its_interval_lies_above_zero() -> None:
    better, open_question = findings(STEERING)
    assert "better. Of 4 concepts it is ahead on 2, level on 1, behind on 1." in better
    assert "not told apart" in open_question


def test_an_aim_is_met_missed_or_not_defined() -> None:
    verdicts = {row["title"]: row["verdict"] for row in aims(STEERING)}
    assert list(verdicts.values()) == ["met", "met", "not defined", "missed"]
    assert (
        next(row for row in aims(STEERING) if "cause" in row["title"])["interval"] == "[1.40, 2.40]"
    )


def test_a_method_without_a_budget_stands_below_with_its_figures_in_the_first_column() -> None:
    last = league(STEERING)["rows"][-1]
    assert last["control"]
    assert last["cells"][:2] == ["unsteered", "0.10 [0.05, 0.15]"]
