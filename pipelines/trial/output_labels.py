"""What each named feature makes the model say: the table `output_label`.

Two lists compete for a feature's name on the output side: the tokens that its decoder row promotes
directly, and those that become likelier when the model is pushed along it. One third of the
calibrate prompts makes the second list, another chooses, the last scores; `test` is not read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow.compute as pc
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from features.naming import describe, short_name, slugify, unique_slugs
from features.rule_json import from_json, to_json
from features.rules import PromotedTokens
from features.vocab import Vocab
from pipelines.errors import require
from pipelines.params import Params
from pipelines.trial.arms import CORPUS
from pipelines.trial.bench import LABELS, Bench
from pipelines.trial.pushes import Pushes, Worth
from steering.intervals import interval
from store.schema import read_table

METHODS: Final = ("promoted_tokens", "steered_tokens")
"""The two lists; the first, which needs no forward pass, is kept where they are worth the same."""
PROMPTS: Final = 12
"""Prompts of each third, at most."""


@dataclass(frozen=True, slots=True)
class Label:
    """A feature's label on the output side, as the stage `label` made it."""

    label_id: int
    feature_id: int
    slug: str
    token_ids: tuple[int, ...]
    """The tokens that its decoder row promotes most."""


def output_labels(bench: Bench, params: Params) -> list[dict[str, Any]]:
    """Rows of `output_label`: two a feature, the chosen list first.

    None where `directions.output_labels` is 0 or there are fewer than three calibrate prompts.
    """
    labels = output_side(bench, params.directions.output_labels)
    make, choose, score = thirds(calibrate_prompts(bench))
    if not labels or not score:
        return []
    vocab = Vocab.read(CORPUS)
    pushes = Pushes.of(bench, [label.feature_id for label in labels], params)
    promoted = torch.tensor([label.token_ids for label in labels])
    steered, of_random = pushes.likelier(make, sayable(bench, vocab), promoted.shape[1])
    lists = torch.stack([promoted, steered])
    choices = np.stack([worth.gain.mean(axis=1) for worth in pushes.worth(choose, lists)])
    worths = pushes.worth(score, lists)
    shared = {
        "run_id": bench.slug,
        "random_value": pushes.random_worth(score, of_random),
        "n": len(score),
        "coefficient": params.directions.push,
        "unit": "norm",
    }
    slugs = _slugs(labels, steered, choices.argmax(axis=0), taken_slugs(bench), vocab)
    rows = []
    for place, (label, slug) in enumerate(zip(labels, slugs, strict=True)):
        for rank, method in enumerate(np.argsort(-choices[:, place], kind="stable").tolist()):
            rule = PromotedTokens(tuple(lists[method, place].tolist()))
            figures = _figures(worths[method], place, params.seed)
            name = short_name(rule, vocab).replace("-", " ")
            rows.append(
                {
                    **shared,
                    "feature_id": label.feature_id,
                    "rank": rank,
                    "label_id": label.label_id,
                    "method": METHODS[method],
                    "name": name if figures["status"] == "ok" else f"weak: {name}",
                    "slug": slug if rank == 0 else None,
                    "text": _sentence(METHODS[method], rule, vocab),
                    "rule": json.dumps(to_json(rule), separators=(",", ":")),
                    "choice_value": float(choices[method, place]),
                    **figures,
                }
            )
    return rows


def output_side(bench: Bench, at_most: int) -> list[Label]:
    """The output labels of the features that move the logits most directly, ascending."""
    table = read_table(require(LABELS / "label.parquet", "label"), "label")
    own = pc.and_(pc.equal(table["run_id"], bench.slug), pc.equal(table["side"], "output"))
    found = []
    for row in table.filter(own).to_pylist():
        rule = from_json(json.loads(row["rule"]))
        if isinstance(rule, PromotedTokens):
            found.append(Label(row["label_id"], row["feature_id"], row["slug"], rule.token_ids))
    footprints = np.nan_to_num(bench.footprints)
    # By the weights alone: a count of firings would rest on test documents too.
    loudest = sorted(found, key=lambda label: -footprints[label.feature_id])[:at_most]
    return sorted(loudest, key=lambda label: label.feature_id)


def taken_slugs(bench: Bench) -> frozenset[str]:
    """Every slug that the stage `label` gave."""
    table = read_table(require(LABELS / "label.parquet", "label"), "label")
    return frozenset(table.filter(pc.equal(table["run_id"], bench.slug))["slug"].to_pylist())


def calibrate_prompts(bench: Bench) -> dict[str, list[int]]:
    """Text -> ids of the calibrate prompts of all concepts that the model can read whole."""
    table = read_table(require(CORPUS / "prompt.parquet", "corpus"), "prompt")
    texts = table.filter(pc.equal(table["split"], "calibrate"))["text"].to_pylist()
    known = {text: bench.lm.encode(text) for text in texts}
    return {
        text: ids
        for text, ids in known.items()
        if len(ids) <= bench.lm.context and set(ids[1:]) - bench.lm.special_ids
    }


def thirds(prompts: Mapping[str, Sequence[int]]) -> list[list[Sequence[int]]]:
    """Three disjoint sets of at most `PROMPTS` texts' ids, dealt in the order of their hashes."""
    order = sorted(prompts, key=lambda text: hashlib.sha256(text.encode()).digest())
    return [[prompts[text] for text in order[first::3][:PROMPTS]] for first in range(3)]


def sayable(bench: Bench, vocab: Vocab) -> Bool[Tensor, " vocab"]:
    """The tokens that a list may hold: those with a text, special ones left out."""
    return torch.tensor(
        [
            token < len(vocab) and bool(vocab.text[token]) and token not in bench.lm.special_ids
            for token in range(bench.lm.n_vocab)
        ]
    )


def _figures(worth: Worth, place: int, seed: int) -> dict[str, Any]:
    """What one feature's list is worth; weak unless its lower bound exceeds both nulls."""
    sure = interval(worth.gain[place], seed=seed)
    nulls = [float(worth.random[place]), float(worth.other[place])]
    return {
        "status": "ok" if sure.lo > np.nanmax(nulls) else "weak",
        "value": sure.value,
        "lo": sure.lo,
        "hi": sure.hi,
        "null_value": nulls[0],
        "other_value": nulls[1],
        "share": float(worth.share[place]),
        "random_share": float(worth.random_share[place]),
    }


def _slugs(
    labels: Sequence[Label],
    steered: Int[Tensor, "feature token"],
    chosen: Int[np.ndarray, " feature"],
    taken: frozenset[str],
    vocab: Vocab,
) -> list[str]:
    """A slug a label: its own where the decoder row's list is chosen, else a new one."""
    bases = {
        place: slugify(short_name(PromotedTokens(tuple(steered[place].tolist())), vocab))
        for place in np.flatnonzero(chosen).tolist()
    }
    new = dict(zip(bases, unique_slugs(list(bases.values()), taken), strict=True))
    return [new.get(place, label.slug) for place, label in enumerate(labels)]


def _sentence(method: str, rule: PromotedTokens, vocab: Vocab) -> str:
    listed = describe(rule, vocab).removeprefix("the token before ")
    return f"Promotes {listed}" if method == METHODS[0] else f"Makes the model say {listed}"
