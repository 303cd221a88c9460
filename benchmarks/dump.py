"""Tokens a second of the dump stage against the bare forward pass to the same layer.

Both run in turns in one process on the same documents of the microworld and the same batches;
CPU time is compared, so that what else the machine does counts little. The bare pass is the
model with its later layers cut off: no hooks, no files, no statistics.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from lm import HookPoint, LanguageModel, open_model
from lm.collect import CHUNK_BATCHES, batches_by_length, right_padded
from microworld import MODEL_DIR, sample
from pipelines.dump import Corpus, Part, write_one
from pipelines.params import DumpParams

DOCUMENTS = 600
ROUNDS = 5
LAYER = 2


def main() -> None:
    """Print the ratio."""
    lm = open_model(MODEL_DIR, device="cpu", dtype="float32")
    ids = [lm.encode(sample(99, index).text)[: lm.context] for index in range(DOCUMENTS)]
    corpus = Corpus(
        np.concatenate(ids).astype(np.int32),
        np.cumsum([0, *map(len, ids)]).astype(np.int64),
        test=np.array([], dtype=np.int32),
    )
    params = DumpParams(part_documents=DOCUMENTS)
    n_tokens = int(corpus.starts[-1])
    cut, batches = cut_off(lm), batches_of(lm, ids, params.batch_tokens)
    times: dict[str, list[float]] = {"bare": [], "dump": []}
    with tempfile.TemporaryDirectory() as folder:
        point = HookPoint(LAYER)
        part = Part(range(DOCUMENTS), {point: Path(folder) / "part-00000.arrow"}, None)
        for _ in range(ROUNDS):
            times["bare"].append(_cpu(lambda: run_bare(cut, batches)))
            times["dump"].append(_cpu(lambda: write_one(lm, corpus, params, part, lambda _: None)))
    for name, seconds in times.items():
        print(f"{name}  {n_tokens / median(seconds):10,.0f} tokens a CPU second")
    ratios = [bare / dump for bare, dump in zip(times["bare"], times["dump"], strict=True)]
    print(f"ratio {median(ratios):.3f} (from {min(ratios):.3f} to {max(ratios):.3f}); aim 0.85")


def cut_off(lm: LanguageModel) -> Any:
    """The stem of the model without the layers after the hook point's."""
    stem: Any = copy.deepcopy(lm.stem)
    stem.layers = stem.layers[: LAYER + 1]
    stem.config.num_hidden_layers = LAYER + 1
    stem.norm = torch.nn.Identity()
    return stem


def batches_of(lm: LanguageModel, ids: list[list[int]], batch_tokens: int) -> list[tuple[Any, Any]]:
    """The batches that `collect` makes of these documents."""
    chunks: list[list[list[int]]] = [[]]
    for row in ids:
        if sum(map(len, chunks[-1])) + len(row) > CHUNK_BATCHES * batch_tokens:
            chunks.append([])
        chunks[-1].append(row)
    return [
        right_padded(lm, [chunk[i] for i in batch])
        for chunk in chunks
        for batch in batches_by_length([len(row) for row in chunk], batch_tokens)
    ]


@torch.inference_mode()
def run_bare(stem: Any, batches: list[tuple[Any, Any]]) -> None:
    """The forward pass of every batch, and nothing else."""
    for input_ids, mask in batches:
        stem(input_ids=input_ids, attention_mask=mask, use_cache=False)


def _cpu(run: Callable[[], object]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


if __name__ == "__main__":
    main()
