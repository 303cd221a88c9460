"""Texts as documents that the model reads in one piece: distinct, in a split, tokenised.

A document's split is decided by the hash of its text, so it does not depend on its neighbours;
the pieces of one text share its split, and equal texts are kept once, so that no split holds
another's text.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, get_args

from lm.tokenizer import Encoded, Tokenizer
from pipelines.corpora.documents import read_documents
from pipelines.errors import CorpusError
from pipelines.params import CorpusParams, Params, SplitParams

TOKENISED_AT_ONCE = 1024
WINDOW = 16
"""Characters a token, far more than any tokenizer reaches on a long text."""
log = logging.getLogger("tiller.corpus")

Split = Literal["train", "heldout", "label", "score", "test"]


@dataclass(frozen=True, slots=True)
class Document:
    """A text that the model reads in one piece."""

    text: str
    split: Split
    origin: str
    sha: str
    """sha256, hex, of the whole text it is a piece of: what decided its split."""
    encoded: Encoded
    start: int = 0
    """Where it begins in the whole text, characters."""
    world: Any = None
    """What the microworld's grammar knows of it."""


def gather(params: Params, tokenizer: Tokenizer) -> tuple[list[Document], int]:
    """The corpus's documents, tokenised, and how many equal ones were left out.

    Raises:
        CorpusError: there are no documents, or one is too long and may not be split.
    """
    texts, dropped = _distinct(params)
    if not texts:
        raise CorpusError(
            f"the {params.corpus.source} source gave no documents; expected at least one with "
            "text; check corpus.path or corpus.dataset"
        )
    documents: list[Document] = []
    n_long = 0
    for start in range(0, len(texts), TOKENISED_AT_ONCE):
        chunk = texts[start : start + TOKENISED_AT_ONCE]
        encodings = tokenizer.encode_all([text for text, _, _ in chunk])
        for (text, origin, world), encoded in zip(chunk, encodings, strict=True):
            sha = hashlib.sha256(text.encode()).hexdigest()
            split = split_of(sha, params.corpus.split)
            fits = len(encoded.ids) <= params.corpus.context
            n_long += not fits
            if fits:
                documents.append(Document(text, split, origin, sha, encoded, 0, world))
            else:
                _check_may_split(params.corpus, text, len(encoded.ids))
                pieces = split_text(tokenizer, text, params.corpus.context)
                documents += [Document(t, split, origin, sha, e, at, world) for at, t, e in pieces]
    # Pieces may be equal where their texts are not: a page's footer, a licence.
    distinct: dict[str, Document] = {}
    for document in documents:
        distinct.setdefault(document.text, document)
    if n_long:
        log.warning(
            "%d documents are longer than %d tokens; they were split", n_long, params.corpus.context
        )
    return list(distinct.values()), dropped + len(documents) - len(distinct)


def split_of(sha: str, shares: SplitParams) -> Split:
    """The split of a document, by the first 8 bytes of its hash as a number in [0, 1)."""
    place = int(sha[:16], 16) / 2**64
    splits: tuple[Split, ...] = get_args(Split)
    for split in splits:
        place -= getattr(shares, split)
        if place < 0:
            return split
    return "train"


def split_text(tokenizer: Tokenizer, text: str, context: int) -> Iterator[tuple[int, str, Encoded]]:
    """A long text as pieces of at most `context` tokens, cut at spaces where there are any.

    Yields where each piece begins (characters), its text and its ids.
    """
    at = 0
    while True:
        at += len(text) - len(text.lstrip())
        text = text.strip()
        if not text:
            return
        # Only a window is tokenised, or a long text would be tokenised once for every piece.
        window = text[: WINDOW * context]
        (encoded,) = tokenizer.encode_all([window])
        end, piece, room = len(window), encoded, context
        if len(window) < len(text) and len(encoded.ids) <= context:
            end = _space_before(window, len(window))
        while len(piece.ids) > context and room > 1:
            # A text's end may take more pieces than the same letters inside it.
            end = _cut(text, encoded, room)
            (piece,) = tokenizer.encode_all([text[:end].rstrip()])
            room -= 1
        yield at, text[:end].rstrip(), piece
        text, at = text[end:], at + end


def _distinct(params: Params) -> tuple[list[tuple[str, str, Any]], int]:
    """Up to `corpus.documents` different texts, each with its origin; how many were equal."""
    kept: dict[str, tuple[str, str, Any]] = {}
    dropped = 0
    for text, origin, world in _raw(params):
        if text in kept:
            dropped += 1
            continue
        kept[text] = (text, origin, world)
        if len(kept) == params.corpus.documents:
            break
    return list(kept.values()), dropped


def _raw(params: Params) -> Iterable[tuple[str, str, Any]]:
    if params.corpus.source != "microworld":
        return ((s.text, s.origin, None) for s in read_documents(params.corpus))
    from pipelines.corpora.world import world_documents

    # The world repeats itself now and then; half as many again is more than enough to choose from.
    drawn = islice(world_documents(params.seed), params.corpus.documents * 3 // 2 + 16)
    return ((document.text, "microworld", document) for document in drawn)


def _check_may_split(params: CorpusParams, text: str, n_tokens: int) -> None:
    if params.long_documents == "refuse":
        raise CorpusError(
            f"a document of {n_tokens} tokens begins {text[:40]!r}; expected at most "
            f"{params.context}; raise corpus.context or set corpus.long_documents to split"
        )


def _cut(text: str, encoded: Encoded, room: int) -> int:
    """Where to end a piece of `room` tokens: before the last word that would not fit whole."""
    return _space_before(text, max(1, encoded.offsets[room][0]))


def _space_before(text: str, limit: int) -> int:
    space = max(text.rfind(" ", 0, limit + 1), text.rfind("\n", 0, limit + 1))
    return space if space > limit // 2 else limit
