"""Our GGUF control vector in llama.cpp itself, against the same push by our hooks.

llama.cpp is built by its Python binding, which takes some minutes once. It runs the microworld's
model, converted here in float32, and reads the control vector from the file that we export. The
vector laid one block off, early and late, is the control: it must not agree.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from contextlib import closing
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from benchmarks import steering_models as models
from benchmarks import table
from benchmarks.peers import PeerMissing, peer_python
from lm.model import LanguageModel
from steering.export.constant import ALL_POSITIONS
from steering.export.gguf import require_package, save_control_vector
from steering.intervention import Add
from steering.steer import steer

CHILD = Path(__file__).resolve().parent / "steering_llama_cpp_child.py"
NEEDED = ("llama-cpp-python==0.3.36", "diskcache==5.6.3")
SHARE = 0.5
"""Length of the push over the stream's mean norm."""
N_TOKENS = 64
WITHIN = 1e-4
"""Required of the largest difference, over the largest logit."""
COLUMNS = ("what", "largest logit", "largest gap", "gap / logit", "required", "")


def main() -> None:
    """Print the table, or why there is none."""
    table.title("A control vector in llama.cpp against our hooks", COLUMNS)
    try:
        python = peer_python("llama_cpp", NEEDED)
    except PeerMissing as missing:
        table.row(f"not measured: {missing}")
        return
    lm = models.microworld_model()
    ids = torch.randint(3, lm.n_vocab, (N_TOKENS,), generator=torch.Generator().manual_seed(0))
    push = _push(lm, ids)
    with torch.no_grad():
        plain = lm.model(ids[None]).logits[0]
        with steer(lm, [push]):
            hooked = lm.model(ids[None]).logits[0]
    with tempfile.TemporaryDirectory() as folder:
        model, vector = Path(folder, "model.gguf"), Path(folder, "vector.gguf")
        convert(lm, model)
        save_control_vector(lm, [push], vector)
        task = [str(model), str(vector), json.dumps(ids.tolist())]
        done = subprocess.run(
            [python, CHILD, *task], capture_output=True, text=True, check=True, cwd=folder
        )
    said = {name: torch.tensor(logits) for name, logits in json.loads(done.stdout).items()}
    _row("neither steered", plain, said["plain"], required=True)
    _row("both steered, direction.N behind block N", hooked, said["0"], required=True)
    _row("theirs one block earlier", hooked, said["-1"], required=False)
    _row("theirs one block later", hooked, said["1"], required=False)
    _row("theirs not steered", hooked, said["plain"], required=False)


def _push(lm: LanguageModel, ids: Int[Tensor, " pos"]) -> Add:
    """A random direction at half the length of the stream behind the middle block."""
    (direction,) = models.directions(lm, 1)
    resid = lm.model(ids[None], output_hidden_states=True).hidden_states[
        models.middle(lm).layer + 1
    ]
    length = SHARE * float(resid[0, 1:].norm(dim=-1).mean())
    return Add(direction, length, "raw", positions=ALL_POSITIONS)


def _row(
    what: str,
    ours: Float[Tensor, "pos vocab"],
    theirs: Float[Tensor, "pos vocab"],
    *,
    required: bool,
) -> None:
    largest, gap = float(ours.abs().max()), float((ours - theirs).abs().max())
    share, asked = gap / largest, f"≤ {WITHIN:g}" if required else f"> {WITHIN:g}"
    is_met = (share <= WITHIN) == required
    table.row(what, f"{largest:.3g}", f"{gap:.2g}", f"{share:.1e}", asked, is_met)


def convert(lm: LanguageModel, out: Path) -> None:
    """Write a Llama without grouped heads as float32 GGUF, without its tokenizer.

    Raises:
        ExportError: the package `gguf` is missing.
    """
    gguf, config = require_package(), lm.model.config
    with closing(gguf.GGUFWriter(out, "llama")) as writer:
        writer.add_tokenizer_model("none")
        writer.add_vocab_size(config.vocab_size)
        writer.add_context_length(config.max_position_embeddings)
        writer.add_embedding_length(config.hidden_size)
        writer.add_block_count(config.num_hidden_layers)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_rope_dimension_count(config.head_dim)
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
        for name, weight in lm.model.state_dict().items():
            turns = name.endswith(("q_proj.weight", "k_proj.weight"))
            own = _in_pairs(weight, config.num_attention_heads) if turns else weight
            writer.add_tensor(names.get_name(name, (".weight",)), own.float().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()


def _in_pairs(weight: Float[Tensor, "out d_model"], n_heads: int) -> Float[Tensor, "out d_model"]:
    """The rows of queries or keys in llama.cpp's order: it turns neighbouring pairs of a head by
    their place, Hugging Face the two halves."""
    by_half = weight.reshape(n_heads, 2, -1, weight.shape[1])
    return by_half.transpose(1, 2).reshape(weight.shape).contiguous()
