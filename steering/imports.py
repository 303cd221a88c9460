"""Vectors that other tools saved, as directions of this one.

Read: a GGUF control vector (llama.cpp, repeng), `vec_layer_N*.pt` (CAA), a `.pt` of a tensor, of
a list or of layer -> tensor, and `.npy`. Where the form does not say which layer a vector belongs
to, the caller says it: a guess would steer elsewhere without a sign. Nothing is unpickled.

Only a control vector of this project names its model, by the hash of the weights; the others are
taken for any model of their width.

A vector's own length is kept as `Direction.norm`, so adding `norm` in unit `raw` adds the very
vector that was saved.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lm.errors import HookPointError
from lm.hookpoint import HookPoint
from lm.model import LanguageModel
from steering.direction import Direction
from steering.errors import DirectionError, ExportError

EACH = "blocks.*.hook_resid_post"
"""A hook point for a stack of vectors: row i belongs to layer i."""
READABLE = (".gguf", ".pt", ".pth", ".npy")
_CAA = re.compile(r"vec_layer_(\d+)(_.*)?\.pt")
_CONTROL = re.compile(r"direction\.(\d+)")


def import_directions(
    path: Path,
    *,
    hook_point: str | None = None,
    lm: LanguageModel | None = None,
    mean_norm: float | None = None,
) -> dict[str, Direction]:
    """The directions in a file, by their hook points.

    Layers count blocks from 0, and a layer's vector belongs to its block's output, resid_post:
    that is where llama.cpp, repeng and CAA read and add theirs.

    Args:
        path: a `.gguf`, `.pt`, `.pth` or `.npy`.
        hook_point: where a single vector belongs, or `blocks.*.hook_resid_post` for a stack
            whose row i is layer i; overrides what the form says of sites.
        lm: the model to check widths, hook points and, where the file names it, weights against.
        mean_norm: of the stream, for unit `norm`; the files do not hold it.

    Raises:
        ExportError: the file does not read, is of a form not listed here, or does not say where
            its vectors belong.
        DirectionError: a vector is not finite, is zero, has another width than the model, or
            was exported for another one.
        HookPointError: the model has no such place.
    """
    if not path.is_file() or path.suffix not in READABLE:
        what = f"of kind {path.suffix!r}" if path.is_file() else "not there"
        raise ExportError(
            f"{path.name} is {what}; expected a vector file ({', '.join(READABLE)}); give one of "
            "those"
        )
    held: Any
    model_sha: str | None = None
    if path.suffix == ".gguf":
        held, model_sha = _control_vectors(path)
        form, vectors = "GGUF control vector", _placed(path, held, hook_point)
    else:
        held = _array(path) if path.suffix == ".npy" else _unpickled(path)
        form = "CAA vector" if _CAA.fullmatch(path.name) else path.suffix.removeprefix(".")
        vectors = _placed(path, held, hook_point)
    facts = {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    if lm is not None and model_sha is not None and not lm.has_weights(model_sha):
        raise DirectionError(
            f"{path.name} was exported for weights {model_sha[:12]}; expected those of {lm.name}, "
            f"{lm.weights_sha()[:12]}; open that model, or import without one and give "
            "direction.for_model(lm)"
        )
    directions = {}
    for point, vector in vectors.items():
        _check(path, point, vector, lm)
        directions[str(point)] = Direction.from_vector(
            vector,
            str(point),
            mean_norm=mean_norm,
            source=form,
            provenance=facts,
            model_sha=model_sha,
        )
    return directions


def _placed(path: Path, held: Any, hook_point: str | None) -> dict[HookPoint, Tensor]:
    """What the file holds, by the hook points that it or the caller names."""
    if isinstance(held, Mapping):
        return {_point(layer, hook_point): v for layer, v in _layers(path, held).items()}
    rows = _rows(path, held)
    if isinstance(held, Tensor) and held.ndim == 1:
        caa = _CAA.fullmatch(path.name)
        if hook_point is None and caa is not None:
            return {HookPoint(int(caa[1])): rows[0]}
        if hook_point is None or "*" in hook_point:
            raise _unplaced(path, "one vector", "the place that it belongs to")
        return {HookPoint.parse(hook_point): rows[0]}
    if hook_point is None or "*" not in hook_point:
        raise _unplaced(
            path,
            f"a stack of {len(rows)} vectors, whose first may be layer 0 or the embedding",
            f"{EACH!r} where row i is layer i",
        )
    return {_point(i, hook_point): row for i, row in enumerate(rows)}


def _point(layer: int, hook_point: str | None) -> HookPoint:
    if hook_point is None:
        return HookPoint(layer)
    if "*" not in hook_point:
        raise HookPointError(
            f"{hook_point!r} for a file of several layers; expected a place in every layer; write "
            f"for example {EACH!r}"
        )
    return HookPoint.parse(hook_point.replace("*", str(layer)))


def _unplaced(path: Path, held: str, wanted: str) -> ExportError:
    return ExportError(
        f"{path.name} holds {held}, and does not say where in the model; expected {wanted}; give "
        "it as hook_point (--hook-point)"
    )


def _control_vectors(path: Path) -> tuple[dict[int, Tensor], str | None]:
    """The tensors direction.N of a control vector, as N -> vector, and its model's hash if said."""
    from steering.export.gguf import ARCHITECTURE, MODEL_SHA, require_package

    gguf = require_package()
    try:
        reader = gguf.GGUFReader(path)
    except (ValueError, IndexError, OSError) as error:
        raise ExportError(
            f"{path.name} does not read as GGUF ({error}); expected a control vector; fetch it "
            "again"
        ) from error
    kind, sha = _said(reader, "general.architecture"), _said(reader, MODEL_SHA)
    if kind != ARCHITECTURE:
        raise ExportError(
            f"{path.name} is a GGUF of {kind!r}; expected {ARCHITECTURE!r}; give the control "
            "vector, not the model"
        )
    named = [(_CONTROL.fullmatch(tensor.name), tensor) for tensor in reader.tensors]
    vectors = {
        int(match[1]): torch.from_numpy(np.array(tensor.data, dtype=np.float32))
        for match, tensor in named
        if match is not None
    }
    return vectors, sha


def _said(reader: Any, key: str) -> str | None:
    """What a GGUF says under a key; None where it says nothing, or no text."""
    field = reader.get_field(key)
    said = None if field is None else field.contents()
    return said if isinstance(said, str) else None


def _unpickled(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a torn file ends in whatever the reader was about to do
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"a {named[1]}" if named else " ".join(str(error).split())[:120]
        raise ExportError(
            f"{path.name} cannot be read without running its code ({what}); expected tensors, "
            "lists or layer -> tensor; save the tensors alone, with torch.save(tensor, path)"
        ) from error


def _array(path: Path) -> Tensor:
    try:
        array = np.load(path, allow_pickle=False)
    except ValueError as error:
        raise ExportError(
            f"{path.name} does not read as an array ({error}); expected numbers; save it with "
            "numpy.save"
        ) from error
    if array.dtype.kind != "f":
        raise ExportError(
            f"{path.name} holds {array.dtype}; expected floating-point numbers; convert it"
        )
    return torch.from_numpy(np.asarray(array, dtype=np.float64))


def _layers(path: Path, held: Mapping[Any, Any]) -> dict[int, Tensor]:
    """layer -> vector, where the keys are numbers and the values vectors."""
    keys = [key if isinstance(key, int) else str(key) for key in held]
    numbered = all(isinstance(key, int) or key.isdigit() for key in keys)
    if not held or not numbered or not all(_is_vector(value) for value in held.values()):
        shown = ", ".join(repr(key) for key in keys[:4]) or "nothing"
        raise ExportError(
            f"{path.name} holds a dictionary of {shown}; expected layer -> vector, layers being "
            "numbers; save that part of it alone"
        )
    return {int(key): value for key, value in held.items()}


def _rows(path: Path, held: Any) -> list[Tensor]:
    is_stack = isinstance(held, Tensor) and held.is_floating_point() and held.ndim in (1, 2)
    if is_stack and held.numel():
        return [held] if held.ndim == 1 else list(held)
    if isinstance(held, Sequence) and held and all(_is_vector(value) for value in held):
        return list(held)
    shape = f" of shape {tuple(held.shape)}" if isinstance(held, Tensor) else ""
    raise ExportError(
        f"{path.name} holds a {type(held).__name__}{shape}; expected one vector, a list of "
        "vectors, a matrix with a row a layer, or layer -> vector; save it in one of those forms"
    )


def _is_vector(value: object) -> bool:
    return isinstance(value, Tensor) and value.ndim == 1 and value.is_floating_point()


def _check(path: Path, point: HookPoint, vector: Tensor, lm: LanguageModel | None) -> None:
    if lm is None:
        return
    point.check(lm)
    if vector.shape[0] != lm.d_model:
        raise DirectionError(
            f"{path.name} holds {vector.shape[0]} dimensions at {point}; {lm.name} has "
            f"{lm.d_model}; take a vector that was made for this model"
        )
