"""What goes with every export: a page that says what was pushed where, and how to use it.

Nothing here depends on when or where an export was made, so equal exports are equal files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from lm.hookpoint import HookPoint
from lm.model import LanguageModel
from steering.export.constant import push_of
from steering.intervention import Add, Intervention, KeepNorm
from steering.language.spoken import Spoken
from steering.language.text import written
from steering.target import Target

EVERY_POSITION = (
    "It acts on every position: also position 0 and special tokens, which `tiller steer` and "
    "`steer()` leave alone by default."
)


def model_name(lm: LanguageModel) -> str:
    """The model's name without the folders that it lies in."""
    return Path(lm.name).name


def page(
    title: str,
    lm: LanguageModel,
    *,
    about: Sequence[str],
    table: str,
    usage: str,
    front: Mapping[str, str | bool] | None = None,
) -> str:
    """A model card: YAML in front, what it is, what was pushed, how to use it."""
    facts: dict[str, str | bool] = {"base_model": model_name(lm), "library_name": "tiller"}
    facts |= dict(front or {})
    head = "".join(f"{key}: {json.dumps(value)}\n" for key, value in facts.items())
    body = "\n\n".join(about)
    return (
        f"---\n{head}---\n\n# {title}\n\n{body}\n\n{table}\n\n"
        f"Base model: `{model_name(lm)}`, sha256 of its weights `{lm.weights_sha()}`.\n\n"
        f"```\n{usage}\n```\n"
    )


def table_of_edits(edits: Mapping[str, Intervention], words: Spoken) -> str:
    """One row an edit: its place, what it does in words, how long a push it is, its source."""
    lines = [
        "| name | hook point | edit | length | mean norm | source |",
        "|---|---|---|---|---|---|",
    ]
    for name, edit in edits.items():
        line = words.lines[name]
        said = _cell(written((line.says,)))
        if isinstance(edit, KeepNorm):
            lines.append(f"| {_cell(name)} | `{line.at}` | `{said}` | none | | |")
            continue
        target = edit.target
        mean_norm = "unknown" if target.mean_norm is None else f"{target.mean_norm:.4g}"
        length = f"{float(push_of(edit).norm()):.4g}" if isinstance(edit, Add) else "as it reads"
        lines.append(
            f"| {_cell(name)} | `{line.at}` | `{said}` | {length} | {mean_norm} "
            f"| {_cell(source_of(target))} |"
        )
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def table_of_pushes(pushes: Mapping[HookPoint, Float[Tensor, " d_model"]]) -> str:
    """One row a hook point: the length of what is added there."""
    rows = [f"| `{point}` | {float(push.norm()):.4g} |" for point, push in pushes.items()]
    return "\n".join(["| hook point | length added |", "|---|---|", *rows])


def source_of(target: Target) -> str:
    """Where the target came from, in words."""
    known = {key: value for key, value in target.provenance.items() if value is not None}
    facts = ", ".join(f"{key} {value}" for key, value in known.items())
    return f"{target.source} ({facts})" if facts else target.source
