"""From SAELens' configuration and tensors to an autoencoder with unit decoder rows.

Every difference between sources is folded into the weights, once, in float64: an encoder that
does not subtract `b_dec`, scaled inputs, decoder norms. What cannot be folded is refused by name.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sae.errors import SaeFileError, SaeShapeError
from sae.model import SparseAutoencoder
from sae.sparsity import BatchTopK, JumpReLU, ReLU, Sparsity, TopK

_READABLE = ("standard", "topk", "jumprelu", "batchtopk", "matryoshka_batchtopk")
_OLD_NAMES = {"hook_point": "hook_name", "activation_fn_str": "activation_fn"}


def from_sae_lens(
    cfg: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    name: str,
    *,
    norm_scaling_factor: float | None = None,
) -> SparseAutoencoder:
    """The autoencoder that SAELens would make of these, in float32 and the stream's units.

    BatchTopK's training checkpoints are read too, at their running threshold.

    Args:
        name: what to call it in an error.
        norm_scaling_factor: as in `sae.checkpoint.load`.

    Raises:
        SaeFileError: it cannot be read faithfully.
    """
    told = _settled(cfg)
    architecture = told["architecture"]
    _refuse_unreadable(told, name, norm_scaling_factor)
    exact = {key: value.detach().cpu().double() for key, value in tensors.items()}
    missing = {"W_enc", "W_dec", "b_enc", "b_dec"} - exact.keys()
    if architecture not in {"topk", "standard"}:
        wanted = "threshold" if architecture == "jumprelu" else "topk_threshold"
        missing |= {wanted} - exact.keys()
    if missing:
        raise SaeFileError(
            f"{name} lacks {', '.join(sorted(missing))}; expected {architecture} weights; "
            "fetch it again"
        )
    _require_matrices(told, exact, name)
    W_enc, W_dec, b_enc, b_dec = (exact[key] for key in ("W_enc", "W_dec", "b_enc", "b_dec"))
    if told["normalize_activations"] == "expected_average_only_in":
        factor = float(norm_scaling_factor or 1.0)
        W_enc, W_dec, b_dec = W_enc * factor, W_dec / factor, b_dec / factor
    if not told["apply_b_dec_to_input"]:
        b_enc = b_enc + b_dec @ W_enc
    sparsity, threshold = _sparsity(told, exact)
    metadata = {key: value for key, value in told["metadata"].items() if key != "hook_name"}
    if "batchtopk" in architecture:
        metadata |= {"training_architecture": architecture, "k": told["k"]}
    try:
        sae = SparseAutoencoder(
            W_enc,
            W_dec,
            b_enc,
            b_dec,
            sparsity,
            threshold,
            str(told["metadata"].get("hook_name") or ""),
            metadata,
        )
        if isinstance(sparsity, TopK):
            sae = _folded_top_k(sae, rescaled=bool(told.get("rescale_acts_by_decoder_norm")))
        return _as_trained(sae.fold_norms().to("cpu", torch.float32))
    except SaeShapeError as error:
        raise SaeFileError(f"{name} cannot be read: {error}") from error


def _settled(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration of any age in today's words."""
    told = {_OLD_NAMES.get(key, key): value for key, value in cfg.items()}
    found = told.get("metadata") or {}
    metadata = dict(found) if isinstance(found, Mapping) else {}
    if "hook_name" not in metadata and "hook_name" in told:
        metadata["hook_name"] = told["hook_name"]
    if "model_name" not in metadata and "model_name" in told:
        metadata["model_name"] = told["model_name"]
    told["metadata"] = metadata
    arguments = told.get("activation_fn_kwargs") or {}
    if told.get("activation_fn") == "topk" and "k" in arguments:
        told["architecture"], told["k"] = "topk", arguments["k"]
    told.setdefault("architecture", "standard")
    told.setdefault("apply_b_dec_to_input", True)
    told.setdefault("reshape_activations", "none")
    scaling = told.get("normalize_activations") or "none"
    told["normalize_activations"] = "expected_average_only_in" if scaling is True else scaling
    return told


def _refuse_unreadable(told: Mapping[str, Any], name: str, factor: float | None) -> None:
    architecture, scaling = told["architecture"], told["normalize_activations"]
    if architecture not in _READABLE:
        raise SaeFileError(
            f"{name} is a {architecture} autoencoder; expected one of {', '.join(_READABLE)}; "
            "choose another"
        )
    if told["reshape_activations"] != "none":
        raise SaeFileError(
            f"{name} reshapes its input ({told['reshape_activations']}); expected one of the "
            "residual stream; choose another"
        )
    if told.get("finetuning_scaling_factor"):
        raise SaeFileError(
            f"{name} rescales its activations after training (finetuning_scaling_factor); expected "
            "plain weights; choose another"
        )
    if scaling == "expected_average_only_in" and factor is None:
        raise SaeFileError(
            f"{name} was saved in scaled space (normalize_activations {scaling!r}) without its "
            "factor; expected weights in the stream's units; fold it with SAELens "
            "(fold_activation_norm_scaling_factor) or pass norm_scaling_factor"
        )
    if scaling not in ("none", "expected_average_only_in"):
        raise SaeFileError(
            f"{name} normalises every token by itself (normalize_activations {scaling!r}), which "
            "no weights can hold; expected 'none'; choose another"
        )


def _require_matrices(told: Mapping[str, Any], exact: Mapping[str, Tensor], name: str) -> None:
    if exact["W_enc"].dim() != 2 or exact["W_dec"].dim() != 2:
        raise SaeFileError(
            f"{name} has W_enc of shape {tuple(exact['W_enc'].shape)} and W_dec of shape "
            f"{tuple(exact['W_dec'].shape)}; expected two matrices; fetch it again"
        )
    # A threshold may be infinite: a latent that is switched off.
    weights = ("W_enc", "W_dec", "b_enc", "b_dec")
    spoilt = [key for key in weights if not bool(exact[key].isfinite().all())]
    if spoilt:
        raise SaeFileError(
            f"{name} holds NaN or infinity in {', '.join(spoilt)}; expected finite weights; "
            "fetch it again"
        )
    if told["architecture"].endswith("topk") and not isinstance(told.get("k"), int | float):
        raise SaeFileError(
            f"{name} is a {told['architecture']} autoencoder without its k; expected a number in "
            "cfg.json; fetch it again"
        )


def _sparsity(
    told: Mapping[str, Any], exact: Mapping[str, Tensor]
) -> tuple[Sparsity, Tensor | None]:
    """The rule, and its thresholds in the units of the weights before norms are folded."""
    b_enc, metadata = exact["b_enc"], told["metadata"]
    match told["architecture"]:
        case "standard":
            return ReLU(), None
        case "topk":
            value = metadata.get("latent_threshold")
            threshold = None if value is None else torch.full_like(b_enc, float(value))
            return TopK(int(told["k"])), threshold
        case "jumprelu":
            return JumpReLU(), exact["threshold"]
        case _:
            # The running threshold is compared with activations scaled by their decoder norm.
            norm = exact["W_dec"].norm(dim=1).clamp_min(1e-8)
            return JumpReLU(), exact["topk_threshold"] / norm


def _as_trained(sae: SparseAutoencoder) -> SparseAutoencoder:
    """BatchTopK again, where a JumpReLU with one threshold says that it was trained so."""
    details = {**(sae.metadata.get("training_architecture_details") or {}), **sae.metadata}
    trained = str(details.get("training_architecture"))
    if sae.threshold is None or not trained.endswith("batchtopk") or not details.get("k"):
        return sae
    if not bool((sae.threshold == sae.threshold[0]).all()):
        return sae
    k = max(1, round(float(details["k"])))
    return replace(sae, sparsity=BatchTopK(k, float(sae.threshold[0])))


def _folded_top_k(sae: SparseAutoencoder, *, rescaled: bool) -> SparseAutoencoder:
    """TopK chosen after scaling by the decoder norm is TopK of the folded weights."""
    if not rescaled or sae.has_unit_rows:
        return sae
    norm = sae.W_dec.norm(dim=1).clamp_min(1e-8)
    return replace(
        sae, W_enc=sae.W_enc * norm, W_dec=sae.W_dec / norm.unsqueeze(1), b_enc=sae.b_enc * norm
    )
