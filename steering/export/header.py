"""What `steering.safetensors` says of itself, read with suspicion.

Field by field, within bounds, and every tensor's shape before the tensor itself: a torn, foreign or
changed file is one error that names it and what is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError
from torch import Tensor

from sae.errors import SaeError
from steering.errors import ExportError, LanguageError
from steering.export.autoencoders import AutoencoderFacts
from steering.export.targets import TargetFacts, shapes_of

KEY = "steering"
"""Of the metadata, which has no other: safetensors writes several in an order of its own."""
FORMAT = 2
MOST_EDITS = 4096
MOST_HEADER = 8 * 2**20
"""Bytes of metadata."""
MOST_DIMENSIONS = 2**17


class SaidEdit(BaseModel, frozen=True, extra="forbid", strict=True):
    name: str = Field(max_length=200)
    at: str
    says: dict[str, Any]


class Header(BaseModel, frozen=True, extra="forbid", strict=True):
    """All that the file's metadata says."""

    format: Literal[2] = 2
    model: str
    model_sha: str
    sae_sha: list[str]
    """sha256 of the weights of every autoencoder that a target is of, where it is known."""
    d_model: int = Field(gt=0, le=MOST_DIMENSIONS)
    n_layers: int = Field(gt=0)
    edits: list[SaidEdit] = Field(min_length=1, max_length=MOST_EDITS)
    program_sha: str
    """The language's hash of what the edits say."""
    targets: dict[str, TargetFacts]
    autoencoders: dict[str, AutoencoderFacts]
    """Those that a target cannot be read without."""


def read(path: Path) -> tuple[Header, dict[str, Tensor]]:
    """The metadata, and the tensors that it speaks of, once their shapes are known to fit.

    Raises:
        ExportError: the file does not read, or holds other tensors than it says.
    """
    from safetensors import SafetensorError, safe_open

    with reading(path):
        try:
            with safe_open(path, framework="pt") as file:
                said = (file.metadata() or {}).get(KEY, "")
                header = _parsed(path, said)
                wanted: dict[str, list[int]] = {}
                for name, facts in header.targets.items():
                    wanted |= shapes_of(name, facts, header.d_model)
                for name, sae in header.autoencoders.items():
                    wanted |= sae.tensors_of(name, header.d_model)
                keys = set(file.keys())
                if astray := sorted(keys ^ set(wanted)):
                    where = "lacks" if astray[0] in wanted else "also holds"
                    raise unreadable(path, f"it {where} the tensor {astray[0]!r}")
                for key, shape in wanted.items():
                    found = file.get_slice(key).get_shape()
                    if found != shape:
                        raise unreadable(path, f"{key!r} is of shape {found} and not {shape}")
                return header, {key: file.get_tensor(key) for key in wanted}
        except SafetensorError as error:
            raise unreadable(path, str(error)) from error


def _parsed(path: Path, said: str) -> Header:
    if not 0 < len(said.encode()) <= MOST_HEADER:
        raise unreadable(path, f"it says {len(said.encode())} bytes of itself")
    held = json.loads(said)
    if isinstance(held, dict) and held.get("format") not in {None, FORMAT}:
        raise unreadable(path, f"it is of format {held['format']!r} and not {FORMAT}")
    return Header.model_validate(held)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever is wrong with what a file says, as one error that names the file."""
    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise unreadable(path, f"field {where}: {first['msg']}") from error
    except (ValueError, RecursionError, LanguageError, SaeError) as error:
        raise unreadable(path, str(error)) from error


def unreadable(path: Path, why: str) -> ExportError:
    return ExportError(
        f"{path} does not read as steering ({' '.join(why.split())}); expected a file of "
        "save_steering; export it again"
    )
