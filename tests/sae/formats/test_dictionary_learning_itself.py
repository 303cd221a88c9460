"""dictionary_learning 0.1.0 as the oracle, both ways, in an environment of its own.

It pins an nnsight of 2024, which this project's environment must not hold.
"""

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sae.checkpoint import load, save_dictionary_learning
from sae.model import SparseAutoencoder
from sae.sparsity import BatchTopK, JumpReLU, ReLU, TopK

pytestmark = pytest.mark.slow

NEEDED = (
    "dictionary_learning==0.1.0",
    "nnsight==0.3.7",
    "accelerate",
    "bidict",
    "diffusers",
    "h11",
    "python-engineio",
    "python-socketio",
    "simple-websocket",
    "wsproto",
    "zstandard",
)
OURS = {"relu": ReLU(), "topk": TopK(3), "batchtopk": BatchTopK(3, 0.4), "jumprelu": JumpReLU()}
THEIRS = (
    "AutoEncoder",
    "AutoEncoderNew",
    "GatedAutoEncoder",
    "AutoEncoderTopK",
    "BatchTopKSAE",
    "MatryoshkaBatchTopKSAE",
    "JumpReluAutoEncoder",
)

ORACLE = """
import json, sys
from pathlib import Path
import torch
from safetensors.torch import load_file, save_file
from dictionary_learning import dictionary
from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
from dictionary_learning.trainers.top_k import AutoEncoderTopK
from dictionary_learning.utils import load_dictionary
root = Path(sys.argv[1])
x = load_file(root / "resid.safetensors")["resid"].double()
@torch.no_grad()
def record(ae, name, norm=1.0):
    ae = ae.double()
    acts = ae.encode(x)
    recon = ae.decode(acts).clone()
    save_file({"acts": acts * norm, "recon": recon}, root / f"{name}.out.safetensors")
for folder in sorted((root / "ours").iterdir()):
    record(load_dictionary(str(folder), "cpu")[0], folder.name)
torch.manual_seed(0)
made = {
    "AutoEncoder": dictionary.AutoEncoder(8, 24),
    "AutoEncoderNew": dictionary.AutoEncoderNew(8, 24),
    "GatedAutoEncoder": dictionary.GatedAutoEncoder(8, 24),
    "AutoEncoderTopK": AutoEncoderTopK(8, 24, 3),
    "BatchTopKSAE": BatchTopKSAE(8, 24, 3),
    "MatryoshkaBatchTopKSAE": MatryoshkaBatchTopKSAE(8, 24, 3, [8, 16]),
    "JumpReluAutoEncoder": dictionary.JumpReluAutoEncoder(8, 24),
}
for name, ae in made.items():
    for key, parameter in ae.named_parameters():
        if "ec" not in key or "b_" in key or "bias" in key:
            parameter.data = 0.5 * torch.randn_like(parameter)
    if name in ("AutoEncoder", "AutoEncoderNew"):
        ae.decoder.weight.data *= torch.rand(24) * 20 + 1
    if name == "JumpReluAutoEncoder":
        ae.threshold.data = ae.threshold.data.abs()
    if hasattr(ae, "k"):
        ae.threshold.fill_(0.6)
    folder = root / "theirs" / name
    folder.mkdir(parents=True)
    torch.save({key: value.cpu() for key, value in ae.state_dict().items()}, folder / "ae.pt")
    trainer = {"dict_class": name, "activation_dim": 8, "dict_size": 24}
    trainer |= {"layer": 1, "lm_name": "tiny", "submodule_name": "resid_post_layer_1"}
    if hasattr(ae, "k"):
        trainer["k"] = ae.k.item()
    (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {}}))
    W_dec = ae.W_dec if hasattr(ae, "W_dec") else ae.decoder.weight.T
    record(ae, "theirs-" + name, W_dec.detach().double().norm(dim=1))
print("done")
"""


@pytest.fixture(scope="module")
def oracle(
    peer_python: Callable[[str, Sequence[str]], Path],
    tmp_path_factory: pytest.TempPathFactory,
    make_sae: Callable[..., SparseAutoencoder],
) -> Path:
    """A folder with our autoencoders, dictionary_learning's own, and what it makes of them all."""
    python = peer_python("dictionary_learning", NEEDED)
    root = tmp_path_factory.mktemp("dictionary_learning")
    save_file({"resid": stream()}, root / "resid.safetensors")
    for name, rule in OURS.items():
        save_dictionary_learning(make_sae(rule), root / "ours" / name)
    done = subprocess.run([python, "-c", ORACLE, root], capture_output=True, text=True, check=False)
    assert done.stdout.strip().endswith("done"), done.stderr
    return root


def stream() -> torch.Tensor:
    return 1.0 + 2.0 * torch.randn(200, 8, generator=torch.Generator().manual_seed(3))


def agree(sae: SparseAutoencoder, told: dict[str, torch.Tensor]) -> None:
    """Differences of at most 1e-6 of the largest value, both sides computed in float64."""
    sae = sae.to("cpu", torch.float64)
    acts = sae.encode(stream().double())
    for found, wanted in ((acts, told["acts"]), (sae.decode(acts), told["recon"])):
        scale = max(1.0, float(wanted.abs().max()))
        assert float((found - wanted).abs().max()) <= 1e-6 * scale
    assert 0.01 < float((acts > 0).double().mean()) < 0.99


@pytest.mark.parametrize("name", OURS)
def test_dictionary_learning_reads_what_we_wrote(
    oracle: Path, make_sae: Callable[..., SparseAutoencoder], name: str
) -> None:
    agree(make_sae(OURS[name]), load_file(oracle / f"{name}.out.safetensors"))


@pytest.mark.parametrize("name", THEIRS)
def test_we_read_what_dictionary_learning_wrote(oracle: Path, name: str) -> None:
    sae = load(oracle / "theirs" / name)
    agree(sae, load_file(oracle / f"theirs-{name}.out.safetensors"))
    assert sae.hook_point == "blocks.1.hook_resid_post"
