"""The threshold that makes held-out tokens fire as often as wanted.

A running average of training batches' cuts drifts from what inference needs; the quantile of
held-out pre-activations is what it needs.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from sae.errors import MetricError
from sae.model import SparseAutoencoder
from sae.picks import Encoder
from sae.sparsity import BatchTopK, TopK


@torch.no_grad()
def threshold_for_l0(
    sae: SparseAutoencoder, resid: Float[Tensor, "token d_model"], l0: float
) -> float:
    """The value that `l0` pre-activations a token exceed, on average over `resid`; at least 0.

    Exact: the `l0 · tokens` largest are kept while the rows stream by, and the threshold lies
    halfway between the last one kept and the next.

    Raises:
        MetricError: no tokens to calibrate on.
    """
    if resid.shape[0] == 0:
        raise MetricError(
            "no held-out activations; a threshold needs some; raise corpus.documents or the "
            "heldout share"
        )
    wanted = round(l0 * resid.shape[0])
    centred = resid.to(sae.W_enc.dtype) - sae.b_dec
    pool, floor = centred.new_zeros(0), 0.0
    for _, pre in Encoder(sae.W_enc.t(), sae.b_enc).blocks(centred):
        pool = torch.cat([pool, pre[pre > floor]])
        if pool.numel() > 2 * (wanted + 1):
            pool = pool.topk(wanted + 1, sorted=False).values
            floor = float(pool.min())
    if pool.numel() <= wanted:
        return 0.0
    last = pool.topk(wanted + 1).values
    return float((last[-1] + last[max(wanted - 1, 0)]) / 2)  # in the weights' own precision


def calibrated(sae: SparseAutoencoder, resid: Float[Tensor, "token d_model"]) -> SparseAutoencoder:
    """The same autoencoder with its held-out threshold; only the TopK family needs one.

    BatchTopK gets the threshold that it uses from now on, TopK the one by which single latents
    are read.
    """
    match sae.sparsity:
        case BatchTopK(k):
            value = threshold_for_l0(sae, resid, float(k))
            sparsity: BatchTopK | TopK = BatchTopK(k, value)
        case TopK(k):
            l0 = sae.picks(resid).value.numel() / max(resid.shape[0], 1)
            value, sparsity = threshold_for_l0(sae, resid, l0), sae.sparsity
        case _:
            return sae
    return replace(sae, sparsity=sparsity, threshold=torch.full_like(sae.b_enc, value))
