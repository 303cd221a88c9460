from __future__ import annotations

import numpy as np
import pytest

from pipelines.trial.cells import (
    Cell,
    Key,
    Resampling,
    cell,
    frontier_rows,
    holm_of_lifts,
    score_rows,
    with_tax,
)
from pipelines.trial.scoring import Baseline, Scores, Texts
from pipelines.trial.summary import dose_rows, frontier_summary, summary
from steering.fluency import FluencyReference
from steering.tax import Tax

HOW = Resampling(draws=200, permutations=2000, seed=0)
BUDGET = "dce=0.1"
RNG = np.random.default_rng(0)


def made(
    concept: str,
    method: str,
    level: float,
    budget: str | None = BUDGET,
    coefficient: float | None = 0.5,
) -> Cell:
    values = np.clip(level + 0.05 * RNG.normal(size=32), 0, 1)
    per_prompt = {
        "concept": values,
        "preservation": np.full(32, 0.9),
        "fluency": np.full(32, 0.95),
        "hm": values,
        "lift": values - 0.1,
    }
    single = {"off_target_max": 0.1, "off_target_mean": 0.02, "delta_ce": 0.11}
    return Cell(Key(concept, method, budget, coefficient), per_prompt, single)


@pytest.fixture
def cells() -> list[Cell]:
    found = []
    for concept in ("sea", "sad"):
        found.append(made(concept, "none", 0.1, None, None))
        found.append(made(concept, "prompt", 0.6, None, None))
        for method, level in (
            ("label", 0.4),
            ("causal", 0.8 if concept == "sea" else 0.85),
            ("random_feature", 0.12),
        ):
            found.append(made(concept, method, level * 0.5, "dce=0.05", 0.25))
            found.append(made(concept, method, level))
            found.append(made(concept, method, level, None, 1.0))
    return found


def test_a_cell_averages_samples_and_measures_lift_against_its_own_prompts() -> None:
    texts = Texts(
        prompt_ids=np.array([4, 4, 9]),
        seeds=np.array([0, 1, 0]),
        prompts=["a"] * 3,
        texts=["a b"] * 3,
        ids=[np.arange(3)] * 3,
        nats=[np.ones(3, dtype=np.float32)] * 3,
    )
    ones = np.ones(3)
    scores = Scores(
        np.array([1.0, 0.0, 1.0]), ones, ones, ones, np.array([[1, 0.3], [0, 0.3], [1, 0]])
    )
    base = Baseline(
        "sea",
        np.array([4, 9]),
        np.zeros((2, 2), dtype=bool),
        np.array([[0.25, 0.1], [0.5, 0.1]]),
        FluencyReference(1.0, 0.1, 1.0, 0.0),
    )
    others = np.array([False, True])
    found = cell(Key("sea", "causal", BUDGET, 1.0), texts, scores, base, others=others, target=0)
    assert found.per_prompt["concept"].tolist() == [0.5, 1.0]
    assert found.per_prompt["lift"].tolist() == [0.25, 0.5]
    assert found.single["off_target_max"] == pytest.approx(0.1)


def test_the_tax_joins_the_metrics_that_have_one_value() -> None:
    found = with_tax(made("sea", "causal", 0.5), Tax(0.2, 0.3, 1.1, 0.9, 100))
    assert found.single["delta_ce"] == 0.2
    assert found.single["agreement"] == 0.9
    assert found.single["off_target_max"] == 0.1


def test_a_clear_lift_is_significant_after_holm_and_the_controls_are_not_tested(
    cells: list[Cell],
) -> None:
    found = holm_of_lifts([one for one in cells if one.key.budget], HOW)
    assert {key.method for key in found} == {"label", "causal"}
    assert all(p < 0.01 for key, p in found.items() if key.method == "causal")
    assert len(found) == 8


def test_every_score_stands_beside_the_random_features(cells: list[Cell]) -> None:
    rows = score_rows(cells, HOW)
    [row] = [
        row
        for row in rows
        if row["direction_id"] == "sea/causal" and row["metric"] == "hm" and row["budget"] == BUDGET
    ]
    assert row["lo"] <= row["value"] <= row["hi"]
    assert row["null_value"] == pytest.approx(0.12, abs=0.05)
    assert row["n"] == 32
    assert {row["metric"] for row in rows} >= {"p_holm", "spearman", "anti_steerable", "delta_ce"}


def test_reliability_is_of_the_budgets_with_the_unsteered_texts_as_dose_zero(
    cells: list[Cell],
) -> None:
    rows = [row for row in score_rows(cells, HOW) if row["metric"] == "spearman"]
    by_arm = {row["direction_id"]: row["value"] for row in rows}
    assert by_arm["sea/causal"] == pytest.approx(1.0)
    assert by_arm["sea/causal"] > by_arm["sea/random_feature"]


def test_the_frontier_holds_budgets_only(cells: list[Cell]) -> None:
    rows = frontier_rows(cells, HOW)
    assert {row["budget"] for row in rows} == {"dce=0.05", BUDGET}
    assert {row["source"] for row in rows} == {"label", "causal", "random_feature"}
    assert {row["metric"] for row in rows} == {
        "hm",
        "concept",
        "preservation",
        "fluency",
        "delta_ce",
    }


def test_the_summary_compares_at_equal_cost_and_states_reach_beside_each_aim(
    cells: list[Cell],
) -> None:
    found = summary(cells, HOW)
    best = found["budgets"][BUDGET]["causal"]
    assert best["share_c80"] in (0.5, 1.0)
    assert best["hm_lo"] <= best["hm"] <= best["hm_hi"]
    against = found["causal_against_label"][BUDGET]
    assert against["hm"]["lo"] > 0
    assert against["hm_p"] < 0.01
    assert against["lift_ratio"]["value"] == pytest.approx((0.825 - 0.12) / (0.4 - 0.12), rel=0.2)
    assert against["concepts_better"] == 2
    assert found["aims"]["causal_over_label_lift"]["aim"] == 1.5
    assert found["aims"]["median_off_target"]["value"] == pytest.approx(0.02)
    assert found["unsteered"]["delta_ce"] == pytest.approx(0.11)


def test_a_method_that_is_missing_is_left_out_not_scored_zero(cells: list[Cell]) -> None:
    found = summary(cells, HOW)
    assert "diff_mean" not in found["budgets"][BUDGET]
    assert found["causal_against_diff_mean"][BUDGET] == {}


def test_undefined_numbers_are_null_in_the_summary() -> None:
    import json

    one = made("sea", "causal", 0.5)
    nan = Cell(one.key, {**one.per_prompt, "preservation": np.full(32, np.nan)}, one.single)
    found = summary([nan], HOW)
    assert found["budgets"][BUDGET]["causal"]["preservation"] is None
    json.dumps(found, allow_nan=False)


def test_plots_have_a_row_a_method_and_dose(cells: list[Cell]) -> None:
    frontier, dose = frontier_summary(cells, HOW), dose_rows(cells, HOW)
    assert [row["budget"] for row in frontier if row["method"] == "causal"] == [0.05, 0.1]
    assert [row["coefficient"] for row in dose] == [1.0, 1.0, 1.0]
    assert dose[1]["lo"] <= dose[1]["value"] <= dose[1]["hi"]
