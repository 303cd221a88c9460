"""pca: where the stream varies most; lat: the same of pairwise differences.

A principal component has no sign and no meaning of its own: with two classes the sign is that of
the mean difference, without them it is arbitrary and both ways must be tried. Rows are centred;
differences are not, as centring them would remove the very difference that was asked for: the
components of {D, -D} are those of D uncentred.

Source: Zou et al. 2023, "Representation Engineering" (linear artificial tomography).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from steering.direction import Direction
from steering.errors import DirectionError
from steering.sources.diff_mean import with_class_means
from steering.sources.reading import mean_norm_of


def pca(
    rows: Float[Tensor, "row d_model"],
    k: int,
    *,
    hook_point: str,
    positive: Float[Tensor, "positive d_model"] | None = None,
    negative: Float[Tensor, "negative d_model"] | None = None,
    mean_norm: float | None = None,
    concept: str | None = None,
    model_sha: str | None = None,
) -> tuple[Direction, ...]:
    """The first `k` principal components of centred rows, the largest first.

    `norm` is the rows' standard deviation along the component. With `positive` and `negative` rows
    each component points from the second class to the first, and records both means. `model_sha`
    is the hash of the weights of the model that wrote the rows.

    Raises:
        DirectionError: the rows do not vary in `k` directions, or only one class was given.
    """
    if (positive is None) != (negative is None):
        raise DirectionError(
            "one class of rows; expected both or neither, since a sign needs two; give the other"
        )
    centred = rows.double() - rows.double().mean(0)
    scale = mean_norm_of(rows) if mean_norm is None and len(rows) else mean_norm
    found = []
    for number, (vector, deviation) in enumerate(_components(centred, k)):
        direction = Direction.from_vector(
            vector * deviation,
            hook_point,
            mean_norm=scale,
            source="pca",
            concept=concept,
            provenance={"component": number, "sign": "arbitrary", "n_rows": len(rows)},
            model_sha=model_sha,
        )
        if positive is not None and negative is not None:
            direction = _signed(direction, positive, negative)
        found.append(direction)
    return tuple(found)


def lat(
    positive: Float[Tensor, "pair d_model"],
    negative: Float[Tensor, "pair d_model"],
    *,
    hook_point: str,
    mean_norm: float | None = None,
    concept: str | None = None,
    model_sha: str | None = None,
) -> Direction:
    """The first component of the pairs' differences, pointing to the positive side.

    Raises:
        DirectionError: there are no pairs, or nothing differs in them.
    """
    difference = positive.double() - negative.double()
    vector, deviation = _components(difference, 1)[0]
    if mean_norm is None:
        mean_norm = mean_norm_of(torch.cat([positive, negative]))
    direction = Direction.from_vector(
        vector * deviation,
        hook_point,
        mean_norm=mean_norm,
        source="lat",
        concept=concept,
        provenance={"n_pairs": len(difference)},
        model_sha=model_sha,
    )
    return _signed(direction, positive, negative)


def _components(
    rows: Float[Tensor, "row d_model"], k: int
) -> list[tuple[Float[Tensor, " d_model"], float]]:
    """(unit vector, root mean square along it) of the first `k` right singular vectors."""
    if not bool(torch.isfinite(rows).all()):
        raise DirectionError(
            "rows hold NaN or infinite numbers; expected finite ones; look at where they were read"
        )
    _, singular, vectors = torch.linalg.svd(rows, full_matrices=False)
    rank = int((singular > 1e-9 * singular.max().clamp(min=1e-30)).sum()) if len(singular) else 0
    if not 1 <= k <= rank:
        raise DirectionError(
            f"{k} components of {len(rows)} rows that vary in {rank} directions; expected from 1 "
            f"to {rank}; ask for fewer or give more rows"
        )
    deviation = singular / len(rows) ** 0.5
    # The largest entry is made positive, so that an arbitrary sign is at least always the same.
    return [
        (v * torch.sign(v[v.abs().argmax()]), float(s))
        for v, s in zip(vectors[:k], deviation[:k], strict=True)
    ]


def _signed(
    direction: Direction,
    positive: Float[Tensor, "row d_model"],
    negative: Float[Tensor, "other d_model"],
) -> Direction:
    known = with_class_means(direction, positive, negative)
    gap = (known.positive_mean or 0.0) - (known.negative_mean or 0.0)
    facts = {**known.provenance, "sign": "mean difference"}
    return replace(known if gap >= 0 else -known, provenance=facts)
