"""Features by words, pasted text, direction and neighbourhood.

`Search` asks an open store and changes nothing in it. It knows no model: whoever pastes a text
brings the activations on it.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Generator, Sequence
from pathlib import Path

import duckdb
import numpy as np
from jaxtyping import Float, Int

from features.active import about
from features.arithmetic import terms
from features.errors import SearchError
from features.hits import MEANING, NEIGHBOUR_KINDS, FoundBy, Hit, Sign, fused, hits_of
from features.refs import FeatureRef, require_run, resolve
from features.vectors import NamedVector, Vectors
from features.word_search import WordSearch, require_words

__all__ = ["MEANING", "FeatureRef", "FoundBy", "Hit", "Search", "Sign", "require_words", "resolve"]

DIRECTIONS = Path("data/directions/directions.safetensors")


class Search(WordSearch):
    """Questions of every kind to one store, answered as ranked hits.

    Args:
        con: an open store; its own views and tables stay as they are.
        run_id: ask of this run alone.
        in_memory: copy what is searched into memory first, for many questions.
        directions: the file of found directions, where they are to be named.

    Raises:
        UnknownFeature: the store has no such run.
    """

    def __init__(
        self,
        con: duckdb.DuckDBPyConnection,
        *,
        run_id: str | None = None,
        in_memory: bool = False,
        directions: Path | None = None,
    ) -> None:
        super().__init__(con, run_id=run_id, in_memory=in_memory)
        self._vectors = Vectors(self._con, directions)
        self._density: dict[str, Float[np.ndarray, " d_sae"]] = {}

    @classmethod
    @contextlib.contextmanager
    def open(
        cls, workspace: Path, *, run_id: str | None = None, in_memory: bool = True
    ) -> Generator[Search]:
        """A search over a workspace's store for the length of a `with`.

        Raises:
            StoreError: there is no store, or it is of another version.
        """
        from store.catalog import open as open_store

        with contextlib.closing(open_store(workspace)) as con:
            yield cls(con, run_id=run_id, in_memory=in_memory, directions=workspace / DIRECTIONS)

    def active(
        self,
        acts: Float[np.ndarray, "token d_sae"],
        pieces: Sequence[str],
        run_id: str,
        k: int = 20,
    ) -> tuple[Hit, ...]:
        """Features that a text is about, by mean activation and rarity, told apart (`about`).

        One that never fired on the corpus counts as if it had done once; one that fires on
        every token says nothing of a text and is never found.

        Args:
            acts: of each token of the text, special ones left out; the stream's own units.
            pieces: the tokens' texts.

        Raises:
            UnknownFeature: the store has no such run.
        """
        order, left = about(acts, self._densities(run_id), k)
        what = [
            f"{np.count_nonzero(acts[:, f])} of {len(acts)} tokens, most on "
            f"{pieces[int(acts[:, f].argmax())]!r}"
            for f in order
        ]
        return self._hits(run_id, order, left, what, "active")

    def along(self, vector: NamedVector, k: int = 20) -> tuple[Hit, ...]:
        """Features whose decoder rows lie most nearly along a vector, or against it.

        Raises:
            SearchError: no run is at the vector's place.
        """
        runs = [vector.run_id] if vector.run_id is not None else self._runs_at(vector.hook_point)
        lists = []
        for run in runs:
            features, cosine = self._vectors.nearest(run, vector.vector, k)
            lists.append(self._hits(run, features, cosine, [""] * len(features), "direction"))
        found = sorted(itertools.chain(*lists), key=lambda hit: -abs(hit.signs[0].score))
        return tuple(found[:k])

    def near(self, what: str, k: int = 20) -> tuple[Hit, ...]:
        """What lies near a feature, a direction's id, or a sum of such (`sea - farm`).

        Of one feature the stored neighbours of every kind, in the order of `fused`; of all
        else the nearest decoder rows.

        Raises:
            SearchError: the sum does not read, or mixes runs or hook points.
            UnknownFeature, AmbiguousFeature: a name is no feature's, or several runs'.
        """
        asked = terms(require_words(what))
        if len(asked) > 1 or asked[0].factor != 1 or self._vectors.is_direction(asked[0].name):
            return self.along(self._vectors.named(what, self._run_id), k)
        return self.neighbours(self._vectors.feature(asked[0].name, self._run_id), k)

    def neighbours(self, ref: FeatureRef, k: int = 20) -> tuple[Hit, ...]:
        """A feature's neighbours by decoder row, by firing together and by value."""
        rows = self._ask(
            """
            SELECT f.*, n.kind, n.score AS sign, '' AS what
            FROM search_neighbour AS n
            JOIN search_feature AS f ON f.run_id = n.run_id AND f.feature_id = n.other_id
            WHERE n.run_id = $run AND n.feature_id = $feature
            ORDER BY n.kind, n.rank
            """,
            {"run": ref.run_id, "feature": ref.feature_id},
        )
        kinds = [
            hits_of([row for row in rows if row["kind"] == kind], kind) for kind in NEIGHBOUR_KINDS
        ]
        return fused(kinds, k)

    def null(self, run_id: str) -> float:
        """The cosine that a random direction's nearest row stays below 95 times of 100."""
        return self._vectors.null(run_id)

    def _hits(
        self,
        run_id: str,
        features: Int[np.ndarray, " hit"],
        scores: Float[np.ndarray, " hit"],
        what: Sequence[str],
        found_by: FoundBy,
    ) -> tuple[Hit, ...]:
        """Hits of features that were found outside SQL, in their order."""
        rows = self._ask(
            "SELECT f.* FROM search_feature AS f WHERE f.run_id = $run "
            "AND list_contains($features, f.feature_id)",
            {"run": run_id, "features": [int(feature) for feature in features]},
        )
        known = {row["feature_id"]: row for row in rows}
        signed = [
            {**known[int(feature)], "sign": score, "what": word}
            for feature, score, word in zip(features, scores, what, strict=True)
        ]
        return hits_of(signed, found_by)

    def _densities(self, run_id: str) -> Float[np.ndarray, " d_sae"]:
        """Share of tokens each feature fires on, one firing at least."""
        if run_id not in self._density:
            require_run(self._con, run_id)
            rows = self._ask(
                """
                SELECT f.density, r.n_tokens FROM search_feature AS f
                JOIN run AS r ON r.run_id = f.run_id
                WHERE f.run_id = $run ORDER BY f.feature_id
                """,
                {"run": run_id},
            )
            density = np.array([row["density"] or 0.0 for row in rows])
            self._density[run_id] = np.maximum(density, 1 / rows[0]["n_tokens"])
        return self._density[run_id]

    def _runs_at(self, hook_point: str) -> list[str]:
        rows = self._ask(
            "SELECT run_id FROM run WHERE hook_point = $place AND ($run IS NULL OR run_id = $run) "
            "ORDER BY run_id",
            {"place": hook_point, "run": self._run_id},
        )
        if not rows:
            raise SearchError(
                f"the direction is at {hook_point}, where the store has no autoencoder; expected "
                "one there; train one, or ask of another direction"
            )
        return [str(row["run_id"]) for row in rows]
