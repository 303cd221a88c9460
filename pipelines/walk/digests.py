"""Content hashes of files and folders that are read again only when they changed.

A file counts as unchanged while its inode, size and time of change are the same, which holds
through hard links and renames. Knows nothing of stages.
"""

from __future__ import annotations

import hashlib
from fnmatch import fnmatch
from pathlib import Path

from store.errors import SchemaMismatch
from store.manifest import read_json, write_json


class Digests:
    """A memory of file hashes, kept in one JSON file between runs."""

    def __init__(self, memory: Path, ignored: tuple[str, ...] = ()) -> None:
        self._memory = memory
        self._ignored = ignored
        self._known = _remembered(memory)
        self._used: dict[str, str] = {}

    def of(self, path: Path) -> str | None:
        """The sha256 of a file, or of a folder's names and contents; None where nothing is.

        Names that match an ignored pattern are left out, at any depth.
        """
        if path.is_file():
            return self._of_file(path)
        if not path.is_dir():
            return None
        digest = hashlib.sha256()
        for name, file in self.files(path).items():
            digest.update(f"{name}\0{self._of_file(file)}\n".encode())
        return digest.hexdigest()

    def files(self, folder: Path) -> dict[str, Path]:
        """The files that count in a folder, by their relative names in sorted order."""
        found = {}
        for path in folder.rglob("*"):
            relative = path.relative_to(folder)
            if path.is_file() and not any(self._is_ignored(part) for part in relative.parts):
                found[relative.as_posix()] = path
        return dict(sorted(found.items()))

    def save(self) -> None:
        """Remember the files that were asked for; the others are forgotten."""
        write_json(self._memory, self._used)

    def _is_ignored(self, name: str) -> bool:
        return any(fnmatch(name, pattern) for pattern in self._ignored)

    def _of_file(self, path: Path) -> str:
        status = path.stat()
        key = f"{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}"
        digest = self._used.get(key) or self._known.get(key)
        if digest is None:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        self._used[key] = digest
        return digest


def ignored_patterns(dvcignore: Path) -> tuple[str, ...]:
    """The name patterns of a .dvcignore file, so that both walkers overlook the same names."""
    lines = (line.strip() for line in dvcignore.read_text(encoding="utf-8").splitlines())
    return tuple(line.rstrip("/") for line in lines if line and not line.startswith("#"))


def _remembered(memory: Path) -> dict[str, str]:
    if not memory.is_file():
        return {}
    try:
        known = read_json(memory)
    except SchemaMismatch:
        return {}
    return known if isinstance(known, dict) else {}
