"""Two workspaces with the same tiny model and texts: one for `dvc repro`, one for `tiller run`.

They are made and run once for all tests of this folder. Each test leaves both up to date with
the parameters it found, so the tests may run alone and in any order.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.params import Params
from pipelines.walk.inputs import open_digests
from pipelines.walk.walker import outcomes

ROOT = Path(__file__).resolve().parents[2]
CODE = ("store", "lm", "sae", "features", "steering", "microworld", "pipelines")
HOOK_POINT = "blocks.1.hook_resid_post"
SAE: dict[str, Any] = {
    "hook_point": HOOK_POINT,
    "train": {"d_sae": 32, "k": 4, "steps": 60, "batch_rows": 128, "checkpoint_steps": 20},
    "harvest": {"top_contexts": 3, "promoted_tokens": 3, "neighbours": 2},
}
PARAMS: dict[str, Any] = {
    "model": {"name": "model", "device": "cpu", "dtype": "float32"},
    "corpus": {
        "source": "file",
        "path": "texts.txt",
        "documents": 120,
        "context": 32,
        "prompts": 8,
        "prompt_tokens": 8,
        "pairs": 6,
        "concepts": [
            {"name": "sea", "words": ["sea", "boat"], "against": ["barn", "horse"]},
            {"name": "farm", "words": ["barn", "horse"], "against": ["sea", "boat"]},
        ],
    },
    "dump": {"hook_points": [HOOK_POINT], "part_documents": 64, "batch_tokens": 512},
    "sae": {"a": SAE, "b": {**SAE, "train": {**SAE["train"], "k": 6}}},
    "label": {"bootstrap": 20},
    "directions": {
        "concepts": ["sea"],
        "candidates": 1,
        "finalists": 1,
        "features": 1,
        "budgets": [0.1],
        "heldout_tokens": 128,
        "max_new_tokens": 3,
    },
    "steer": {
        "coefficients": [0.5],
        "budgets": [0.1],
        "prompts": 4,
        "seeds": 1,
        "heldout_tokens": 128,
        "max_new_tokens": 3,
    },
    "evaluate": {"bootstrap": 20, "permutations": 20, "heldout_tokens": 128},
    "report": {"features": 2, "contexts": 1, "samples": 1},
}
Ran = frozenset[str]


@dataclass
class House:
    """The two workspaces, and what they were last told."""

    dvc_dir: Path
    tiller_dir: Path
    environment: Mapping[str, str]
    """Of every process: one thread, no network, libraries refused that no stage may load."""
    params: dict[str, Any] = field(default_factory=dict)

    def tell(self, changes: dict[str, Any]) -> None:
        """Write params.yaml of both: the first ones, with values at dotted keys replaced."""
        values = Params.model_validate(PARAMS).model_dump(mode="json")
        for key, value in changes.items():
            *path, last = key.split(".")
            section = values
            for part in path:
                section = section[part]
            if value is None:
                del section[last]
            else:
                section[last] = value
        self.params = values
        for folder in (self.dvc_dir, self.tiller_dir):
            (folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))

    def both(self, last: str | None = None) -> tuple[Ran, Ran]:
        """Walk both graphs, side by side: the stages that ran under DVC and under tiller."""
        with ThreadPoolExecutor(1) as pool:
            under_dvc = pool.submit(self.dvc, *([last] if last else []))
            under_tiller = self.tiller(last=last)
            return under_dvc.result(), under_tiller

    def dvc(self, *arguments: str) -> Ran:
        done = self.run("dvc", "repro", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return frozenset(re.findall(r"^Running stage '(.+)':$", done.stdout, re.MULTILINE))

    def run(self, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A module of the project's, or of a library, run in DVC's workspace."""
        return subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=self.dvc_dir,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def environment_with(self, *paths: Path) -> dict[str, str]:
        """The environment of a process that imports from these folders too."""
        refused = self.environment["PYTHONPATH"]
        return {**self.environment, "PYTHONPATH": os.pathsep.join([refused, *map(str, paths)])}

    def tiller(self, **options: Any) -> Ran:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment.items():
                patch.setenv(name, value)
            walked = list(outcomes(self.tiller_dir, **options))
        return frozenset(done.stage for done in walked if done.action == "ran")

    def lock(self) -> dict[str, str]:
        """Out -> hash, for every out in dvc.lock."""
        stages = yaml.safe_load((self.dvc_dir / "dvc.lock").read_text())["stages"]
        return {out["path"]: out["md5"] for stage in stages.values() for out in stage["outs"]}

    def digest(self, out: str) -> str | None:
        """The hash of an out in tiller's workspace."""
        return open_digests(self.tiller_dir).of(self.tiller_dir / out)


@pytest.fixture(scope="session")
def house(tiny_lm_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> House:
    """Both workspaces after their first, clean run."""
    root = tmp_path_factory.mktemp("house")
    built = House(root / "dvc", root / "tiller", _environment(root))
    for folder in (built.dvc_dir, built.tiller_dir):
        folder.mkdir()
        shutil.copytree(tiny_lm_dir, folder / "model")
        (folder / "texts.txt").write_text("\n".join(_texts(120)) + "\n")
    _lay_out_for_dvc(built.dvc_dir)
    built.tell({})
    built.run("pipelines.walk.inputs").check_returncode()
    first = built.both()
    assert first[0] == first[1]
    assert len(first[0]) == 12
    return built


def _environment(root: Path) -> dict[str, str]:
    """What every process gets, with stand-ins for the libraries that no stage may load."""
    for library in ("sae_lens", "transformer_lens"):
        (root / "refused" / library).mkdir(parents=True)
        text = f"raise SystemExit('a stage imported {library}')\n"
        (root / "refused" / library / "__init__.py").write_text(text)
    bin_dir = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "PATH": os.pathsep.join([bin_dir, os.environ.get("PATH", "")]),
        "PYTHONPATH": str(root / "refused"),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(root / "dvc-site"),
        "TILLER_LOG": "WARNING",
    }


def _lay_out_for_dvc(folder: Path) -> None:
    """The project's code and graph in a folder of its own, as a copy without git has them."""
    ignored = shutil.ignore_patterns("__pycache__", ".work")
    for name in CODE:
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("dvc.yaml", ".dvcignore"):
        shutil.copyfile(ROOT / name, folder / name)
    for part in ("model", "corpus", "sae"):
        (folder / "inputs" / part).mkdir(parents=True)
    (folder / ".dvc").mkdir()
    config = (ROOT / ".dvc" / "config").read_text()
    (folder / ".dvc" / "config").write_text(config.rstrip() + "\n    no_scm = true\n")


def _texts(count: int) -> list[str]:
    """So many different short documents, half of the sea and half of the farm."""
    nouns = ["sea", "barn", "boat", "horse"]
    states = ["old", "blue", "red", "happy", "sad"]
    ends = ["in the rain", "in the sun", "one day", "again", "at night", "far away"]
    made = itertools.product(["was", "is"], ends, states, nouns)
    texts = [f"The {noun} {verb} {state} {end}." for verb, end, state, noun in made]
    assert len(set(texts)) >= count
    return texts[:count]
