"""Every feature that fires often enough is named and scored; test documents decide nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest

from features.concept_tables import concept_table
from features.errors import LabelError
from features.label_summary import summarise_labels
from features.label_tables import (
    candidate_table,
    input_label_id,
    label_table,
    output_label_id,
    score_table,
    withheld_table,
)
from features.labels import (
    Chosen,
    LabelConfig,
    Scored,
    check_withheld,
    choose_labels,
    output_rules,
    score_labels,
)
from features.probe import ProbeScore
from features.rule_json import from_json
from features.rules import ConceptRule, PromotedTokens
from features.scoring import Scorer
from store.schema import conform
from tests.features.planted import (
    D_SAE,
    DEAD,
    FARM,
    NUMBER,
    PIECES,
    RANDOM,
    RARE,
    SEA,
    VOCAB,
    World,
    evidence_of,
    make_world,
    neighbours,
)

CONFIG = LabelConfig(bootstrap=50)
WORLD = make_world()


def choose(world: World, config: LabelConfig = CONFIG) -> Chosen:
    label, train, score = evidence_of(world, "label", "train", "score")
    return choose_labels(label, train, score, config)


CHOSEN = choose(WORLD)
(TEST,) = evidence_of(WORLD, "test")
SCORER = Scorer(TEST, neighbours(), bootstrap=50, seed=0)
SCORED = score_labels(CHOSEN.choices, CHOSEN.slugs, SCORER)
WITHHELD = score_labels(CHOSEN.withheld, CHOSEN.withheld_slugs, SCORER)
CHECKS = check_withheld(CHOSEN, TEST)
OUTPUTS = output_rules(np.tile(np.arange(9), (D_SAE, 1)), [s.choice.feature for s in SCORED])


def scored(feature: int) -> Scored:
    return next(one for one in SCORED if one.choice.feature == feature)


def test_exactly_the_features_with_enough_firings_are_labelled() -> None:
    labelled = [choice.feature for choice in CHOSEN.choices]
    assert labelled == [f for f in range(D_SAE) if f not in (DEAD, RARE)]
    assert [choice.feature for choice in CHOSEN.withheld] == labelled


def test_a_concepts_best_feature_has_the_bare_name() -> None:
    assert CHOSEN.named_by == {"sea": SEA, "farm": FARM, "number": NUMBER}
    for concept, feature in CHOSEN.named_by.items():
        assert scored(feature).slug == concept
        assert isinstance(scored(feature).choice.rule, ConceptRule)


def test_slugs_are_unique_and_no_other_feature_takes_a_concepts_name() -> None:
    assert len(set(CHOSEN.slugs)) == len(CHOSEN.slugs)
    others = [s.slug for s in SCORED if s.choice.feature not in CHOSEN.named_by.values()]
    assert not {"sea", "farm", "number"} & set(others)


def test_a_random_feature_is_weak_and_planted_ones_are_not() -> None:
    assert scored(RANDOM).is_weak
    assert not any(scored(feature).is_weak for feature in (SEA, FARM, NUMBER, 1, 2, 4))


def test_without_concepts_the_rule_still_finds_them() -> None:
    assert {check.concept for check in CHECKS} == {"sea", "farm", "number"}
    assert all(check.f1 is not None and check.f1 > 0.9 for check in CHECKS)


def test_withholding_can_be_left_out() -> None:
    chosen = choose(WORLD, LabelConfig(withheld=False))
    assert chosen.withheld == ()
    assert check_withheld(chosen, TEST) == ()
    assert [c.rule for c in chosen.choices] == [c.rule for c in CHOSEN.choices]


def test_a_marker_in_test_documents_changes_no_rule_and_no_name() -> None:
    marked = choose(make_world(marker=True))
    assert [c.rule for c in marked.choices] == [c.rule for c in CHOSEN.choices]
    assert marked.slugs == CHOSEN.slugs
    assert marked.withheld_slugs == CHOSEN.withheld_slugs
    (test,) = evidence_of(make_world(marker=True), "test")
    scores = Scorer(test, neighbours(), bootstrap=50, seed=0)
    changed = score_labels(marked.choices, marked.slugs, scores)
    assert [s.scores for s in changed] != [s.scores for s in SCORED]


def test_the_choice_refuses_test_documents() -> None:
    label, train, test = evidence_of(WORLD, "label", "train", "test")
    with pytest.raises(LabelError, match="test split was given"):
        choose_labels(label, train, test, CONFIG)


def test_output_rules_are_the_promoted_pieces() -> None:
    assert OUTPUTS[SEA] == PromotedTokens(tuple(range(8)))
    with pytest.raises(LabelError, match="no promoted pieces"):
        output_rules(np.zeros((D_SAE, 0), dtype=np.int64), [0])


def test_label_rows_fit_the_store_and_their_rules_can_be_executed() -> None:
    rows = conform("label", label_table(SCORED, OUTPUTS, VOCAB, run_id="a")).to_pylist()
    assert len(rows) == 2 * len(SCORED)
    assert len({row["slug"] for row in rows}) == len({row["label_id"] for row in rows}) == len(rows)
    for row in rows:
        rule = from_json(json.loads(row["rule"]))
        assert isinstance(rule, PromotedTokens) == (row["side"] == "output")
        assert row["name"].startswith("weak: ") == (row["status"] == "weak")
        assert (row["status"] == "unscored") == (row["side"] == "output")
    sea = next(row for row in rows if row["label_id"] == input_label_id(SEA))
    assert sea["text"].startswith("Fires on documents with the concept sea")
    assert "without concepts: " in sea["text"]
    said = next(row for row in rows if row["label_id"] == output_label_id(SEA))
    assert said["text"].startswith("Promotes '<bos>', 'the'")


def test_score_rows_are_of_the_test_split_and_undefined_ones_have_a_reason() -> None:
    table = conform("label_score", score_table(SCORED, OUTPUTS, run_id="a", seed=0))
    rows = table.to_pylist()
    assert {row["split"] for row in rows} == {"test"}
    for row in rows:
        assert (row["value"] is None) == (row["reason"] is not None)
    assert {row["metric"] for row in rows} == {
        *("detection", "fuzzing", "f1", "coverage", "purity", "auroc", "output_score"),
    }


def test_concept_rows_cover_every_pair_on_score_and_on_test() -> None:
    alive = np.ones(D_SAE, dtype=bool)
    alive[DEAD] = False
    table = concept_table(CHOSEN.readings, TEST, alive, run_id="a")
    rows = conform("feature_concept", table).to_pylist()
    pairs = [
        {(row["feature_id"], row["concept_id"]) for row in rows if row["split"] == split}
        for split in ("score", "test")
    ]
    assert len(pairs[0]) == 3 * (D_SAE - 1)
    assert pairs[0] == pairs[1]
    assert len(rows) == 2 * len(pairs[0])
    on_score = [row for row in rows if row["split"] == "score"]
    assert all(0 <= row["q_value"] <= 1 for row in rows)
    significant = {row["feature_id"] for row in on_score if row["q_value"] < 1e-5}
    assert {SEA, FARM, NUMBER} <= significant
    assert RANDOM not in significant


def test_evidence_lists_the_chosen_rule_first() -> None:
    rows = candidate_table(SCORED, run_id="a").to_pylist()
    first = {row["label_id"]: row for row in rows if row["rank"] == 0}
    for one in SCORED:
        row = first[input_label_id(one.choice.feature)]
        assert from_json(json.loads(row["rule"])) == one.choice.rule
        assert row["chosen_on"] == "score"


def test_withheld_rows_name_the_concept_that_was_to_be_found() -> None:
    rows = withheld_table(WITHHELD, CHECKS, VOCAB, run_id="a").to_pylist()
    found = {row["feature_id"]: row for row in rows if row["concept"] is not None}
    expected = {SEA: "sea", FARM: "farm", NUMBER: "number"}
    assert {feature: row["concept"] for feature, row in found.items()} == expected
    assert all(row["finds_concept"] for row in found.values())
    assert not any("concept" in row["rule"] for row in rows)


def test_the_summary_counts_what_the_tables_hold() -> None:
    probes = [ProbeScore("sea", 0.99, 9, 9), ProbeScore("farm", 0.9, 9, 9)]
    summary = summarise_labels(CHOSEN, SCORED, WITHHELD, CHECKS, probes)
    assert summary["labelled"] == len(SCORED) == sum(summary["kinds"].values())
    assert summary["above_null"] == round(1 - np.mean([s.is_weak for s in SCORED]), 4)
    assert (summary["concepts"], summary["concepts_judged"]) == (3, 2)
    assert summary["concepts_tracked"] == 1
    assert summary["tracked_named_well"] == summary["withheld_finds_tracked"] == 1
    assert summary["tracked_not_named_well"] == []
    assert len(PIECES) == len(VOCAB)


def test_a_summary_without_concepts_has_no_shares() -> None:
    summary = summarise_labels(CHOSEN, SCORED, (), (), ())
    assert summary["tracked_named_well"] is None
    assert summary["withheld_above_null"] is None
