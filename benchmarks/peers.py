"""Other tools in environments of their own, made once under `.work/peers`.

Their pins conflict with this project's, so each has its own site folder, where exactly the
packages named lie. For the rest (torch, numpy and so on) it sees this environment's through a
path file.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

PEERS = Path(__file__).resolve().parents[1] / ".work" / "peers"
_QUICKLY = ("--retries", "1", "--timeout", "15", "--disable-pip-version-check", "--quiet")


class PeerMissing(Exception):
    """The tool cannot be installed here."""


def peer_python(name: str, needed: Sequence[str], *, peers: Path = PEERS) -> Path:
    """The interpreter of a tool's environment, made where it is missing or holds other packages.

    Args:
        name: of the environment.
        needed: all packages that this project's environment lacks, with versions.

    Raises:
        PeerMissing: a package cannot be installed.
    """
    folder = peers / name
    python, whole = folder / "bin" / "python", folder / "whole.txt"
    if whole.is_file() and whole.read_text(encoding="utf-8") == "\n".join(needed):
        return python
    subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", folder], check=True)
    paths = {"base": str(folder), "platbase": str(folder)}
    site = Path(sysconfig.get_path("purelib", "venv", paths))
    (site / "parent.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    install = [sys.executable, "-m", "pip", "install", *_QUICKLY, "--no-deps", "--target"]
    done = subprocess.run(
        [*install, str(site), *needed], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise PeerMissing(f"{name} cannot be installed: {reason}")
    whole.write_text("\n".join(needed), encoding="utf-8")
    return python
