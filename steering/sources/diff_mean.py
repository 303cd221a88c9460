"""diff_mean: the mean of one class less the mean of the other, v = E[h(x+)] - E[h(x-)].

Also known as contrastive activation addition, mass mean and "happy minus sad". Whitening it reads
better and steers worse, so it is not whitened. It holds whatever differs between the classes:
pairs that also differ in length, topic or their last word give a vector of those.

Source: Rimsky et al. 2024, "Steering Llama 2 via Contrastive Activation Addition";
Marks and Tegmark 2023, "The Geometry of Truth" (mass-mean probing).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from lm.model import LanguageModel
from steering.direction import Direction
from steering.errors import DirectionError
from steering.sources.reading import Pooling, mean_norm_of, pooled, read_tokens


def from_rows(
    positive: Float[Tensor, "row d_model"],
    negative: Float[Tensor, "other d_model"],
    *,
    hook_point: str,
    mean_norm: float | None = None,
    concept: str | None = None,
    model_sha: str | None = None,
) -> Direction:
    """The direction between two labelled sets of rows, with both class means along it.

    Args:
        positive: rows with the concept.
        negative: rows without it; a pair need not stand at the same index.
        hook_point: where the rows were read.
        mean_norm: mean norm of the stream there; measured on these rows where left out.
        concept: what the classes differ in.
        model_sha: sha256 of the weights of the model that wrote the rows.

    Raises:
        DirectionError: a class is empty, the means are equal, or a number is not finite.
    """
    if not len(positive) or not len(negative):
        raise DirectionError(
            f"{len(positive)} positive and {len(negative)} negative rows; expected at least one of "
            "each; give more examples"
        )
    difference = positive.double().mean(0) - negative.double().mean(0)
    if mean_norm is None:
        mean_norm = mean_norm_of(torch.cat([positive, negative]))
    direction = Direction.from_vector(
        difference,
        hook_point,
        mean_norm=mean_norm,
        source="diff_mean",
        concept=concept,
        provenance={"n_positive": len(positive), "n_negative": len(negative)},
        model_sha=model_sha,
    )
    return with_class_means(direction, positive, negative)


def from_pairs(
    lm: LanguageModel,
    pairs: Sequence[tuple[str, str]],
    hook_point: str,
    *,
    positions: Pooling = "mean",
    mean_norm: float | None = None,
    concept: str | None = None,
) -> Direction:
    """The direction from the second texts of some pairs to the first ones.

    Args:
        lm: the model that reads them.
        pairs: (with the concept, without it).
        hook_point: where to read.
        positions: the last token of each text, the mean over its tokens, or every token alike.
        mean_norm: mean norm of the stream there; measured on these texts where left out.
        concept: what the texts of a pair differ in.

    Raises:
        DirectionError: there are no pairs, a text has no ordinary token, or nothing differs.
    """
    texts = [text for side in zip(*pairs, strict=True) for text in side]
    number, rows = read_tokens(lm, texts, hook_point)
    is_positive = number < len(pairs)
    return from_rows(
        pooled(number[is_positive], rows[is_positive], positions),
        pooled(number[~is_positive], rows[~is_positive], positions),
        hook_point=hook_point,
        mean_norm=mean_norm_of(rows) if mean_norm is None else mean_norm,
        concept=concept,
        model_sha=lm.weights_sha(),
    )


def with_class_means(
    direction: Direction,
    positive: Float[Tensor, "row d_model"],
    negative: Float[Tensor, "other d_model"],
) -> Direction:
    """The direction with both classes' means along it, and their pooled standard deviation."""
    unit = direction.vector.double()
    along = positive.double() @ unit, negative.double() @ unit
    means = along[0].mean(), along[1].mean()
    within = torch.cat([along[0] - means[0], along[1] - means[1]])
    freedom = max(len(within) - 2, 1)
    return replace(
        direction,
        positive_mean=float(means[0]),
        negative_mean=float(means[1]),
        sigma=float((within.square().sum() / freedom).sqrt()),
    )
