"""Features by words: in a name, a label, a promoted token, a concept's name."""

from __future__ import annotations

import functools
import re
from typing import Any

import duckdb

from features.bm25 import LabelIndex
from features.errors import SearchError, UnknownConcept
from features.hits import Hit, fused, hits_of
from features.lookup import prepare
from features.refs import nearest, require_run, rows_of

_CONCEPTS_AMONG_ALL = 3


class WordSearch:
    """Questions in words to one store, answered as ranked hits.

    Args:
        con: an open store; its own views and tables stay as they are.
        run_id: ask of this run alone.
        in_memory: copy what is searched into memory first, for many questions.

    Raises:
        UnknownFeature: the store has no such run.
    """

    def __init__(
        self, con: duckdb.DuckDBPyConnection, *, run_id: str | None = None, in_memory: bool = False
    ) -> None:
        if run_id is not None:
            require_run(con, run_id)
        self._run_id = run_id
        self._con = prepare(con, run_id=run_id, in_memory=in_memory)
        if in_memory:
            _ = self._labels

    @functools.cached_property
    def _labels(self) -> LabelIndex:
        return LabelIndex(self._con, self._run_id)

    def everything(self, text: str, k: int = 20) -> tuple[Hit, ...]:
        """At most `k` features that some words point to, by name, concept, label and token.

        A feature that bears exactly this name comes first; the others by rank in each list
        (`features.hits.fused`). Each stands once, with every sign that points to it.

        Raises:
            SearchError: there are no words.
        """
        named = self.named(text, k)
        exact = [hit for hit in named if hit.signs[0].score == 1.0]
        read = self.reading_if_known(text, _CONCEPTS_AMONG_ALL)
        lists = [named, read, self.labelled(text, k), self.promoting(text, k)]
        found = fused(lists, 4 * k)
        first = {(hit.run_id, hit.feature_id) for hit in exact}
        ordered = sorted(found, key=lambda hit: (hit.run_id, hit.feature_id) not in first)
        return tuple(ordered[:k])

    def named(self, text: str, k: int = 20) -> tuple[Hit, ...]:
        """Features whose name holds the words, the shortest name first.

        Raises:
            SearchError: there are no words.
        """
        wanted = "-".join(re.findall(r"\w+", require_words(text).lower()))
        if not wanted:
            return ()
        rows = self._ask(
            """
            SELECT n.*, len($wanted) / len(n.slug) AS sign, n.slug AS what
            FROM search_name AS n
            WHERE contains(n.slug, $wanted)
            QUALIFY row_number() OVER (
                PARTITION BY n.run_id, n.feature_id ORDER BY len(n.slug), n.slug
            ) = 1
            ORDER BY sign DESC, NOT starts_with(n.slug, $wanted), n.slug, n.run_id
            LIMIT $k
            """,
            {"wanted": wanted, "k": k},
        )
        return hits_of(rows, "name")

    def labelled(self, text: str, k: int = 20) -> tuple[Hit, ...]:
        """Features whose label speaks of the words, by BM25 (k1 1.2, b .75), as `search_label`.

        Raises:
            SearchError: there are no words.
        """
        best = self._labels.best(require_words(text), k)
        rows = self._ask(
            """
            SELECT n.*, n.slug AS what
            FROM search_name AS n
            JOIN (SELECT unnest($runs) AS run_id, unnest($labels) AS label_id) AS b
                ON b.run_id = n.run_id AND b.label_id = n.label_id
            """,
            {"runs": [run for run, _, _ in best], "labels": [label for _, label, _ in best]},
        )
        known = {(row["run_id"], row["label_id"]): row for row in rows}
        signed = [{**known[run, label], "sign": score} for run, label, score in best]
        return hits_of(signed, "text")

    def promoting(self, piece: str, k: int = 20) -> tuple[Hit, ...]:
        """Features whose decoder row raises a token's logit, most first; with or without a space.

        Raises:
            SearchError: there are no words.
        """
        rows = self._ask(
            """
            SELECT f.*, t.logit AS sign, v.text AS what
            FROM search_vocab AS v
            JOIN search_token AS t ON t.token_id = v.token_id
            JOIN search_feature AS f ON f.run_id = t.run_id AND f.feature_id = t.feature_id
            WHERE v.piece = $piece OR v.text = $piece OR v.word = trim($piece)
            QUALIFY row_number() OVER (
                PARTITION BY t.run_id, t.feature_id ORDER BY t.logit DESC, v.text
            ) = 1
            ORDER BY t.logit DESC, t.run_id, t.feature_id
            LIMIT $k
            """,
            {"piece": require_words(piece), "k": k},
        )
        return hits_of(rows, "token")

    def reading(self, concept: str, k: int = 20) -> tuple[Hit, ...]:
        """Features whose activation tells best whether a concept holds.

        Raises:
            UnknownConcept: the corpus has none of that name; the message gives the nearest.
            SearchError: there are no words.
        """
        found = self.reading_if_known(concept, k)
        if not found:
            known = rows_of(self._con, "SELECT DISTINCT name FROM search_concept ORDER BY name", {})
            names = [str(row["name"]) for row in known]
            near = ", ".join(nearest(concept, names) or names[:5])
            raise UnknownConcept(
                f"no feature was measured against a concept {concept.strip()!r}; expected one of "
                f"the corpus's {len(names)} concepts{f', such as {near}' if near else ''}; "
                "correct the name"
            )
        return found

    def reading_if_known(self, concept: str, k: int = 20) -> tuple[Hit, ...]:
        """As `reading`, but nothing where the corpus has no such concept.

        Raises:
            SearchError: there are no words.
        """
        rows = self._ask(
            """
            SELECT f.*, r.auroc AS sign, c.name AS what
            FROM search_concept AS c
            JOIN search_reading AS r ON r.concept_id = c.concept_id
            JOIN search_feature AS f ON f.run_id = r.run_id AND f.feature_id = r.feature_id
            WHERE lower(c.name) = lower(trim($name))
            ORDER BY r.auroc DESC, r.best_f1 DESC, r.run_id, r.feature_id
            LIMIT $k
            """,
            {"name": require_words(concept), "k": k},
        )
        return hits_of(rows, "concept")

    def nearest_names(self, text: str) -> tuple[str, ...]:
        """Names spelled most like a text, for a person who mistyped one."""
        rows = self._ask("SELECT DISTINCT slug FROM search_name ORDER BY slug", {})
        return nearest(text, [str(row["slug"]) for row in rows])

    def _ask(self, statement: str, params: dict[str, Any]) -> list[dict[str, Any]]:
        return rows_of(self._con, statement, params)


def require_words(text: str) -> str:
    """The text as given.

    Raises:
        SearchError: it is empty.
    """
    if not text.strip():
        raise SearchError(
            "the text to search for is empty; expected words; write for example "
            "tiller features search sea"
        )
    return text
