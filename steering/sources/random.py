"""random: what steering does without meaning. A control for every table.

A random unit vector shows what a push of that length does; a random alive feature shows what the
push of *some* feature does, which is more, since features lie where the stream does.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch

from steering.direction import Direction
from steering.errors import DirectionError


def random_direction(
    d_model: int,
    *,
    hook_point: str,
    seed: int,
    mean_norm: float | None = None,
    model_sha: str | None = None,
) -> Direction:
    """A direction drawn evenly from the sphere; the same seed gives the same one.

    Belongs to any model of its width, unless `model_sha` says which model `mean_norm` is of.
    """
    generator = torch.Generator().manual_seed(seed)
    return Direction.from_vector(
        torch.randn(d_model, generator=generator, dtype=torch.float64),
        hook_point,
        mean_norm=mean_norm,
        source="random",
        provenance={"seed": seed},
        model_sha=model_sha,
    )


def matched_feature(
    densities: np.ndarray,
    feature_id: int,
    *,
    seed: int,
    exclude: Collection[int] = (),
    pool: int = 32,
) -> int:
    """A random alive feature that fires about as often as `feature_id`, to compare it with.

    Args:
        densities: share of tokens at which each latent fires; 0 for dead ones.
        feature_id: the feature to match; never drawn itself.
        seed: same seed, same choice.
        exclude: features that share its meaning.
        pool: how many of the nearest in log density to draw from.

    Raises:
        DirectionError: the feature is dead, or no other one is alive.
    """
    if not 0 <= feature_id < len(densities) or not densities[feature_id] > 0:
        raise DirectionError(
            f"feature {feature_id} does not exist or never fires; expected an alive one; choose "
            "another"
        )
    barred = {feature_id, *exclude}
    alive = np.array([f for f in np.flatnonzero(densities > 0) if int(f) not in barred])
    if not len(alive):
        raise DirectionError(
            "no other feature is alive; expected at least one to compare with; train the "
            "autoencoder longer or exclude fewer"
        )
    distance = np.abs(np.log(densities[alive]) - np.log(densities[feature_id]))
    nearest = alive[np.argsort(distance, kind="stable")[:pool]]
    return int(np.random.default_rng(seed).choice(nearest))
