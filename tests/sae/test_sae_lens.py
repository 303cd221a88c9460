"""SAELens as the oracle, both ways; it is imported in a process of its own."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sae.checkpoint import load, save
from sae.model import SparseAutoencoder
from sae.sparsity import BatchTopK, JumpReLU, ReLU, TopK

pytestmark = pytest.mark.slow

OURS = {"relu": ReLU(), "topk": TopK(3), "batchtopk": BatchTopK(3, 0.4), "jumprelu": JumpReLU()}
THEIRS = ("standard", "standard-raw", "jumprelu", "topk", "batchtopk", "batchtopk-training")

ORACLE = """
import sys, warnings
warnings.simplefilter("ignore")
from pathlib import Path
import torch
from safetensors.torch import load_file, save_file
from sae_lens import SAE
from sae_lens.saes import *
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig
from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig
from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
root = Path(sys.argv[1])
x = load_file(root / "resid.safetensors")["resid"]
@torch.no_grad()
def record(sae, name):
    acts = sae.encode(x)
    save_file({"acts": acts, "recon": sae.decode(acts)}, root / f"{name}.out.safetensors")
for folder in sorted((root / "ours").iterdir()):
    record(SAE.load_from_disk(folder), folder.name)
size = {"d_in": 8, "d_sae": 24}
torch.manual_seed(0)
made = {
    "standard": StandardSAE(StandardSAEConfig(**size)),
    "standard-raw": StandardSAE(StandardSAEConfig(**size, apply_b_dec_to_input=False)),
    "jumprelu": JumpReLUSAE(JumpReLUSAEConfig(**size)),
    "topk": TopKTrainingSAE(TopKTrainingSAEConfig(**size, k=3)),
    "batchtopk": BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(**size, k=3)),
}
for name, sae in made.items():
    for parameter in sae.parameters():
        parameter.data = torch.randn_like(parameter)
    if name == "batchtopk":
        sae.topk_threshold = torch.tensor(0.9, dtype=torch.float64)
    folder = root / "theirs" / name
    getattr(sae, "save_inference_model", sae.save_model)(folder)
    record(SAE.load_from_disk(folder, fold_W_dec_norm=True), "theirs-" + name)
made["batchtopk"].save_model(root / "theirs" / "batchtopk-training")
print("done")
"""


@pytest.fixture(scope="module")
def oracle(
    tmp_path_factory: pytest.TempPathFactory, make_sae: Callable[..., SparseAutoencoder]
) -> Path:
    """A folder with our autoencoders, SAELens' own, and what SAELens makes of them all."""
    root = tmp_path_factory.mktemp("oracle")
    save_file({"resid": stream()}, root / "resid.safetensors")
    for name, rule in OURS.items():
        save(make_sae(rule), root / "ours" / name)
    done = subprocess.run(
        [sys.executable, "-c", ORACLE, str(root)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip().endswith("done"), done.stderr
    return root


def stream() -> torch.Tensor:
    return 1.0 + 2.0 * torch.randn(200, 8, generator=torch.Generator().manual_seed(3))


def agree(sae: SparseAutoencoder, told: dict[str, torch.Tensor]) -> None:
    acts = sae.encode(stream())
    scale = max(1.0, float(told["acts"].abs().max()))
    assert float((acts - told["acts"]).abs().max()) <= 1e-5 * scale
    scale = max(1.0, float(told["recon"].abs().max()))
    assert float((sae.decode(acts) - told["recon"]).abs().max()) <= 1e-5 * scale
    assert float((acts > 0).float().mean()) > 0.01


@pytest.mark.parametrize("name", OURS)
def test_sae_lens_reads_what_we_wrote(
    oracle: Path, make_sae: Callable[..., SparseAutoencoder], name: str
) -> None:
    agree(make_sae(OURS[name]), load_file(oracle / f"{name}.out.safetensors"))


@pytest.mark.parametrize("name", [name for name in THEIRS if not name.endswith("training")])
def test_we_read_what_sae_lens_wrote(oracle: Path, name: str) -> None:
    agree(load(oracle / "theirs" / name), load_file(oracle / f"theirs-{name}.out.safetensors"))


def test_a_training_checkpoint_gives_what_the_inference_file_gives(oracle: Path) -> None:
    sae = load(oracle / "theirs" / "batchtopk-training")
    agree(sae, load_file(oracle / "theirs-batchtopk.out.safetensors"))
    assert isinstance(sae.sparsity, BatchTopK)
    inference = load(oracle / "theirs" / "batchtopk")
    assert isinstance(inference.sparsity, BatchTopK)
    assert inference.sparsity.k == sae.sparsity.k == 3
