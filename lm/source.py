"""Where a language model's files lie, and the few facts its config.json tells without torch.

A folder is read as it is and never touches the network; any other name is asked of the hub.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm.errors import ModelNotFound

HUB_FILES = ["*.json", "*.txt", "*.model", "*.safetensors", "*.jinja"]
HUB_IGNORES = ["onnx/*", "*/*"]


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What config.json says of the text model."""

    model_type: str
    architecture: str | None
    n_vocab: int
    context: int
    """Tokens that one sequence may have."""


def find_folder(name_or_path: str | Path) -> Path:
    """The folder that holds the model: itself, or the hub's snapshot of that name.

    Raises:
        ModelNotFound: no such folder and no such name, or the folder holds no config.json.
    """
    folder = Path(name_or_path).expanduser()
    if not folder.is_dir():
        if folder.exists() or isinstance(name_or_path, Path) or _looks_like_a_path(name_or_path):
            raise ModelNotFound(
                f"{folder} is not a folder; expected one with config.json and weights; "
                "give the folder that save_pretrained wrote, or a name on the model hub"
            )
        folder = _from_hub(name_or_path)
    if not (folder / "config.json").is_file():
        held = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise ModelNotFound(
            f"{folder} holds no config.json (it holds {held}); expected a Hugging Face model "
            "folder; give the folder that save_pretrained wrote"
        )
    return folder


def read_facts(folder: Path) -> ModelFacts:
    """The facts in `folder`/config.json.

    Raises:
        ModelNotFound: the file is not JSON, or lacks the model's type or vocabulary.
    """
    path = folder / "config.json"
    config = read_object(path)
    text = {**config, **config.get("text_config", {})}
    n_vocab = text.get("vocab_size")
    model_type = text.get("model_type")
    if not isinstance(n_vocab, int) or not isinstance(model_type, str):
        raise ModelNotFound(
            f"{path} says nothing of model_type or vocab_size; expected a language model's "
            "config; give another folder"
        )
    keys = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")
    context = next((text[key] for key in keys if isinstance(text.get(key), int)), 2048)
    architectures = config.get("architectures") or [None]
    return ModelFacts(model_type, architectures[0], n_vocab, context)


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a model folder; an absent file is an empty object.

    Raises:
        ModelNotFound: the file is not a JSON object.
    """
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelNotFound(
            f"{path} is not JSON ({error}); expected an object; fetch it again"
        ) from error
    if not isinstance(value, dict):
        raise ModelNotFound(
            f"{path} holds {type(value).__name__}; expected an object; fetch it again"
        )
    return value


def _looks_like_a_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(name, allow_patterns=HUB_FILES, ignore_patterns=HUB_IGNORES)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelNotFound(
            f"{name!r} is no folder here, and the model hub gave none ({reason}); expected a "
            "folder or a name on the hub; check the spelling and the network"
        ) from error
    return Path(folder)
