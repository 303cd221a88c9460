"""What a name stands for in a workspace: a feature of its store, a direction found, or one's own.

`sea` and `main/sea` are names that the store's labels gave, `main/12` and `2/12` a feature by its
number in a run or at a layer, `sea/diff_mean` a direction that the stage `directions` wrote. A
feature's direction is its decoder row; as a reading it is the latent itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from features.errors import AmbiguousFeature, UnknownFeature
from features.refs import resolve
from sae.checkpoint import load
from sae.model import SparseAutoencoder
from steering.direction import Direction, load_directions
from steering.errors import DirectionError
from steering.sources.decoder import decoder, latent
from steering.target import Latent, Target
from store.catalog import open as open_store

if TYPE_CHECKING:
    import duckdb

DIRECTIONS = Path("data/directions/directions.safetensors")


@dataclass(frozen=True, slots=True)
class NamedFeature:
    """A feature that a name stands for, and the scales that steering by it needs."""

    run_id: str
    feature_id: int
    name: str
    """Its slug, or how it was asked for where that was by number."""
    max_act: float
    """Largest activation, in the stream's units; 0 for a dead feature."""
    mean_norm: float | None
    """Mean norm of the stream at its hook point."""
    best_dose: float | None
    """What the dose-response did best at, in mean norms; None where it was not tried."""
    model_sha: str | None
    """sha256 of the weights of the model that its autoencoder reads."""
    sae_sha: str | None
    """sha256 of that autoencoder's weights."""

    def direction(self, sae: SparseAutoencoder) -> Direction:
        """What it writes, in the autoencoder of its run.

        Raises:
            DirectionError: it is dead.
        """
        return decoder(
            sae,
            self.feature_id,
            max_act=self.max_act,
            mean_norm=self.mean_norm,
            concept=self.name,
            run_id=self.run_id,
            sae_sha=self.sae_sha,
            model_sha=self.model_sha,
        )

    def latent(self, sae: SparseAutoencoder) -> Latent:
        """What it reads, in the autoencoder of its run.

        Raises:
            DirectionError: it is dead.
        """
        return latent(
            sae,
            self.feature_id,
            max_act=self.max_act,
            mean_norm=self.mean_norm,
            concept=self.name,
            run_id=self.run_id,
            sae_sha=self.sae_sha,
            model_sha=self.model_sha,
        )


class StoreNames:
    """The names of one workspace; to be closed, or used in a `with`."""

    def __init__(
        self,
        workspace: Path,
        *,
        allow_weak: bool = False,
        own: Mapping[str, Direction] | None = None,
    ) -> None:
        """Opens the workspace's store.

        Args:
            workspace: the folder that the graph was run in.
            allow_weak: accept names that do not beat their null.
            own: directions of one's own by the names they go by; they come before all others.

        Raises:
            MissingArtefact: the workspace has no store.
        """
        self._workspace = workspace
        self._allow_weak = allow_weak
        self._own = dict(own or {})
        self._saes: dict[str, SparseAutoencoder] = {}
        self._store: duckdb.DuckDBPyConnection = open_store(workspace)

    def __enter__(self) -> StoreNames:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the store."""
        self._store.close()

    def direction(self, name: str) -> Direction:
        """What the name writes: a feature's decoder row, or a direction itself.

        Raises:
            UnknownFeature: nothing has this name; the message gives the nearest names.
            AmbiguousFeature: several runs, or several autoencoders of a layer, have it.
            WeakFeature: the name does not beat its null, and weak names are not allowed.
            DirectionError: the feature is dead.
        """
        if (known := self._known(name)) is not None:
            return known
        one = self.feature(name)
        return one.direction(self.sae(one.run_id))

    def reading(self, name: str) -> Target:
        """What the name reads: a feature's latent, or the component along a direction.

        Raises:
            FeatureError, DirectionError: as `direction`.
        """
        if (known := self._known(name)) is not None:
            return known
        one = self.feature(name)
        return one.latent(self.sae(one.run_id))

    def _known(self, name: str) -> Direction | None:
        return self._own.get(name) or self._found.get(name)

    @cached_property
    def _found(self) -> dict[str, Direction]:
        path = self._workspace / DIRECTIONS
        return load_directions(path) if path.is_file() else {}

    def feature(self, name: str) -> NamedFeature:
        """The feature that a name stands for: `sea`, `main/sea`, `main/12`, `2/12`.

        Raises:
            FeatureError: as `direction`.
        """
        numbered = re.fullmatch(r"(\d+)/(\d+)", name)
        asked = name if numbered is None else f"{self._run_at(int(numbered[1]))}/{numbered[2]}"
        ref = resolve(self._store, asked, allow_weak=self._allow_weak)
        row = self._store.execute(
            """
            SELECT s.max_value, r.mean_norm, t.best_coefficient, r.model_sha, r.sae_sha
            FROM feature_stats AS s
            JOIN run AS r ON r.run_id = s.run_id
            LEFT JOIN steerability AS t ON t.run_id = s.run_id AND t.feature_id = s.feature_id
            WHERE s.run_id = $run AND s.feature_id = $feature
            """,
            {"run": ref.run_id, "feature": ref.feature_id},
        ).fetchone()
        if row is None:
            raise UnknownFeature(
                f"{ref.run_id} has no feature {ref.feature_id}; expected one of its rows in "
                "feature_stats; look with `tiller features search`"
            )
        shown = name if re.search(r"/\d+$", name) else ref.slug
        max_act, mean_norm, best_dose, model_sha, sae_sha = row
        return NamedFeature(
            run_id=ref.run_id,
            feature_id=ref.feature_id,
            name=shown,
            max_act=float(max_act or 0.0),
            mean_norm=mean_norm,
            best_dose=best_dose,
            model_sha=model_sha or None,
            sae_sha=sae_sha or None,
        )

    def _run_at(self, layer: int) -> str:
        """The only run at a layer."""
        runs = self._store.execute("SELECT run_id, layer FROM run ORDER BY run_id").fetchall()
        here = [str(run_id) for run_id, at in runs if at == layer]
        known = ", ".join(f"{run_id} (layer {at})" for run_id, at in runs)
        if not here:
            raise UnknownFeature(
                f"no autoencoder at layer {layer}; expected one of {known}; write for example "
                f"{runs[0][0]}/12"
            )
        if len(here) > 1:
            raise AmbiguousFeature(
                f"layer {layer} has {len(here)} autoencoders; expected one of {', '.join(here)}; "
                f"write for example {here[0]}/12"
            )
        return here[0]

    def sae(self, run_id: str) -> SparseAutoencoder:
        """The autoencoder of a run.

        Raises:
            DirectionError: the workspace does not hold it.
        """
        if run_id not in self._saes:
            folder = self._workspace / "data/sae" / run_id
            if not folder.is_dir():
                raise DirectionError(
                    f"no autoencoder under {folder}; expected the one of run {run_id}; run "
                    "`tiller run --to train`"
                )
            self._saes[run_id] = load(folder)
        return self._saes[run_id]
