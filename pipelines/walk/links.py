"""Putting files in a second place by hard link, or by copy where the disk does not allow it.

Linked files share their bytes, so nothing may write into them; everything here replaces
whole files.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from pipelines.walk.digests import Digests
from store.atomic import whole_file


def mirror(files: Mapping[str, Path], folder: Path, digests: Digests) -> bool:
    """Make `folder` hold exactly these files, by relative name; tell whether anything changed.

    Names that `digests` ignores are neither counted nor removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    changed = False
    for name, source in files.items():
        if digests.of(folder / name) != digests.of(source):
            link(source, folder / name)
            changed = True
    for name, path in digests.files(folder).items():
        if name not in files:
            remove(path)
            _prune(path.parent, folder)
            changed = True
    return changed


def link(source: Path, target: Path) -> None:
    """Put one file at `target`, whole or not at all; what was there is replaced."""
    if target.is_dir():
        shutil.rmtree(target)
    with whole_file(target) as scratch:
        scratch.unlink(missing_ok=True)
        try:
            # A link to a symbolic link would break when its own target moves.
            os.link(source.resolve(), scratch)
        except OSError:
            shutil.copyfile(source, scratch)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _prune(folder: Path, root: Path) -> None:
    """Remove folders that have become empty, up to `root`, which stays."""
    while folder != root and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent
