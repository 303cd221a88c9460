"""Files and folders that are whole or absent.

A killed or failed stage must leave nothing that DVC, or a person, could mistake for its
result. Everything is written to a scratch sibling and renamed at the end; this module
knows nothing of what is inside.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from store.errors import DiskFull, MissingArtefact

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A scratch path that becomes `path` when the block ends well, and vanishes otherwise.

    Raises:
        DiskFull: the disk had no room; an older `path` is left as it was.
    """
    scratch = _scratch(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _naming_a_full_disk(path):
            yield scratch
            os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


@contextmanager
def whole_dir(path: Path) -> Iterator[Path]:
    """An empty scratch folder that becomes `path` when the block ends well.

    An older folder at `path` is replaced as a whole: no file of it survives, since a
    folder of two runs' shards reads as one.

    Raises:
        DiskFull: the disk had no room; an older `path` is left as it was.
    """
    scratch, old = _scratch(path), path.with_name(f".{path.name}.old")
    for leftover in (scratch, old):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        with _naming_a_full_disk(path):
            scratch.mkdir(parents=True)
            yield scratch
            if path.exists():
                os.replace(path, old)
            os.replace(scratch, path)
    finally:
        if old.exists() and not path.exists():
            os.replace(old, path)
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def link_tree(source: Path, target: Path) -> None:
    """Puts every file of `source` under `target`, by hard link where the disk allows it.

    Files whose name starts with a dot are scratch and stay behind.

    Raises:
        MissingArtefact: there is no folder `source`.
        DiskFull: a copy had no room.
    """
    if not source.is_dir():
        raise MissingArtefact(f"no folder {source}; expected files to link; write them first")
    for path in sorted(source.rglob("*")):
        relative = path.relative_to(source)
        if path.is_dir() or any(part.startswith(".") for part in relative.parts):
            continue
        with whole_file(target / relative) as scratch:
            scratch.unlink(missing_ok=True)
            try:
                os.link(path, scratch)
            except OSError:
                shutil.copyfile(path, scratch)


def _scratch(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


@contextmanager
def _naming_a_full_disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise DiskFull(
            f"no room left on the disk for {path}; expected space for the whole file; "
            "free some and run the stage again"
        ) from error
