"""A model's tokenizer, from the files of its folder, without torch.

One definition for every stage: a corpus that is tokenised without torch has the ids that a
prompt gets in front of the model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from lm.errors import TokenizerMismatch
from lm.source import read_object


@dataclass(frozen=True, slots=True)
class Encoded:
    """A text's ids, and where in the text (character offsets, end exclusive) each one lies."""

    ids: list[int]
    offsets: list[tuple[int, int]]


@dataclass(frozen=True, slots=True, eq=False)
class Tokenizer:
    """Text to ids and back; a first <bos> is added where the model's own tokenizer adds one."""

    backend: tokenizers.Tokenizer
    bos_id: int | None
    eos_id: int | None
    special_ids: frozenset[int]
    adds_bos: bool

    @property
    def n_vocab(self) -> int:
        """One more than the largest id that can come out of `encode`."""
        return 1 + max(self.backend.get_vocab(with_added_tokens=True).values())

    def encode(self, text: str) -> list[int]:
        """The ids of a text, as the model expects it to begin."""
        return self.encode_all([text])[0].ids

    def encode_all(self, texts: Sequence[str]) -> list[Encoded]:
        """The ids and offsets of many texts."""
        return [self._begun(e.ids, e.offsets) for e in self.backend.encode_batch(list(texts))]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids, special tokens left out."""
        return str(self.backend.decode(list(ids), skip_special_tokens=True))

    def sha(self) -> str:
        """The sha256, in hex, of everything that `encode` depends on."""
        text = f"{self.backend.to_str()}\0{self.bos_id}\0{self.eos_id}\0{self.adds_bos}"
        return hashlib.sha256(text.encode()).hexdigest()

    def _begun(self, ids: list[int], offsets: list[tuple[int, int]]) -> Encoded:
        begins = self.bos_id is not None and ids[:1] == [self.bos_id]
        if self.adds_bos and not begins and self.bos_id is not None:
            return Encoded([self.bos_id, *ids], [(0, 0), *offsets])
        if not self.adds_bos and begins and offsets[0] == (0, 0):
            return Encoded(ids[1:], offsets[1:])
        return Encoded(ids, offsets)


def open_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a model folder.

    Raises:
        TokenizerMismatch: the folder holds no tokenizer, or one that cannot be read.
    """
    backend = _backend(folder)
    backend.no_padding()
    backend.no_truncation()
    names = {**read_object(folder / "special_tokens_map.json")}
    names |= read_object(folder / "tokenizer_config.json")
    bos_id, eos_id = (_id_of(backend, names.get(key)) for key in ("bos_token", "eos_token"))
    special = {token_id for token_id, t in backend.get_added_tokens_decoder().items() if t.special}
    special |= {token_id for token_id in (bos_id, eos_id) if token_id is not None}
    first = backend.encode("a").ids[:1]
    adds_bos = names.get("add_bos_token")
    if not isinstance(adds_bos, bool):
        adds_bos = bos_id is not None and first == [bos_id]
    return Tokenizer(backend, bos_id, eos_id, frozenset(special), adds_bos and bos_id is not None)


def _backend(folder: Path) -> tokenizers.Tokenizer:
    path = folder / "tokenizer.json"
    try:
        if path.is_file():
            return tokenizers.Tokenizer.from_file(str(path))
        return _converted(folder)
    except Exception as error:  # both libraries raise bare Exception for a file they cannot read
        reason = " ".join(str(error).split())[:200]
        raise TokenizerMismatch(
            f"{folder} gives no tokenizer ({reason}); expected tokenizer.json; "
            "save the model's fast tokenizer there"
        ) from error


def _converted(folder: Path) -> tokenizers.Tokenizer:
    """The fast form of a tokenizer that is saved only in its original files."""
    from transformers import AutoTokenizer

    slow: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    backend: tokenizers.Tokenizer = slow.backend_tokenizer
    return backend


def _id_of(backend: tokenizers.Tokenizer, name: object) -> int | None:
    if isinstance(name, dict):
        name = name.get("content")
    return backend.token_to_id(name) if isinstance(name, str) else None
