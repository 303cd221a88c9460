"""What directions, steer and evaluate share: prompts, held-out documents, arms of the trial.

An arm is one way to push towards one concept; its dose is a coefficient. Reads the corpus, asks
nothing of a model but its tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import pyarrow.compute as pc

from pipelines.errors import PipelineError, require
from store.schema import read_table

if TYPE_CHECKING:
    from lm.model import LanguageModel
    from steering.direction import Direction
    from steering.intervention import Intervention

CORPUS: Final = Path("data/corpus")
FEATURE_METHODS: Final = ("label", "causal", "causal3")
METHODS: Final = (*FEATURE_METHODS, "diff_mean", "actadd", "pca", "random", "random_feature")
"""Ways to push that are directions; the last two are controls."""
UNSTEERED: Final = "none"
PROMPT: Final = "prompt"
"""A text put in front of the prompt: no direction, the method to beat."""
PREFIX_TOKENS: Final = 24
"""Most tokens of the text that stands in front of the prompt in the method `prompt`."""
HELDOUT_DOCUMENT: Final = 96
"""Tokens of a held-out document that are read, at most: cost is a matter of many documents."""

Half = Literal["calibrate", "test"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A text to continue."""

    prompt_id: int
    text: str
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Arm:
    """One way to push towards one concept."""

    direction_id: str
    concept: str
    method: str
    directions: tuple[Direction, ...]
    """One; for actadd one a place of the prompt."""

    def push(self, coefficient: float) -> tuple[Intervention, ...]:
        """The edits of one dose, in multiples of the hook point's mean residual norm."""
        from steering.intervention import Add
        from steering.sources.actadd import edits

        if self.method == "actadd":
            return tuple(edits(self.directions, coefficient))
        return tuple(Add(direction, coefficient) for direction in self.directions)

    def is_same_push(self, other: Arm) -> bool:
        """Whether equal doses of both are the same edit, so that one of them need not run."""
        if "actadd" in (self.method, other.method):
            return False
        return all(
            mine.hook_point == theirs.hook_point and bool((mine.vector == theirs.vector).all())
            for mine, theirs in zip(self.directions, other.directions, strict=True)
        )


def direction_id(concept: str, method: str) -> str:
    """The name of an arm in every table."""
    return f"{concept}/{method}"


def arms_of(directions: Mapping[str, Direction]) -> list[Arm]:
    """The arms that a file of directions holds, by concept and then in the order of `METHODS`."""
    parts: dict[tuple[str, str], list[str]] = {}
    for name in sorted(directions):
        concept, method = name.split("/")[:2]
        parts.setdefault((concept, method), []).append(name)
    return [
        Arm(
            direction_id(concept, method),
            concept,
            method,
            tuple(directions[name] for name in parts[concept, method]),
        )
        for concept in sorted({concept for concept, _ in parts})
        for method in METHODS
        if (concept, method) in parts
    ]


def read_prompts(
    lm: LanguageModel, concept: str, half: Half, at_most: int, room: int
) -> list[Prompt]:
    """Prompts neutral to the concept: its own where it has some, else those that serve any.

    Args:
        room: tokens that must fit behind the prompt in the model's context.

    Raises:
        PipelineError: this half has no prompt that leaves room.
    """
    table = read_table(require(CORPUS / "prompt.parquet", "corpus"), "prompt")
    table = table.filter(pc.equal(table["split"], half))
    own = table.filter(pc.equal(table["concept"], concept))
    rows = own if own.num_rows else table.filter(pc.is_null(table["concept"]))
    found = []
    for row in rows.sort_by("prompt_id").to_pylist():
        ids = tuple(lm.encode(row["text"]))
        if len(ids) + room <= lm.context:
            found.append(Prompt(row["prompt_id"], row["text"], ids))
    if not found:
        raise PipelineError(
            f"no {half} prompt for {concept!r} leaves room for {room} tokens in a context of "
            f"{lm.context}; expected at least one; add prompts or generate fewer tokens"
        )
    return found[:at_most]


def heldout_documents(half: Half, tokens: int) -> dict[int, list[int]]:
    """doc_id -> ids of the first documents of one half of `heldout`, about `tokens` tokens.

    Even places calibrate and odd ones test, so that what a budget was solved on is never what
    its cost is reported on.

    Raises:
        PipelineError: that half has no document.
    """
    doc = read_table(require(CORPUS / "doc.parquet", "corpus"), "doc")
    doc = doc.filter(pc.equal(doc["split"], "heldout")).sort_by("doc_id")
    token_id = read_table(CORPUS / "token.parquet", "token")["token_id"].to_numpy()
    starts, lengths = doc["tok_start"].to_numpy(), doc["n_tok"].to_numpy()
    doc_ids = doc["doc_id"].to_pylist()
    documents: dict[int, list[int]] = {}
    total = 0
    for place in range(0 if half == "calibrate" else 1, doc.num_rows, 2):
        length = min(int(lengths[place]), HELDOUT_DOCUMENT)
        if total >= tokens:
            break
        documents[doc_ids[place]] = token_id[starts[place] : starts[place] + length].tolist()
        total += length
    if not documents:
        raise PipelineError(
            f"the split heldout has {doc.num_rows} documents; expected at least two, one to solve "
            "budgets on and one to report them on; give corpus.documents more"
        )
    return documents


def prefix_of(lm: LanguageModel, concept: str) -> tuple[int, ...]:
    """The text put in front of a prompt: the start of the first pair's text that has the concept.

    Up to a sentence's end, without special ids; empty where the concept has no pair.
    """
    pair = read_table(require(CORPUS / "pair.parquet", "corpus"), "pair")
    rows = pair.filter(pc.equal(pair["concept"], concept)).sort_by("pair_id")
    if rows.num_rows == 0:
        return ()
    text = str(rows["positive"][0])
    ids = [token for token in lm.encode(text) if token not in lm.special_ids][:PREFIX_TOKENS]
    ends = [n for n in range(1, len(ids) + 1) if lm.decode(ids[:n]).endswith((".", "!", "?"))]
    return tuple(ids[: ends[-1]] if ends else ids)


def continued(lm: LanguageModel, prompt_ids: Sequence[int], ids: Sequence[int]) -> tuple[str, str]:
    """The prompt, and the whole text with what was generated, as a judge reads them.

    Decoded together, because some tokenizers drop the space at the start of a text.
    """
    prompt = lm.decode(prompt_ids)
    whole = lm.decode([*prompt_ids, *ids])
    # A prompt that ends within a character reads differently once the character is whole.
    return prompt, whole if whole.startswith(prompt) else prompt + lm.decode(ids)


def sample_seed(seed: int, prompt_id: int, sample: int) -> int:
    """The seed of one sample of one prompt, the same whatever the arm: comparisons are paired."""
    return int(np.random.SeedSequence([seed, prompt_id, sample]).generate_state(1)[0])


def budget_name(budget: float) -> str:
    """A budget as tables spell it."""
    return f"dce={budget:g}"


def first_copies(arms: Sequence[Arm]) -> list[int]:
    """For each arm the place of the first arm of its concept that pushes alike."""
    places: list[int] = []
    for place, arm in enumerate(arms):
        same = (
            other
            for other in range(place)
            if arms[other].concept == arm.concept and arm.is_same_push(arms[other])
        )
        places.append(next(same, place))
    return places
