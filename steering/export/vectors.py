"""Edits as a folder of their own: safetensors, the words that say what to do, and a model card.

The form that loses nothing: every operation, gate, schedule and choice of places stays, and what
is loaded back steers to the bit as what was saved. The vectors are tensors; the edits are the
steering language's JSON in the file's metadata, which names them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from lm.hookpoint import HookPoint
from lm.model import LanguageModel
from sae.model import SparseAutoencoder
from steering.errors import ExportError
from steering.export import card
from steering.export.autoencoders import (
    autoencoder_facts,
    autoencoder_tensors,
)
from steering.export.folder import require_absent
from steering.export.header import (
    KEY,
    MOST_EDITS,
    MOST_HEADER,
    Header,
    SaidEdit,
    read,
    reading,
    unreadable,
)
from steering.export.targets import TargetFacts, facts_of, target_of, tensors_of
from steering.intervention import Intervention, targets_of
from steering.language.plain import content_hash, from_plain, to_plain
from steering.language.spoken import Line, Spoken, spoken
from steering.steer import edits_for
from steering.target import Target
from store.atomic import whole_dir

FILE = "steering.safetensors"


@dataclass(frozen=True, slots=True)
class Steering:
    """Edits by their names, in their order, and the model that they were made for."""

    edits: Mapping[str, Intervention]
    model: str
    model_sha: str
    """sha256 of its weights, as `LanguageModel.weights_sha` gives it."""
    d_model: int
    n_layers: int

    def for_model(self, lm: LanguageModel) -> Steering:
        """The same edits, said to belong to this model: the way to try them on another one."""
        edits = spoken(self.edits).for_model(lm).built()
        return replace(self, edits=edits, model=card.model_name(lm), model_sha=lm.weights_sha())


def save_steering(lm: LanguageModel, edits: Mapping[str, Intervention], out: Path) -> Steering:
    """Write a folder of `steering.safetensors` and a model card.

    Args:
        lm: the model that the edits are for.
        edits: by names of one line each, in the order in which they are to act.
        out: a folder that does not exist yet.

    Raises:
        ExportError: there are no edits, too many, or a name does not print, or `out` exists;
            nothing was written.
        SteeringError: the edits do not fit the model or each other.
    """
    from safetensors.torch import save_file

    require_absent(out)
    if not 0 < len(edits) <= MOST_EDITS:
        raise ExportError(
            f"{len(edits) or 'no'} edits; expected one to {MOST_EDITS}; give each by a name of "
            "its own"
        )
    for name in edits:
        if not name.isprintable() or not 0 < len(name.strip()) <= len(name) <= 200:
            raise ExportError(
                f"an edit called {name[:40]!r}; expected a name of one line and at most 200 "
                "characters; rename it"
            )
    edits_for(lm, list(edits.values()))
    words = spoken(edits)
    whole = _Whole()
    facts = {name: facts_of(target, whole.name_of) for name, target in words.targets.items()}
    header = Header(
        model=card.model_name(lm),
        model_sha=lm.weights_sha(),
        sae_sha=sorted({str(f.provenance["sae_sha"]) for f in facts.values() if _has_sae(f)}),
        d_model=lm.d_model,
        n_layers=lm.n_layers,
        edits=[
            SaidEdit(name=name, at=line.at, says=to_plain((line.says,))[0])
            for name, line in words.lines.items()
        ],
        program_sha=content_hash(words.program),
        targets=facts,
        autoencoders={name: autoencoder_facts(sae) for name, sae in whole.named.items()},
    )
    from_plain([edit.says for edit in header.edits])  # what cannot be read back is not written
    said = json.dumps(header.model_dump(), sort_keys=True, ensure_ascii=False)
    if len(said.encode()) > MOST_HEADER:
        raise ExportError(
            f"edits that take {len(said.encode())} bytes to say; expected at most {MOST_HEADER}; "
            "save them in several folders"
        )
    tensors: dict[str, Tensor] = {}
    for name, target in words.targets.items():
        tensors |= tensors_of(name, target)
    for name, sae in whole.named.items():
        tensors |= autoencoder_tensors(name, sae)
    with whole_dir(out) as scratch:
        save_file(tensors, scratch / FILE, metadata={KEY: said})
        (scratch / "README.md").write_text(_page(lm, words, edits, header), encoding="utf-8")
    return Steering(edits, header.model, header.model_sha, header.d_model, header.n_layers)


def load_steering(folder: Path, lm: LanguageModel | None = None) -> Steering:
    """What `save_steering` wrote.

    Args:
        folder: that folder.
        lm: the model to steer; it must be the one that the edits were made for.

    Raises:
        ExportError: there is no such file, it does not read, or it is for another model.
        SteeringError: an edit or a vector in it cannot be.
    """
    path = folder / FILE
    if not path.is_file():
        raise ExportError(
            f"no file {path}; expected a folder of save_steering; write it with "
            "`tiller export steering`"
        )
    header, tensors = read(path)
    with reading(path):
        parts = from_plain([edit.says for edit in header.edits])
    names = [edit.name for edit in header.edits]
    if content_hash(parts) != header.program_sha or len(set(names)) < len(names):
        raise unreadable(path, "its edits are not those that were saved")
    with reading(path):
        whole = {name: f.autoencoder(name, tensors) for name, f in header.autoencoders.items()}
        targets: dict[str, Target] = {
            name: target_of(name, facts, tensors, whole) for name, facts in header.targets.items()
        }
        lines = {
            edit.name: Line(part, edit.at) for edit, part in zip(header.edits, parts, strict=True)
        }
        edits = Spoken(lines, targets).built()
    steering = Steering(edits, header.model, header.model_sha, header.d_model, header.n_layers)
    if lm is not None:
        _require_model(steering, lm)
    return steering


def _require_model(steering: Steering, lm: LanguageModel) -> None:
    for edit in steering.edits.values():
        for target in targets_of(edit):
            HookPoint.parse(target.hook_point).check(lm)
    if not lm.has_weights(steering.model_sha):
        raise ExportError(
            f"steering for {steering.model} (weights {steering.model_sha[:12]}); {lm.name} has "
            f"weights {lm.weights_sha()[:12]}; expected the model that it was made for; open that "
            "one, or load without a model and give .for_model(lm) to try it on this one"
        )


class _Whole:
    """Autoencoders that go along whole, by the names that they are given as they are met."""

    def __init__(self) -> None:
        self.named: dict[str, SparseAutoencoder] = {}

    def name_of(self, sae: SparseAutoencoder) -> str:
        for name, known in self.named.items():
            if known is sae:
                return name
        name = f"sae-{len(self.named) + 1}"
        self.named[name] = sae
        return name


def _has_sae(facts: TargetFacts) -> bool:
    return facts.provenance.get("sae_sha") is not None


def _page(
    lm: LanguageModel, words: Spoken, edits: Mapping[str, Intervention], header: Header
) -> str:
    about = [
        "Edits of a model's residual stream, and the vectors that they read and write. The table "
        "says of each what it does, in the steering language, and where.",
        f"They are {len(header.edits)} edits of {len(header.targets)} targets; the hash of what "
        f"they say is `{header.program_sha}`.",
    ]
    if header.sae_sha:
        about.append(
            f"Autoencoders, by the sha256 of their weights: `{', '.join(header.sae_sha)}`."
        )
    usage = (
        "from steering.export.vectors import load_steering\n"
        "from steering.steer import steer\n\n"
        'found = load_steering(Path("<this folder>"), lm)\n'
        "with steer(lm, list(found.edits.values())):\n"
        "    lm.model.generate(**inputs)"
    )
    table = card.table_of_edits(edits, words)
    return card.page(
        f"Steering for {card.model_name(lm)}", lm, about=about, table=table, usage=usage
    )
