"""The file for the evaluation harness: one entry a module, and the same logits as the hooks."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lm.model import LanguageModel
from steering.direction import Direction
from steering.errors import ExportError
from steering.export.constant import ALL_POSITIONS
from steering.export.lm_eval import save_steered
from steering.intervention import Add, Intervention
from steering.steer import steer

MakeModel = Callable[[str], LanguageModel]
MakeDirection = Callable[[str], Direction]
HARNESS = (
    "lm_eval==0.4.13",
    "peft==0.21.2",
    "absl-py==2.5.1",
    "chardet==6.0.0.post1",
    "DataProperty==1.1.1",
    "evaluate==0.4.6",
    "lxml==6.1.3",
    "mbstrdecoder==1.1.5",
    "more-itertools==11.2.1",
    "pathvalidate==3.3.1",
    "portalocker==4.4.2",
    "pytablewriter==1.2.1",
    "pytz==2026.6",
    "rouge_score==0.1.2",
    "sacrebleu==2.6.0",
    "scikit-learn==1.9.1",
    "sqlitedict==2.1.0",
    "tabledata==1.3.5",
    "tcolorpy==0.1.7",
    "threadpoolctl==3.8.0",
    "typepy==1.3.5",
    "word2number==1.1",
)
IDS = torch.randint(3, 320, (2, 9), generator=torch.Generator().manual_seed(1))


def push(direction: Direction, coefficient: float = 0.7) -> Add:
    return Add(direction, coefficient, positions=ALL_POSITIONS)


def as_the_harness_runs(lm: LanguageModel, path: Path) -> Tensor:
    """Logits with the file's vectors added to the outputs of the modules that it names."""
    entries: dict[str, dict[str, Any]] = torch.load(path, weights_only=True)
    modules = dict(lm.model.base_model.named_modules())

    def adds(entry: dict[str, Any]) -> Callable[[nn.Module, Any, Any], Any]:
        vector = entry["steering_vector"] * entry["steering_coefficient"]

        def hook(_module: nn.Module, _given: Any, out: Any) -> Any:
            return (out[0] + vector, *out[1:]) if isinstance(out, tuple) else out + vector

        return hook

    handles = [modules[name].register_forward_hook(adds(e)) for name, e in entries.items()]
    try:
        logits: Tensor = lm.model(IDS).logits
    finally:
        for handle in handles:
            handle.remove()
    return logits


def some_edits(lm: LanguageModel, direction: MakeDirection) -> list[Intervention]:
    places = ["blocks.1.hook_resid_post", "blocks.2.hook_resid_pre", "blocks.2.hook_resid_post"]
    if lm.mid is not None:
        places.append("blocks.0.hook_resid_mid")
    return [push(direction(place), 0.3) for place in places]


@pytest.mark.parametrize(
    "family", ["llama", "gpt2", "gpt_neox", "gpt_neox parallel", "opt", "phi", "gemma2", "qwen3"]
)
def test_the_named_modules_take_the_logits_where_the_hooks_take_them(
    family: str, tiny: MakeModel, direction: MakeDirection, tmp_path: Path
) -> None:
    lm = tiny(family)
    edits = some_edits(lm, direction)
    vectors = save_steered(lm, edits, tmp_path / "sea.pt")
    assert len(vectors) == (2 if lm.mid is None else 3)
    with steer(lm, edits):
        expected = lm.model(IDS).logits
    torch.testing.assert_close(as_the_harness_runs(lm, tmp_path / "sea.pt"), expected)
    assert (expected - lm.model(IDS).logits).abs().max() > 1e-2


def test_two_features_on_one_layer_become_one_vector(
    tiny: MakeModel, direction: MakeDirection, tmp_path: Path
) -> None:
    # The harness keeps the last of two entries of one module.
    pre, post = direction("blocks.2.hook_resid_pre"), direction("blocks.1.hook_resid_post")
    save_steered(tiny("llama"), [push(pre), push(post, -0.2)], tmp_path / "two.pt")
    (entry,) = torch.load(tmp_path / "two.pt", weights_only=True).values()
    both = pre.scaled(0.7, "norm") + post.scaled(-0.2, "norm")
    torch.testing.assert_close(entry["steering_vector"], both)
    assert (entry["action"], entry["steering_coefficient"]) == ("add", 1.0)
    assert entry["bias"] is None


def test_a_place_or_name_that_the_harness_does_not_know_is_refused(
    tiny: MakeModel, direction: MakeDirection, tmp_path: Path
) -> None:
    lm, late = tiny("llama"), push(direction("blocks.1.hook_resid_post"))
    with pytest.raises(ExportError, match="behind a block"):
        save_steered(lm, [push(direction("blocks.0.hook_resid_pre"))], tmp_path / "sea.pt")
    with pytest.raises(ExportError, match=r"call it sea\.pt"):
        save_steered(lm, [late], tmp_path / "sea.bin")
    with pytest.raises(ExportError, match="position 0 too"):
        save_steered(lm, [Add(late.target, 1.0)], tmp_path / "sea.pt")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "sea.pt").write_text("kept")
    with pytest.raises(ExportError, match="exists"):
        save_steered(lm, [late], tmp_path / "sea.pt")
    assert (tmp_path / "sea.pt").read_text() == "kept"


RUN = """
import json, sys, torch
from lm_eval.models.hf_steered import SteeredModel
folder, path, ids = sys.argv[1:]
model = SteeredModel(pretrained=folder, steer_path=path, device="cpu", dtype="float32")
logits = model._model_call(torch.tensor(json.loads(ids)))
print("LOGITS", json.dumps(logits.double().tolist()))
"""


@pytest.mark.slow
def test_the_harness_itself_loads_the_file_and_computes_the_same_logits(
    tiny: MakeModel,
    direction: MakeDirection,
    tiny_lm_dir: Path,
    tmp_path: Path,
    peer_python: Callable[[str, Sequence[str]], Path],
) -> None:
    harness = peer_python("lm_eval", HARNESS)
    lm = tiny("llama")
    edits = some_edits(lm, direction)
    lm.model.save_pretrained(tmp_path / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "model" / name).write_bytes((tiny_lm_dir / name).read_bytes())
    save_steered(lm, edits, tmp_path / "sea.pt")
    done = subprocess.run(
        [harness, "-c", RUN, tmp_path / "model", tmp_path / "sea.pt", json.dumps(IDS.tolist())],
        env={"HF_HUB_OFFLINE": "1", "HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("LOGITS"))
    with steer(lm, edits):
        expected = lm.model(IDS).logits
    made = torch.tensor(json.loads(line.removeprefix("LOGITS "))).float()
    torch.testing.assert_close(made, expected, atol=1e-4, rtol=1e-4)
