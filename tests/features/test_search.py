"""Features are found by name, label, token, concept, text, direction and neighbourhood."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pytest

from features.errors import SearchError, UnknownConcept, UnknownFeature
from features.hits import Hit
from features.search import Search
from tests.features.named_store import NAMES, WORLD, store_of
from tests.features.planted import D_SAE, DEAD, FARM, ON_SHIP, PIECES, RANDOM, SEA, SHIP


@pytest.fixture(scope="module")
def con(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    with store_of(tmp_path_factory.mktemp("one"), "main") as connection:
        yield connection


@pytest.fixture(scope="module", params=["in memory", "from files"])
def search(con: duckdb.DuckDBPyConnection, request: pytest.FixtureRequest) -> Search:
    return Search(con, in_memory=request.param == "in memory")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    with store_of(tmp_path_factory.mktemp("two") / "both", "main", "wide") as connection:
        yield connection


def features(hits: tuple[Hit, ...]) -> list[int]:
    return [hit.feature_id for hit in hits]


def test_a_name_is_found_by_a_part_of_it_and_the_shortest_comes_first(search: Search) -> None:
    assert features(search.named("SE")) == [SEA]
    (ship,) = search.named("ship")
    assert (ship.slug, ship.signs[0].score) == ("ship", 1.0)
    assert search.named("says sh")[0].slug == "says-ship"
    assert search.named("zzz") == search.named("?") == ()


def test_a_hit_carries_what_its_name_is_worth(search: Search) -> None:
    (sea,) = search.named("sea")
    assert sea.score == pytest.approx(0.9)
    assert [sea.lo, sea.hi] == pytest.approx([0.8, 0.95])
    assert sea.null_value == pytest.approx(0.5)
    (says,) = search.named("says")
    assert (says.score, says.null_value) == (None, None)


def test_a_weak_name_is_found_and_marked(search: Search) -> None:
    assert [(hit.feature_id, hit.is_weak) for hit in search.named("odd")] == [(RANDOM, True)]


def test_labels_are_found_by_their_words_the_rarer_word_counting_more(search: Search) -> None:
    found = search.labelled("water ship")
    assert found[0].feature_id == ON_SHIP
    assert set(features(found)) == set(NAMES)
    assert len(search.labelled("water", 2)) == 2
    assert search.labelled("none of this") == ()


def test_a_token_is_found_with_or_without_its_space(
    search: Search, con: duckdb.DuckDBPyConnection
) -> None:
    expected = con.execute(
        "SELECT feature_id, logit FROM logit WHERE side = 'promotes' AND token_id = ? "
        "ORDER BY logit DESC",
        [SHIP],
    ).fetchall()
    assert expected
    for asked in ("ship", " ship"):
        found = search.promoting(asked, 99)
        assert [(hit.feature_id, hit.signs[0].score) for hit in found] == expected
    assert found[0].signs[0].what == " ship"
    assert search.promoting("zzz") == ()


def test_a_concept_is_found_by_its_name_and_an_unknown_one_gives_the_known(search: Search) -> None:
    (farm,) = search.reading("Sea")
    assert farm.feature_id == FARM
    assert farm.signs[0].score == pytest.approx(0.7)
    with pytest.raises(UnknownConcept, match=r"concept 'seaa'; .* 3 concepts, such as sea;"):
        search.reading("seaa")


def test_everything_puts_the_very_name_first_and_gives_each_feature_once(search: Search) -> None:
    found = search.everything("ship")
    assert found[0].feature_id == ON_SHIP
    assert {sign.found_by for sign in found[0].signs} >= {"name", "text"}
    assert len(set(features(found))) == len(found)
    assert len(search.everything("ship", 3)) == 3
    assert search.everything("zzz") == ()


def test_everything_finds_what_reads_the_concept_though_it_is_called_otherwise(
    search: Search,
) -> None:
    found = {hit.feature_id: hit.signs for hit in search.everything("sea")}
    assert "concept" in {sign.found_by for sign in found[FARM]}


def test_no_words_are_refused_with_an_example(search: Search) -> None:
    asked = (search.everything, search.named, search.labelled, search.promoting, search.near)
    for ask in asked:
        with pytest.raises(SearchError, match=r"is empty; expected words; .* tiller features"):
            ask("  ")


def test_a_text_is_read_by_strength_and_rarity_less_what_was_said_above(search: Search) -> None:
    """Worked out by hand: two tokens, mean activation times ln(1 / density)²."""
    acts = np.zeros((2, D_SAE), dtype=np.float32)
    acts[0, SEA], acts[1, SEA], acts[1, ON_SHIP], acts[0, DEAD] = 4, 2, 1, 0.001
    n_real = int((~WORLD.tokens.is_special).sum())
    density = {f: len(WORLD.acts[f][0]) / n_real for f in (SEA, ON_SHIP)}
    once = 1 / len(WORLD.tokens)
    with_sea = {ON_SHIP: 2**2 / (4**2 + 2**2), DEAD: 4**2 / (4**2 + 2**2)}
    expected = {
        SEA: 3 * np.log(density[SEA]) ** 2,
        ON_SHIP: 0.5 * np.log(density[ON_SHIP]) ** 2 * (1 - 0.7 * with_sea[ON_SHIP]),
        DEAD: 0.0005 * np.log(once) ** 2 * (1 - 0.7 * with_sea[DEAD]),
    }
    found = search.active(acts, [" a", " ship"], "main")
    assert {hit.feature_id: hit.signs[0].score for hit in found} == pytest.approx(expected)
    assert features(found) == sorted(expected, key=lambda f: -expected[f])
    what = {hit.feature_id: hit.signs[0].what for hit in found}
    assert what[SEA] == "2 of 2 tokens, most on ' a'"
    assert what[ON_SHIP] == "1 of 2 tokens, most on ' ship'"


def test_a_text_on_which_nothing_fires_finds_nothing(search: Search) -> None:
    assert search.active(np.zeros((3, D_SAE), dtype=np.float32), PIECES[:3], "main") == ()
    assert search.active(np.zeros((0, D_SAE), dtype=np.float32), [], "main") == ()
    with pytest.raises(UnknownFeature, match=r"no run 'x'"):
        search.active(np.ones((1, D_SAE), dtype=np.float32), PIECES[:1], "x")


def test_neighbours_are_those_of_the_store_by_every_kind(
    search: Search, con: duckdb.DuckDBPyConnection
) -> None:
    expected = con.execute(
        "SELECT other_id, kind, score FROM neighbour WHERE feature_id = ?", [SEA]
    ).fetchall()
    found = search.near("sea", 99)
    signs = [(hit.feature_id, sign.found_by, sign.score) for hit in found for sign in hit.signs]
    assert sorted(signs) == sorted(expected)
    assert {found_by for _, found_by, _ in signs} == {"dec_cos", "coact_jaccard", "value_corr"}


def test_a_feature_alone_in_a_sum_has_neighbours_and_a_sum_has_nearest_rows(search: Search) -> None:
    assert {sign.found_by for hit in search.near(str(SEA)) for sign in hit.signs} > {"dec_cos"}
    found = search.near("sea - farm", 4)
    assert features(found)[:2] in ([SEA, FARM], [FARM, SEA])
    score = {hit.feature_id: hit.signs[0].score for hit in found}
    assert score[SEA] == pytest.approx(-score[FARM], abs=1e-5)
    assert score[SEA] > 0 > score[FARM]
    with pytest.raises(UnknownFeature, match="nearest names are sea"):
        search.near("seaa")


def test_two_runs_are_asked_together_or_one_alone(two: duckdb.DuckDBPyConnection) -> None:
    both, one = Search(two), Search(two, run_id="wide", in_memory=True)
    for ask in ("named", "labelled", "promoting", "reading"):
        for_both, for_one = getattr(both, ask)("sea"), getattr(one, ask)("sea")
        assert {hit.run_id for hit in for_both} <= {"main", "wide"}
        assert {hit.run_id for hit in for_one} <= {"wide"}
        assert len(for_both) == 2 * len(for_one)
    with pytest.raises(SearchError, match=r"mixes main, wide; expected vectors of one hook point"):
        both.near("main/sea - wide/farm")


def test_a_search_leaves_the_connection_as_it_was(con: duckdb.DuckDBPyConnection) -> None:
    before = con.execute("SELECT table_name FROM duckdb_tables() ORDER BY ALL").fetchall()
    Search(con, in_memory=True)
    with pytest.raises(duckdb.CatalogException):
        con.execute("FROM search_name")
    assert con.execute("SELECT table_name FROM duckdb_tables() ORDER BY ALL").fetchall() == before


def test_a_mistyped_name_has_nearest_names(search: Search) -> None:
    assert search.nearest_names("Shp")[0] == "ship"


def test_a_workspace_is_opened_and_closed(tmp_path: Path) -> None:
    store_of(tmp_path, "main").close()
    with Search.open(tmp_path) as opened:
        assert features(opened.named("sea")) == [SEA]
        with pytest.raises(SearchError, match="'no/such' is no direction, and 'no' no run"):
            opened.near("no/such")
    with pytest.raises(duckdb.ConnectionException):
        opened.named("sea")
