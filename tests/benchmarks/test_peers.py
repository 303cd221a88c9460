"""Another tool's environment holds its own packages and sees this one's."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import pytest

from benchmarks.peers import PeerMissing, peer_python


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """A package of one module that says its version."""
    path = tmp_path / "peer_stub-1.0-py3-none-any.whl"
    about = "peer_stub-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("peer_stub.py", "VERSION = '1.0'\n")
        file.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: peer-stub\nVersion: 1.0\n")
        file.writestr(
            f"{about}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        file.writestr(f"{about}/RECORD", "")
    return path


def test_the_environment_holds_the_package_and_sees_this_ones_numpy(
    wheel: Path, tmp_path: Path
) -> None:
    python = peer_python("stub", [str(wheel)], peers=tmp_path)
    say = "import numpy, peer_stub; print(peer_stub.VERSION, numpy.__name__)"
    said = subprocess.run([python, "-c", say], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["1.0", "numpy"]


def test_an_environment_that_is_there_is_not_made_again(wheel: Path, tmp_path: Path) -> None:
    python = peer_python("stub", [str(wheel)], peers=tmp_path)
    made = python.lstat().st_mtime_ns
    wheel.unlink()
    assert peer_python("stub", [str(wheel)], peers=tmp_path).lstat().st_mtime_ns == made


def test_what_cannot_be_installed_is_said_and_asked_for_again(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(PeerMissing, match=r"stub cannot be installed: .*absent"):
            peer_python("stub", [str(tmp_path / "absent-1.0-py3-none-any.whl")], peers=tmp_path)
