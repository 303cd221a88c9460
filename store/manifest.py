"""Who made an artefact: hashes of contents, and small JSON files with one spelling.

Knows bytes and JSON; what the keys mean is the caller's business. The same object gives
the same bytes on every run, so that a file may be a DVC out.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from store.atomic import whole_file
from store.errors import MissingArtefact, NotFinite, SchemaMismatch

_BLOCK_BYTES = 1 << 20


def content_hash(path: Path) -> str:
    """The sha256, in hex, of a file, or of a folder's sorted names and contents.

    A folder's hash does not depend on where it lies, nor on times or permissions;
    names that start with a dot, and Python's caches, are left out.

    Raises:
        MissingArtefact: nothing is at `path`.
    """
    if path.is_file():
        return _file_hash(path)
    if not path.is_dir():
        raise MissingArtefact(f"nothing at {path}; expected a file or a folder; make it first")
    digest = hashlib.sha256()
    files = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    for name in sorted(files):
        if any(part.startswith(".") or part == "__pycache__" for part in name.split("/")):
            continue
        digest.update(f"{name}\0{_file_hash(files[name])}\n".encode())
    return digest.hexdigest()


def fingerprint(obj: object) -> str:
    """Sixteen hex digits that name a JSON value, whatever the order of its keys."""
    canonical = json.dumps(obj, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def write_json(path: Path, obj: object) -> None:
    """Writes a JSON value with sorted keys, two spaces and a final newline, whole or not at all.

    Raises:
        NotFinite: the value holds NaN or an infinity, which JSON does not have.
    """
    try:
        text = json.dumps(obj, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise NotFinite(
            f"a value for {path} is not finite ({error}); expected numbers that JSON has; "
            "write null where a value is undefined"
        ) from error
    with whole_file(path) as scratch:
        scratch.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """The JSON value in a file.

    Raises:
        MissingArtefact: there is no such file.
        SchemaMismatch: the file is not JSON.
    """
    if not path.is_file():
        raise MissingArtefact(f"no file {path}; expected JSON; run the stage that writes it")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SchemaMismatch(
            f"{path} is not JSON ({error}); expected one value; write the file again"
        ) from error


def _file_hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
