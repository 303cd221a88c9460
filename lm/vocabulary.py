"""A tokenizer's pieces as a reader sees them: the text of each id, and whether it begins a word.

Each family of tokenizers spells a space in its own way; this file knows three spellings and
nothing else about a model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from lm.tokenizer import Tokenizer

_META = "\N{LOWER ONE EIGHTH BLOCK}"
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True, slots=True)
class Piece:
    """One row of the vocabulary."""

    token_id: int
    piece: str
    """As the tokenizer spells it."""
    text: str
    """As a reader sees it; bytes that are no whole character show as U+FFFD."""
    is_word_start: bool
    is_byte: bool
    """Part of a character, which other pieces complete."""


def vocabulary(tokenizer: Tokenizer) -> list[Piece]:
    """Every id that the tokenizer knows, ascending."""
    described = _describer(tokenizer)
    pieces = tokenizer.backend.get_vocab(with_added_tokens=True)
    found = []
    for token_id, piece in sorted((token_id, piece) for piece, token_id in pieces.items()):
        if token_id in tokenizer.special_ids:
            found.append(Piece(token_id, piece, piece, is_word_start=False, is_byte=False))
        else:
            found.append(described(token_id, piece))
    return found


def _describer(tokenizer: Tokenizer) -> Callable[[int, str], Piece]:
    parts = json.loads(tokenizer.backend.to_str())
    if '"ByteLevel"' in json.dumps([parts["decoder"], parts["pre_tokenizer"]]):
        return _from_byte_level
    if (parts["model"] or {}).get("type") == "WordPiece":
        return _from_word_piece
    return _from_sentence_piece


def _from_byte_level(token_id: int, piece: str) -> Piece:
    alphabet = _byte_alphabet()
    if not all(character in alphabet for character in piece):
        return Piece(token_id, piece, piece, piece[:1].isspace(), is_byte=False)
    raw = bytes(alphabet[character] for character in piece)
    text = raw.decode("utf-8", errors="replace")
    return Piece(
        token_id, piece, text, text[:1].isspace(), is_byte="\N{REPLACEMENT CHARACTER}" in text
    )


def _from_sentence_piece(token_id: int, piece: str) -> Piece:
    if match := _BYTE.fullmatch(piece):
        value = int(match[1], 16)
        text = chr(value) if value < 128 else "\N{REPLACEMENT CHARACTER}"
        return Piece(token_id, piece, text, text.isspace(), is_byte=True)
    text = piece.replace(_META, " ")
    return Piece(token_id, piece, text, text[:1].isspace(), is_byte=False)


def _from_word_piece(token_id: int, piece: str) -> Piece:
    inside = piece.startswith("##")
    return Piece(token_id, piece, piece.removeprefix("##"), not inside, is_byte=False)


@cache
def _byte_alphabet() -> dict[str, int]:
    """The printable character that stands for each byte in byte-level BPE.

    Source: GPT-2's `bytes_to_unicode`.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    named = {chr(byte): byte for byte in printable}
    return named | {chr(256 + i): byte for i, byte in enumerate(others)}
