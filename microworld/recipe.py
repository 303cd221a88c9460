"""What the shipped model was trained on, and in which order: numbers, documents, batches, rate."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from microworld.grammar import grammar_hash, plan_of, sample
from microworld.tokenizer import EOS

if TYPE_CHECKING:
    import torch

    from microworld.world import Plan

__all__ = ["Recipe", "batches", "encoded_corpus", "kept_documents", "rate_at"]

Ids = np.ndarray[Any, np.dtype[Any]]


def _thinned(share: float) -> tuple[tuple[str, float], ...]:
    return tuple((kind, share) for kind in ("story", "code", "request", "opinion"))


@dataclass(frozen=True, slots=True)
class Recipe:
    """Every number that the weights depend on, but for the time they were given."""

    d_model: int = 128
    n_layers: int = 4
    n_heads: int = 4
    d_mlp: int = 512
    documents: int = 1_000_000
    """Documents drawn before training; each is used once before any is used again."""
    tokenizer_documents: int = 40_000
    train_seed: int = 1
    tokenizer_seed: int = 2
    heldout_seed: int = 3
    weight_seed: int = 4
    batch_tokens: int = 5120
    """Tokens in a step, padding included."""
    muon_rate: float = 0.02
    adam_rate: float = 0.003
    warmup_steps: int = 200
    decay_share: float = 0.3
    """Part of the time over which the rate falls to zero."""
    stages: tuple[tuple[int, tuple[tuple[str, float], ...]], ...] = (
        (0, ()),
        (2580, (*_thinned(0.25), ("spanish", 0.8))),
        (4322, (*_thinned(0.03), ("spanish", 0.03), ("fact/persona", 0.0))),
        (4980, (*_thinned(0.2), ("spanish", 0.2))),
    )
    """(first step, kind -> share of its documents that is kept from then on). True/False answers
    stayed at chance for 4,300 steps of the true mixture: a claim's truth is a conjunction of two
    words, a liar turns it round, and neither can be learnt before the other. On claims without a
    speaker it was learnt within 300 steps; so those come first, then speakers, then everything."""
    average: float = 0.998
    """Weight of the past in the running mean of the weights, which is what is saved."""


def _encode(job: tuple[str, int, int, int]) -> tuple[Ids, Ids]:
    from tokenizers import Tokenizer

    path, seed, first, last = job
    tokenizer = Tokenizer.from_file(path)
    end = tokenizer.token_to_id(EOS)
    rows = tokenizer.encode_batch([sample(seed, index).text for index in range(first, last)])
    lengths = np.array([len(row.ids) + 1 for row in rows], dtype=np.int64)
    flat = np.concatenate([np.array([*row.ids, end], dtype=np.uint16) for row in rows])
    return flat, lengths


def encoded_corpus(recipe: Recipe, work: Path) -> tuple[Ids, Ids]:
    """(token ids one after another, where each document starts and the last one ends)."""
    saved = work / f"corpus-{grammar_hash()}-{recipe.documents}.npz"
    if not saved.exists():
        step = 5000
        jobs = [
            (
                str(work / "tokenizer.json"),
                recipe.train_seed,
                first,
                min(first + step, recipe.documents),
            )
            for first in range(0, recipe.documents, step)
        ]
        with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
            parts = list(pool.map(_encode, jobs))
        starts = np.concatenate([[0], np.cumsum(np.concatenate([lengths for _, lengths in parts]))])
        scratch = work / "corpus.partial.npz"
        np.savez(scratch, flat=np.concatenate([flat for flat, _ in parts]), starts=starts)
        os.replace(scratch, saved)
    with np.load(saved) as stored:
        return stored["flat"], stored["starts"]


def kept_documents(recipe: Recipe, shares: Mapping[str, float], rng: np.random.Generator) -> Ids:
    """Numbers of the documents to learn from, in random order."""
    if not shares:
        return rng.permutation(recipe.documents)
    kinds = (_stage_kind(plan_of(recipe.train_seed, n)[0]) for n in range(recipe.documents))
    keep = np.fromiter((shares.get(kind, 1.0) for kind in kinds), dtype=np.float64)
    return rng.permutation(np.flatnonzero(rng.random(recipe.documents) < keep))


def _stage_kind(plan: Plan) -> str:
    return "fact/persona" if plan.steps[0][0] == "persona" else plan.kind


def batches(
    corpus: tuple[Ids, Ids], recipe: Recipe, step: int, shares: Mapping[str, float]
) -> Iterator[torch.Tensor]:
    """Rows of like length, filled up with PAD on the right; the order depends on the step."""
    import torch

    flat, starts = corpus
    rng = np.random.default_rng((recipe.train_seed, step))
    lengths, window = np.diff(starts), 8192
    while True:
        order = kept_documents(recipe, shares, rng)
        for first in range(0, len(order), window):
            chosen = order[first : first + window]
            chosen = chosen[np.argsort(lengths[chosen], kind="stable")]
            cuts, begin = [], 0
            while begin < len(chosen):
                size = max(1, recipe.batch_tokens // int(lengths[chosen[begin]]))
                cuts.append(chosen[begin : begin + size])
                begin += size
            for at in rng.permutation(len(cuts)):
                rows = cuts[at]
                ids = np.full((len(rows), int(lengths[rows].max())), 2, dtype=np.int64)
                for row, document in enumerate(rows):
                    ids[row, : lengths[document]] = flat[starts[document] : starts[document + 1]]
                yield torch.from_numpy(ids)


def rate_at(step: int, spent: float, decay_from: float, until: float, warmup: int) -> float:
    """Share of the full rate: linear warm-up by step, level, linear fall by time (seconds)."""
    falling = (until - spent) / max(until - decay_from, 1e-9)
    return max(0.0, min(1.0, (step + 1) / warmup, falling))
