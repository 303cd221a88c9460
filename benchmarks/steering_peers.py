"""One add as steering-vectors and repeng do it, each against its own unsteered step.

Their pins conflict with this project's, so they live in an environment of their own. All sides
run in turns on the same model folder, ids, push and place.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks import steering_models as models
from benchmarks import table
from benchmarks.peers import PeerMissing, peer_python
from benchmarks.steering_time import (
    PROMPT_TOKENS,
    fixed_ids,
    in_turns,
    milliseconds,
    over,
    under,
)
from lm.model import LanguageModel
from microworld import MODEL_DIR
from steering.export.constant import ALL_POSITIONS
from steering.intervention import Add
from steering.steer import steer

HERE = Path(__file__).resolve().parent
OURS = "this project"
LIBRARIES = {"steering-vectors": "0.12.2", "repeng": "0.4.0"}
NEEDED = (
    *(f"{name}=={version}" for name, version in LIBRARIES.items()),
    "transformers==4.57.6",
    "huggingface-hub==0.36.2",
    "tokenizers==0.22.2",
    "scikit-learn==1.9.1",
    "joblib==1.6.0",
    "threadpoolctl==3.8.0",
    "numpy==1.26.4",
    "gguf==0.19.0",
)
"""About 60 MB to download; torch, scipy and the rest are this environment's."""
TURNS, ROUNDS, STEPS = 3, 14, 64
COLUMNS = ("what", "unsteered", "one add", "added (95 %)", "largest gap", "")

Seconds = dict[str, list[float]]


def main() -> None:
    """Print the table, or why there is none."""
    table.title("One add by other libraries, each against its own unsteered step", COLUMNS)
    try:
        python = peer_python("steering", NEEDED)
    except PeerMissing as missing:
        table.row(f"not measured: {missing}")
        return
    lm = models.microworld_model()
    push = models.directions(lm, 1)[0].vector * models.STRENGTH
    task = {
        "ids": fixed_ids(lm, 1, STEPS)[0].tolist(),
        "n_prompt": PROMPT_TOKENS,
        "push": push.tolist(),
        "layer": models.middle(lm).layer,
        "rounds": ROUNDS,
    }
    found: dict[str, Seconds] = {name: {} for name in (OURS, *LIBRARIES)}
    logits: dict[str, torch.Tensor] = {}
    for turn in range(TURNS):
        for name, known in found.items():
            side = _ours(lm, turn) if name == OURS else _theirs(python, name, task)
            seconds, logits[name] = side
            for arm, more in seconds.items():
                known.setdefault(arm, []).extend(more)
    for name, seconds in found.items():
        _row(name, seconds, float((logits[name] - logits[OURS]).abs().max()))


def _ours(lm: LanguageModel, turn: int) -> tuple[Seconds, torch.Tensor]:
    """The same add by this project, at every token as the others do it."""
    add = Add(models.directions(lm, 1)[0], models.STRENGTH, positions=ALL_POSITIONS)
    plain = under(nullcontext, lm, 1, STEPS)
    steered = under(lambda: steer(lm, [add]), lm, 1, STEPS)
    found = in_turns({"base": plain, "control": plain, "one add": steered}, ROUNDS, turn)
    with steer(lm, [add]), torch.inference_mode():
        return found, lm.model(input_ids=fixed_ids(lm, 1, STEPS)).logits[0, -1]


def _theirs(python: Path, library: str, task: Mapping[str, Any]) -> tuple[Seconds, torch.Tensor]:
    child = str(HERE / "steering_peer_child.py")
    command = [str(python), child, library, str(MODEL_DIR), json.dumps(task)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=python.parent)
    said = json.loads(done.stdout.splitlines()[-1])
    return said["seconds"], torch.tensor(said["logits"])


def _row(name: str, seconds: Seconds, gap: float) -> None:
    what = f"{name} {LIBRARIES.get(name, '')}".strip()
    control, added = over(seconds, "control", "base"), over(seconds, "one add", "base")
    extra = 1e6 * (median(seconds["one add"]) - median(seconds["base"]))
    base, mine = milliseconds(seconds["base"]), milliseconds(seconds["one add"])
    table.row(f"{what}, unsteered against itself", base, "", control.added())
    table.row(f"{what}, {extra:+.0f} µs", base, mine, added.added(), f"{gap:.1e}")
