"""Our files are SAELens' files: `cfg.json` and `sae_weights.safetensors`.

Whatever is saved here loads with `sae_lens.SAE.load_from_disk` and encodes and decodes the same;
whatever SAELens saved for inference loads here, with decoder norms and input biases folded, or is
refused by name where folding would change it.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, assert_never

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from sae.convert import from_sae_lens
from sae.errors import SaeFileError
from sae.model import SparseAutoencoder
from sae.sparsity import BatchTopK, JumpReLU, ReLU, TopK

CFG = "cfg.json"
WEIGHTS = "sae_weights.safetensors"
FORMAT_VERSION = "6.54.0"
"""The version of SAELens whose format this is; older readers treat it as their own."""


def save(sae: SparseAutoencoder, folder: Path) -> None:
    """Write both files, norms folded; the configuration last: a folder that has it is whole."""
    sae = sae.fold_norms()
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"W_enc": sae.W_enc, "W_dec": sae.W_dec, "b_enc": sae.b_enc, "b_dec": sae.b_dec}
    if isinstance(sae.sparsity, BatchTopK | JumpReLU) and sae.threshold is not None:
        tensors["threshold"] = sae.threshold
    scratch = folder / f".{WEIGHTS}.partial"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, scratch)
    os.replace(scratch, folder / WEIGHTS)
    scratch = folder / f".{CFG}.partial"
    text = json.dumps(_cfg(sae), indent=2, sort_keys=True, allow_nan=False)
    scratch.write_text(text + "\n", encoding="utf-8")
    os.replace(scratch, folder / CFG)


def load(folder: Path, *, norm_scaling_factor: float | None = None) -> SparseAutoencoder:
    """An autoencoder from a folder in SAELens' format, in float32, with unit decoder rows.

    Args:
        norm_scaling_factor: for files in scaled space (`expected_average_only_in`), the factor
            that their activations were multiplied by.

    Raises:
        SaeFileError: a file is missing or damaged, or the autoencoder cannot be read faithfully.
    """
    for name in (CFG, WEIGHTS):
        if not (folder / name).is_file():
            raise SaeFileError(
                f"{folder} has no {name}; expected an autoencoder in SAELens' format "
                f"({CFG} and {WEIGHTS}); run `tiller run --to train` or check the path"
            )
    try:
        cfg = json.loads((folder / CFG).read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS)
    except (SafetensorError, ValueError) as error:
        raise SaeFileError(
            f"{folder} cannot be read ({error}); expected JSON and safetensors; fetch it again"
        ) from error
    if not isinstance(cfg, dict):
        raise SaeFileError(
            f"{folder / CFG} holds {type(cfg).__name__}; expected an object; mend it"
        )
    return from_sae_lens(cfg, tensors, str(folder), norm_scaling_factor=norm_scaling_factor)


def _cfg(sae: SparseAutoencoder) -> dict[str, Any]:
    metadata: Mapping[str, Any] = {
        **sae.metadata,
        "hook_name": sae.hook_point,
        "sae_lens_version": FORMAT_VERSION,
    }
    common = {
        "d_in": sae.d_model,
        "d_sae": sae.d_sae,
        "dtype": str(sae.W_enc.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
    }
    match sae.sparsity:
        case ReLU():
            return {**common, "architecture": "standard", "metadata": dict(metadata)}
        case TopK(k):
            threshold = None if sae.threshold is None else float(sae.threshold[0])
            return {
                **common,
                "architecture": "topk",
                "k": k,
                "rescale_acts_by_decoder_norm": True,
                "metadata": {**metadata, "latent_threshold": threshold},
            }
        case BatchTopK(k):
            told = {**metadata, "training_architecture": "batchtopk", "k": k}
            return {**common, "architecture": "jumprelu", "metadata": told}
        case JumpReLU():
            return {**common, "architecture": "jumprelu", "metadata": dict(metadata)}
        case _:
            assert_never(sae.sparsity)
