"""Autoencoders that others trained, through SAELens' registry.

The only file that imports `sae_lens`, and only when called: the import costs seconds and half a
gigabyte, and loading may fetch files from the model hub.
"""

from sae.convert import from_sae_lens
from sae.errors import SaeFileError
from sae.model import SparseAutoencoder


def load_pretrained(release: str, sae_id: str) -> SparseAutoencoder:
    """An autoencoder of SAELens' registry (Gemma Scope and others), in the stream's units.

    Args:
        release: the registry's name of the set, for example `gpt2-small-res-jb`.
        sae_id: the member, for example `blocks.8.hook_resid_pre`.

    Raises:
        SaeFileError: no such release or member, no network, or one that cannot be read faithfully.
    """
    from sae_lens import SAE

    try:
        sae, cfg, _ = SAE.from_pretrained_with_cfg_and_sparsity(release, sae_id, device="cpu")
    except (ValueError, OSError) as error:
        raise SaeFileError(
            f"{release}/{sae_id} cannot be fetched ({' '.join(str(error).split())}); expected a "
            "member of SAELens' registry; check the names and the network"
        ) from error
    return from_sae_lens({**cfg, **sae.cfg.to_dict()}, sae.state_dict(), f"{release}/{sae_id}")
