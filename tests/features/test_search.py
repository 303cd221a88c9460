"""Features are found by name, concept, label and promoted piece, and shown on one card."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from features.card import show
from features.errors import AmbiguousFeature, UnknownFeature, WeakFeature
from features.search import resolve, search
from store.catalog import open as open_store
from store.catalog import write_catalog
from store.schema import write_table
from tests.features.planted import (
    DEAD,
    FARM,
    HOOK_POINT,
    ON_SHIP,
    RANDOM,
    SEA,
    SHIP,
    make_world,
    write_workspace,
)

WORLD = make_world(n_docs=60)
NAMES = {SEA: ("sea", "ok"), FARM: ("farm", "ok"), ON_SHIP: ("ship", "ok"), RANDOM: ("odd", "weak")}


def write_labels(folder: Path, runs: tuple[str, ...]) -> None:
    labels, scores, readings = [], [], []
    for run in runs:
        for feature, (slug, status) in NAMES.items():
            own = {"run_id": run, "label_id": 10 * feature}
            text = f"Fires on {slug} and on water"
            words = {"name": slug, "slug": slug, "text": text, "status": status, "rule": "{}"}
            labels.append({**own, "feature_id": feature, **words, "side": "input"})
            figures = {"metric": "detection", "value": 0.9, "lo": 0.8, "hi": 0.95}
            scores.append({**own, **figures, "null_value": 0.5, "split": "test"})
        reading = {"feature_id": FARM, "concept_id": 0, "auroc": 0.7, "split": "score"}
        readings.append({"run_id": run, **reading})
    for name, rows in (("label", labels), ("label_score", scores), ("feature_concept", readings)):
        write_table(folder / f"{name}.parquet", name, pa.Table.from_pylist(rows), {})


def store_of(folder: Path, *runs: str) -> duckdb.DuckDBPyConnection:
    for run in runs:
        if not (folder / "data/corpus").exists():
            write_workspace(WORLD, folder, run)
        else:
            write_workspace(WORLD, folder.parent / f"other-{run}", run)
            source = folder.parent / f"other-{run}" / "data/features" / run
            source.rename(folder / "data/features" / run)
    write_catalog(folder)
    write_labels(folder / "data/labels", runs)
    return open_store(folder)


@pytest.fixture(scope="module")
def con(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    with store_of(tmp_path_factory.mktemp("one"), "main") as connection:
        yield connection


@pytest.mark.parametrize(
    ("name", "feature", "slug"),
    [
        ("sea", SEA, "sea"),
        ("main/sea", SEA, "sea"),
        (str(SEA), SEA, "sea"),
        (f"main/{DEAD}", DEAD, str(DEAD)),
        (str(RANDOM), RANDOM, "odd"),
    ],
)
def test_a_name_or_a_number_resolves_to_its_feature(
    con: duckdb.DuckDBPyConnection, name: str, feature: int, slug: str
) -> None:
    ref = resolve(con, name)
    assert (ref.run_id, ref.feature_id, ref.slug) == ("main", feature, slug)
    assert ref.hook_point == HOOK_POINT


def test_an_unknown_name_gives_the_nearest_ones(con: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(UnknownFeature, match=r"is called 'shp'; .*nearest names are ship"):
        resolve(con, "shp")
    with pytest.raises(UnknownFeature, match=r"no feature is called '99'; expected a name"):
        resolve(con, "99")
    with pytest.raises(UnknownFeature, match=r"no run 'x'; expected one of main"):
        resolve(con, "x/sea")


def test_a_weak_name_must_be_allowed(con: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(WeakFeature, match=r"'odd' does not beat its null .* --allow-weak"):
        resolve(con, "odd")
    assert resolve(con, "odd", allow_weak=True).is_weak


def test_a_name_in_two_runs_is_ambiguous_until_the_run_is_said(tmp_path: Path) -> None:
    with store_of(tmp_path / "two", "main", "wide") as both:
        with pytest.raises(AmbiguousFeature, match=r"'sea' .* runs main, wide; .* write main/sea"):
            resolve(both, "sea")
        assert resolve(both, "wide/sea").run_id == "wide"
        assert resolve(both, "sea", run_id="main").run_id == "main"
        assert {hit.run_id for hit in search(both, "sea")} == {"main", "wide"}


def test_a_search_puts_the_name_first_then_the_concept_then_the_label(
    con: duckdb.DuckDBPyConnection,
) -> None:
    hits = search(con, "sea")
    assert [(hit.slug, hit.found_by) for hit in hits[:2]] == [("sea", "name"), ("farm", "concept")]
    by_label = search(con, "water")
    assert {hit.slug for hit in by_label} >= {"sea", "farm", "ship", "odd"}
    assert {hit.found_by for hit in by_label} == {"label"}
    assert next(hit for hit in by_label if hit.slug == "odd").is_weak


def test_a_search_for_a_piece_finds_what_promotes_it(con: duckdb.DuckDBPyConnection) -> None:
    hits = [hit for hit in search(con, "ship", 50) if hit.found_by == "promotes"]
    promoting = con.execute(
        "SELECT DISTINCT feature_id FROM logit WHERE side = 'promotes' AND token_id = ?", [SHIP]
    ).fetchall()
    assert {hit.feature_id for hit in hits} | {ON_SHIP} >= {row[0] for row in promoting}


def test_a_search_finds_each_feature_once_and_at_most_k(con: duckdb.DuckDBPyConnection) -> None:
    hits = search(con, "sea water", 3)
    assert len(hits) == 3
    assert len({hit.feature_id for hit in hits}) == 3
    assert search(con, "zzz") == ()


def test_a_card_has_what_the_store_knows(con: duckdb.DuckDBPyConnection) -> None:
    card = show(con, "ship", contexts=4)
    assert card.ref.feature_id == ON_SHIP
    assert card.text == "Fires on ship and on water"
    assert card.statistics["n_act"] == len(WORLD.acts[ON_SHIP][0])
    assert len(card.promotes) == len(card.suppresses) == 9
    assert len(card.neighbours) == 3
    assert [score.metric for score in card.scores] == ["detection"]
    assert len(card.contexts) == 4
    assert len({context.doc_id for context in card.contexts}) == 4


def test_contexts_carry_every_activation_of_the_feature(con: duckdb.DuckDBPyConnection) -> None:
    values = dict(zip(*WORLD.acts[ON_SHIP], strict=True))
    for context in show(con, "ship", contexts=3).contexts:
        (peak,) = [piece for piece in context.pieces if piece.is_peak]
        assert peak.text == " ship"
        assert peak.value == pytest.approx(max(piece.value for piece in context.pieces))
        assert all((piece.value > 0) == (piece.text == " ship") for piece in context.pieces)
        assert peak.value <= max(values.values()) + 1e-2


def test_a_feature_without_a_name_has_a_card_too(con: duckdb.DuckDBPyConnection) -> None:
    card = show(con, str(DEAD))
    assert card.text == ""
    assert card.contexts == ()
    assert card.scores == ()
    assert card.statistics["is_dead"]
