"""decoder: what a latent writes, u = W_dec[f] / |W_dec[f]|.

Causal by construction, yet not by meaning: a latent that reads a concept may write little of it,
so `select` chooses among them by what they cause. A dead latent's row is arbitrary and refused.

Source: Templeton et al. 2024, "Scaling Monosemanticity" (feature steering by clamping).
"""

from __future__ import annotations

import logging
import math

from sae.model import SparseAutoencoder
from sae.sparsity import MatchingPursuit, ReLU
from steering.direction import Direction, Fact
from steering.errors import DirectionError
from steering.target import FullEncode, Latent

log = logging.getLogger(__name__)


def decoder(
    sae: SparseAutoencoder,
    feature_id: int,
    *,
    max_act: float,
    mean_norm: float | None = None,
    concept: str | None = None,
    run_id: str | None = None,
    sae_sha: str | None = None,
    model_sha: str | None = None,
) -> Direction:
    """The direction that latent `feature_id` writes.

    Args:
        sae: any; its decoder rows need not be of length 1.
        feature_id: 0-based.
        max_act: largest activation seen, in the stream's units; 0 for a dead latent.
        mean_norm: mean norm of the stream at the autoencoder's hook point.
        concept: what it was chosen for.
        run_id: the autoencoder's slug, kept as provenance.
        sae_sha: sha256 of the autoencoder's weights, kept as provenance where it is known.
        model_sha: sha256 of the weights of the model that the autoencoder was trained on.

    Raises:
        DirectionError: there is no such latent, or it is dead.
    """
    _require_alive(sae, feature_id, max_act)
    return Direction.from_vector(
        sae.W_dec[feature_id],
        sae.hook_point,
        mean_norm=mean_norm,
        max_act=max_act,
        source="decoder",
        concept=concept,
        provenance=_facts(run_id, feature_id, sae_sha),
        model_sha=model_sha,
    )


def latent(
    sae: SparseAutoencoder,
    feature_id: int,
    *,
    max_act: float,
    mean_norm: float | None = None,
    concept: str | None = None,
    run_id: str | None = None,
    sae_sha: str | None = None,
    model_sha: str | None = None,
    full_encode: bool = False,
) -> Latent:
    """The latent as a target that reads its own activation, for set, cap, floor, scale and gates.

    Reading it takes its encoder column alone. For TopK the calibrated threshold decides whether it
    fires, as often as in training though not always on the same tokens. A kind that cannot do
    without the other latents (matching pursuit, TopK without a threshold) is encoded whole, and
    the log says so.

    Args:
        concept, sae_sha, model_sha: as for `decoder`.
        full_encode: encode the whole autoencoder even where a threshold would do.

    Raises:
        DirectionError: there is no such latent, or it is dead.
    """
    _require_alive(sae, feature_id, max_act)
    name = f"latent {feature_id}" if run_id is None else f"latent {run_id}/{feature_id}"
    needs_all = isinstance(sae.sparsity, MatchingPursuit)
    needs_all |= sae.threshold is None and not isinstance(sae.sparsity, ReLU)
    length = float(sae.W_dec[feature_id].double().norm())
    if needs_all or full_encode:
        log.info("%s of %s is read by encoding all %d latents", name, sae.sparsity, sae.d_sae)
    # Scaled so that an activation is the length written, also for rows that are not of length 1.
    column = sae.W_enc[:, feature_id].double() * length
    bias = float(sae.b_enc[feature_id].double() * length - sae.b_dec.double() @ column)
    own = 0.0 if sae.threshold is None else float(sae.threshold[feature_id]) * length
    return Latent(
        reader=column.float(),
        bias=bias,
        threshold=max(own, 0.0),
        writer=(sae.W_dec[feature_id].double() / length).float(),
        hook_point=sae.hook_point,
        max_act=max_act,
        mean_norm=mean_norm,
        source=name,
        full=FullEncode(sae, feature_id, length) if needs_all or full_encode else None,
        concept=concept,
        provenance=_facts(run_id, feature_id, sae_sha),
        model_sha=model_sha,
    )


def _facts(run_id: str | None, feature_id: int, sae_sha: str | None) -> dict[str, Fact]:
    facts: dict[str, Fact] = {"run_id": run_id, "feature_id": feature_id}
    return facts if sae_sha is None else {**facts, "sae_sha": sae_sha}


def _require_alive(sae: SparseAutoencoder, feature_id: int, max_act: float) -> None:
    if not 0 <= feature_id < sae.d_sae:
        raise DirectionError(
            f"latent {feature_id} does not exist; expected 0 to {sae.d_sae - 1}; correct the number"
        )
    if not (math.isfinite(max_act) and max_act > 0) or not bool(sae.W_dec[feature_id].any()):
        raise DirectionError(
            f"latent {feature_id} is dead (largest activation {max_act:g}); expected one that "
            "fires, since a dead latent's direction is arbitrary; choose another"
        )
