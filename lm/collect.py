"""Documents to residual activations, without the layers after the last hook point.

Knows batches of ids and arrays of rows; where they are written is the caller's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int32
from torch import Tensor

from lm.errors import ContextOverflow, TokenizerMismatch
from lm.hookpoint import HookPoint
from lm.model import LanguageModel
from lm.tap import read_until

CHUNK_BATCHES = 8
"""Documents are sorted by length among this many batches' worth of tokens."""


class Collected(NamedTuple):
    """Rows of the stream in document order, every array with the same rows."""

    doc_id: Int32[np.ndarray, " row"]
    pos: Int32[np.ndarray, " row"]
    token_id: Int32[np.ndarray, " row"]
    is_special: Bool[np.ndarray, " row"]
    """Position 0, whose norm is huge, and tokens that stand for no text."""
    resid: dict[HookPoint, Float[np.ndarray, "row d_model"]]
    """float16 where the model is float16, else float32."""


def collect(
    lm: LanguageModel,
    documents: Iterable[tuple[int, Sequence[int]]],
    points: Sequence[HookPoint],
    batch_tokens: int,
) -> Iterator[Collected]:
    """The stream at several places, of every token of every document, in document order.

    Which documents share a batch depends on `documents` and `batch_tokens` alone; another
    `batch_tokens` changes the last bits of a float.

    Args:
        documents: pairs of a document's number and its ids.
        batch_tokens: most tokens a forward pass, padding included; a longer document makes
            a batch of its own.

    Raises:
        ContextOverflow: a document has no tokens, or more than the model has positions for.
        HookPointError: the model has no such place.
    """
    for point in points:
        point.check(lm)
    special = np.zeros(lm.n_vocab, dtype=bool)
    special[[i for i in lm.special_ids if i < lm.n_vocab]] = True
    for chunk in _chunks(lm, documents, CHUNK_BATCHES * batch_tokens):
        yield _run_chunk(lm, chunk, points, batch_tokens, special)


def batches_by_length(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Numbers of the sequences that share a batch: like lengths, at most `batch_tokens` padded."""
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    batch: list[int] = []
    for i in order:
        if batch and (len(batch) + 1) * lengths[i] > batch_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def right_padded(
    lm: LanguageModel, sequences: Sequence[Sequence[int]]
) -> tuple[Tensor, Tensor | None]:
    """Ids and attention mask of a batch; the mask is None where no row is padded."""
    width = max(len(ids) for ids in sequences)
    ids = np.zeros((len(sequences), width), dtype=np.int64)
    lengths = np.array([len(row) for row in sequences])
    mask = np.arange(width) < lengths[:, None]
    ids[mask] = np.concatenate([np.asarray(row, dtype=np.int64) for row in sequences])
    padded = None if mask.all() else torch.from_numpy(mask.astype(np.int64)).to(lm.device)
    return torch.from_numpy(ids).to(lm.device), padded


def check_length(lm: LanguageModel, n_tokens: int, what: str) -> None:
    """Does nothing if the model can read so many tokens.

    Raises:
        ContextOverflow: there are none, or more than the model has positions for.
    """
    if not 1 <= n_tokens <= lm.context:
        raise ContextOverflow(
            f"{what} has {n_tokens} tokens; expected 1 to {lm.context}, the context of "
            f"{lm.name}; shorten or split it"
        )


def _chunks(
    lm: LanguageModel, documents: Iterable[tuple[int, Sequence[int]]], chunk_tokens: int
) -> Iterator[list[tuple[int, Sequence[int]]]]:
    chunk: list[tuple[int, Sequence[int]]] = []
    n_tokens = 0
    for doc_id, ids in documents:
        check_length(lm, len(ids), f"document {doc_id}")
        if chunk and n_tokens + len(ids) > chunk_tokens:
            yield chunk
            chunk, n_tokens = [], 0
        chunk.append((doc_id, ids))
        n_tokens += len(ids)
    if chunk:
        yield chunk


@torch.inference_mode()
def _run_chunk(
    lm: LanguageModel,
    chunk: Sequence[tuple[int, Sequence[int]]],
    points: Sequence[HookPoint],
    batch_tokens: int,
    special: Bool[np.ndarray, " vocab"],
) -> Collected:
    token_id = _token_ids(lm, chunk)
    lengths = np.array([len(ids) for _, ids in chunk])
    ends = np.cumsum(lengths)
    starts = ends - lengths
    dtype = np.float16 if lm.dtype == torch.float16 else np.float32
    resid = {point: np.empty((int(ends[-1]), lm.d_model), dtype) for point in points}
    for batch in batches_by_length(lengths.tolist(), batch_tokens):
        input_ids, mask = right_padded(lm, [chunk[i][1] for i in batch])
        streams = read_until(lm, points, input_ids, mask)
        for point, stream in streams.items():
            rows = _as_array(stream, dtype)
            for row, i in zip(rows, batch, strict=True):
                resid[point][starts[i] : ends[i]] = row[: lengths[i]]
    pos = (np.arange(ends[-1]) - np.repeat(starts, lengths)).astype(np.int32)
    doc_ids = np.array([doc_id for doc_id, _ in chunk], dtype=np.int32)
    is_special = special[token_id] | (pos == 0)
    return Collected(np.repeat(doc_ids, lengths), pos, token_id, is_special, resid)


def _token_ids(
    lm: LanguageModel, chunk: Sequence[tuple[int, Sequence[int]]]
) -> Int32[np.ndarray, " row"]:
    token_id = np.concatenate([np.asarray(ids, dtype=np.int32) for _, ids in chunk])
    if token_id.min() < 0 or token_id.max() >= lm.n_vocab:
        raise TokenizerMismatch(
            f"token ids go from {token_id.min()} to {token_id.max()}; expected 0 to "
            f"{lm.n_vocab - 1}, the rows of {lm.name}'s embedding; tokenise for this model"
        )
    return token_id


def _as_array(
    stream: Float[Tensor, "batch pos d_model"], dtype: type[np.floating]
) -> Float[np.ndarray, "batch pos d_model"]:
    wide = stream if stream.dtype in (torch.float16, torch.float32) else stream.float()
    return wide.cpu().numpy().astype(dtype, copy=False)
