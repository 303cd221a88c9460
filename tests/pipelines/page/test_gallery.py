"""A card says what the store's views say, and nothing where they are silent."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import pytest

from pipelines.page.gallery import Card, cards


@pytest.fixture
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    """Two named features, of which the first has been pushed."""
    opened = duckdb.connect()
    opened.execute(
        """
        CREATE TABLE feature AS FROM (VALUES
            ('main', 3, 'sea', 'concept', .9, .8, .95, .5, .01, 4., FALSE,
             'Makes the model say <reef>', 6.6, 6.39, 6.8, 1.8),
            ('main', 4, 'farm', 'concept', .9, .7, .95, .5, .01, 4., FALSE,
             NULL, NULL, NULL, NULL, NULL)
        ) AS t(run_id, feature_id, slug, method, score, lo, hi, null_value, density, max_value,
               is_weak, output_text, output_gain, output_lo, output_hi, output_null);
        CREATE TABLE topk(run_id TEXT, feature_id INT, stratum INT, tok INT, rank INT);
        CREATE TABLE vocab AS SELECT 7 AS token_id, 'reef' AS text;
        CREATE TABLE logit AS SELECT 'main' AS run_id, 3 AS feature_id, 'promotes' AS side,
            0 AS rank, 7 AS token_id;
        """
    )
    yield opened
    opened.close()


def both(con: duckdb.DuckDBPyConnection) -> list[Card]:
    return cards(con, features=2, contexts=1, first=("sea",))


def test_a_feature_that_was_pushed_says_what_came_of_it_with_interval_and_null(
    con: duckdb.DuckDBPyConnection,
) -> None:
    sea, farm = both(con)
    assert sea.says == "Makes the model say <reef>: gain 6.60 [6.39, 6.80] nats, null 1.80"
    assert farm.says == ""


def test_a_card_bears_score_density_and_tokens(con: duckdb.DuckDBPyConnection) -> None:
    sea, farm = both(con)
    assert sea.score == "score 0.90 [0.80, 0.95], null 0.50"
    assert (sea.slug, sea.density) == ("sea", "1.00%")
    assert (sea.promotes, sea.suppresses, farm.promotes) == (("reef",), (), ())
