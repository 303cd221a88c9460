"""A training run's checkpoint: one file, whole or absent.

It holds all that a step changes (weights, Adam's moments, idle times), the scale, and the rows
reported so far, so that a killed run continues as if nothing had happened.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sae.errors import TrainingError
from sae.step import SparseStep

FILE = "checkpoint.safetensors"
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True, eq=False, slots=True)
class State:
    """A checkpoint as read."""

    tensors: Mapping[str, Tensor]
    done: int
    floor: float
    mean: Float[Tensor, " d_model"]
    unit: float
    rows: list[dict[str, Any]]


def run_key(config: Mapping[str, Any], first: Float[Tensor, "token d_model"]) -> str:
    """What makes two runs the same: the settings, and the first batch to the bit."""
    told = {key: value for key, value in config.items() if key != "checkpoint_steps"}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    digest.update(first.numpy().tobytes())
    return digest.hexdigest()[:16]


def capture(step: SparseStep) -> dict[str, Tensor]:
    """All tensors that a step changes, by name."""
    tensors = {"idle": step.idle}
    for name, tensor in step.weights.tensors().items():
        tensors[name] = tensor
        for moment in _MOMENTS:
            tensors[f"{name}.{moment}"] = step.optimizer.state[tensor][moment]
    return tensors


def restore(step: SparseStep, state: State) -> None:
    """Put a checkpoint's tensors into a new step."""
    step.idle.copy_(state.tensors["idle"])
    step.floor = state.floor
    for name, tensor in step.weights.tensors().items():
        tensor.copy_(state.tensors[name])
        moments = {moment: state.tensors[f"{name}.{moment}"] for moment in _MOMENTS}
        step.optimizer.state[tensor] = moments


def save(folder: Path, run: str, state: State) -> None:
    """Write a checkpoint beside its place, then move it there."""
    facts = {"run": run, "done": state.done, "floor": state.floor, "unit": state.unit}
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / f".{FILE}.partial"
    metadata = {"facts": json.dumps(facts), "rows": json.dumps(state.rows)}
    save_file({**state.tensors, "mean": state.mean}, scratch, metadata=metadata)
    os.replace(scratch, folder / FILE)


def load(folder: Path, run: str) -> State | None:
    """The checkpoint in `folder`, or None where there is none.

    Raises:
        TrainingError: the file is damaged, or belongs to another config or other activations.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()["facts"])
            rows = json.loads(file.metadata()["rows"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise TrainingError(
            f"{path} is not a whole checkpoint ({error}); expected one of this run; delete it"
        ) from error
    if facts["run"] != run:
        raise TrainingError(
            f"{path} belongs to another run; expected the same settings and activations; delete it "
            "or train in another folder"
        )
    mean = tensors.pop("mean")
    return State(tensors, facts["done"], facts["floor"], mean, facts["unit"], rows)
