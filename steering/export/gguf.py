"""A control vector as llama.cpp and repeng read it: tensors `direction.N` in a GGUF file.

`direction.N` is added to what block N (0-based) writes out, that is at blocks.N.hook_resid_post:
llama.cpp's loader puts direction.N at row N - 1 of its buffer, and its graph reads row il - 1
behind block il. So there is no offset, and no tensor for the output of block 0. llama.cpp's own
generator names the output of block i `direction.{i + 1}`, one block later than it was read;
repeng names it `direction.{i}`, as this file does.

Source: llama.cpp, `common_control_vector_load_one` and `llama_adapter_cvec::apply`; repeng,
`ControlVector.export_gguf`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from types import ModuleType

from jaxtyping import Float
from torch import Tensor

from lm.hookpoint import HookPoint
from lm.model import LanguageModel
from steering.errors import ExportError
from steering.export.card import model_name
from steering.export.constant import as_float32, pushes
from steering.export.folder import require_absent
from steering.intervention import Intervention
from store.atomic import whole_file

ARCHITECTURE = "controlvector"
ACTS_ON = "every position, position 0 and special tokens too"
"""What a control vector does, as the file itself says."""
MODEL_SHA = "tiller.base_model_sha256"
"""The key under which the model's weights are named."""
_FORM = "a control vector"


def save_control_vector(
    lm: LanguageModel, edits: Sequence[Intervention], out: Path
) -> dict[int, Float[Tensor, " d_model"]]:
    """Write a GGUF control vector, to be used at scale 1; gives each block's vector.

    Args:
        lm: the model that the edits are for; llama.cpp runs its converted twin.
        edits: each an `Add` on every token, at the output of a block but the first.
        out: a file that does not exist yet.

    Raises:
        ExportError: an edit is no constant push at such a place, `out` exists, or the package
            `gguf` is missing; nothing was written.
        SteeringError: the edits do not fit the model.
    """
    require_absent(out)
    gguf = require_package()
    found: dict[int, Tensor] = {}
    for point, push in pushes(lm, edits, _FORM).items():
        block = _block(point)
        found[block] = found[block] + push if block in found else push
    vectors = {block: as_float32(push) for block, push in sorted(found.items())}
    with whole_file(out) as scratch, closing(gguf.GGUFWriter(scratch, ARCHITECTURE)) as writer:
        writer.add_string(f"{ARCHITECTURE}.model_hint", _hint(lm))
        writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(vectors))
        writer.add_string("general.description", f"Acts on {ACTS_ON}; use at scale 1.")
        writer.add_string("tiller.positions", ACTS_ON)
        writer.add_string("tiller.base_model", model_name(lm))
        writer.add_string(MODEL_SHA, lm.weights_sha())
        for block, vector in vectors.items():
            writer.add_tensor(f"direction.{block}", vector.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    return vectors


def _block(point: HookPoint) -> int:
    """The block whose output a control vector would change to push at this hook point."""
    block = point.layer if point.site == "resid_post" else point.layer - 1
    if point.site == "resid_mid" or block < 1:
        raise ExportError(
            f"{point}; expected the output of block 1 or a later one, since a control vector acts "
            "nowhere else; push at 'blocks.1.hook_resid_post' or later, or export a checkpoint"
        )
    return block


def _hint(lm: LanguageModel) -> str:
    return str(lm.model.config.get_text_config(decoder=True).model_type)


def require_package() -> ModuleType:
    """The package `gguf`, an extra of this project.

    Raises:
        ExportError: it is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise ExportError(
            f"the package gguf cannot be imported ({error}); expected it for control vectors; "
            "install it with `pip install 'tiller[export]'`"
        ) from error
    return gguf
