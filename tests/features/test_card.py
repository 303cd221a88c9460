"""A card has what the store knows of a feature, and gaps where it knows nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from features.card import GRADED, SILENT_SHOWN, LabelScore, show
from features.contexts import HARD, TOP
from features.search import Search
from store.schema import write_table
from tests.features.named_store import WORLD, store_of
from tests.features.planted import DEAD, FARM, ON_SHIP, RARE, SEA, SHIP


@pytest.fixture(scope="module")
def con(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    with store_of(tmp_path_factory.mktemp("one"), "main") as connection:
        yield connection


def test_a_card_has_what_the_store_knows(con: duckdb.DuckDBPyConnection) -> None:
    card = show(con, "ship", contexts=4)
    assert card.ref.feature_id == ON_SHIP
    assert [(label.side, label.status) for label in card.labels] == [
        ("input", "ok"),
        ("output", "unscored"),
    ]
    assert card.labels[0].text == "Fires on ship and on water"
    assert card.statistics["n_act"] == len(WORLD.acts[ON_SHIP][0])
    assert card.statistics["logit_footprint"] > 0
    assert len(card.promotes) == len(card.suppresses) == 9
    assert {kind: len(near) for kind, near in card.neighbours.items()} == {
        "dec_cos": 3,
        "coact_jaccard": 3,
        "value_corr": 3,
    }
    assert card.steering == {}


def test_scores_carry_their_interval_and_null_and_an_undefined_one_its_reason(
    con: duckdb.DuckDBPyConnection,
) -> None:
    (detection,), (output,) = (label.scores for label in show(con, "ship").labels)
    assert detection.metric == "detection"
    assert [detection.lo, detection.null_value] == pytest.approx([0.8, 0.5])
    assert (output.metric, output.value, output.reason) == ("output_score", None, "not steered yet")


def test_a_steered_output_label_is_shown_with_its_gain_and_is_found_by_its_new_name(
    tmp_path: Path,
) -> None:
    with store_of(tmp_path, "main") as con:
        own = {"run_id": "main", "feature_id": ON_SHIP, "label_id": 10 * ON_SHIP + 1, "rank": 0}
        words = {"slug": "says-water", "text": "Makes the model say 'water'", "status": "ok"}
        figures = {"value": 2.0, "lo": 1.5, "hi": 2.5, "null_value": 0.25, "other_value": 0.5}
        rows = pa.Table.from_pylist([{**own, **words, **figures, "rule": "{}"}])
        write_table(tmp_path / "data/directions/output_label.parquet", "output_label", rows, {})
        reads, says = show(con, "ship").labels
        assert (reads.slug, says.slug, says.side, says.status) == (
            "ship",
            "says-water",
            "output",
            "ok",
        )
        (gain,) = says.scores
        assert gain == LabelScore("output_gain", 2.0, 1.5, 2.5, 0.5, None)
        (hit,) = Search(con).named("says-water")
        assert (hit.score, hit.null_value) == (2.0, 0.5)
        assert show(con, "says-water").ref.feature_id == ON_SHIP


def test_concepts_carry_their_interval(con: duckdb.DuckDBPyConnection) -> None:
    (reading,) = show(con, str(FARM)).concepts
    assert reading.name == "sea"
    assert [reading.lo, reading.hi] == pytest.approx([0.6, 0.8])


def test_contexts_come_from_several_strata_and_one_document_each(
    con: duckdb.DuckDBPyConnection,
) -> None:
    contexts = show(con, "sea", contexts=4).contexts
    strata = [context.stratum for context in contexts]
    assert strata[:4] == [TOP] * 4
    assert strata[4 : 4 + len(GRADED)] == list(GRADED)
    assert set(strata[4 + len(GRADED) :]) == {HARD}
    assert strata.count(HARD) <= SILENT_SHOWN
    peaks = [piece.value for context in contexts for piece in context.pieces if piece.is_peak]
    assert len(peaks) == len(contexts)
    assert peaks[: 4 + len(GRADED)] == sorted(peaks[: 4 + len(GRADED)], reverse=True)
    assert all((peak == 0) == (s == HARD) for peak, s in zip(peaks, strata, strict=True))


def test_the_strongest_contexts_are_one_of_each_document(con: duckdb.DuckDBPyConnection) -> None:
    contexts = show(con, "sea", contexts=99).contexts
    shown = [context.doc_id for context in contexts if context.stratum == TOP]
    kept = con.execute(
        "SELECT t.doc_id FROM topk AS k JOIN token AS t ON t.tok = k.tok "
        "WHERE k.feature_id = ? AND k.stratum = 0 ORDER BY k.rank",
        [SEA],
    ).fetchall()
    documents = list(dict.fromkeys(row[0] for row in kept))
    assert len(documents) < len(kept)
    assert shown == documents


def test_contexts_carry_every_activation_of_the_feature(con: duckdb.DuckDBPyConnection) -> None:
    values = {WORLD.tokens.doc_id[tok]: 0.0 for tok in WORLD.acts[ON_SHIP][0]}
    for context in show(con, "ship", contexts=3).contexts:
        assert context.doc_id in values
        (peak,) = [piece for piece in context.pieces if piece.is_peak]
        assert peak.text == " ship"
        assert all((piece.value > 0) == (piece.text == " ship") for piece in context.pieces)


def test_a_dead_feature_without_a_name_has_a_card_too(con: duckdb.DuckDBPyConnection) -> None:
    card = show(con, str(DEAD))
    assert (card.labels, card.contexts, card.concepts) == ((), (), ())
    assert card.statistics["is_dead"]
    assert card.promotes
    assert [len(near) for near in card.neighbours.values()] == [3, 0, 0]


def test_a_living_feature_without_a_name_has_its_contexts(con: duckdb.DuckDBPyConnection) -> None:
    card = show(con, str(RARE))
    assert card.labels == ()
    assert card.ref.slug == str(RARE)
    assert TOP in {context.stratum for context in card.contexts}


def test_what_a_row_promotes_is_its_logits_in_order(con: duckdb.DuckDBPyConnection) -> None:
    listed = dict(show(con, "ship").promotes)
    expected = con.execute(
        "SELECT logit FROM logit WHERE feature_id = ? AND side = 'promotes' AND token_id = ?",
        [ON_SHIP, SHIP],
    ).fetchone()
    assert list(listed.values()) == sorted(listed.values(), reverse=True)
    assert expected is None or listed[" ship"] == expected[0]
