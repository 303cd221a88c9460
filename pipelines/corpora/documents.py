"""Texts from a file, a folder of files or a dataset, read with the place of every fault.

A `.txt` file holds documents apart by blank lines; one without any blank line holds a document
a line. `.json` is a list of texts, or of objects with the text field; `.jsonl` one such object
or text a line; `.csv` and `.parquet` have the text field as a column. Knows no tokens.
"""

from __future__ import annotations

import io
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.errors import CorpusError
from pipelines.params import CorpusParams
from pipelines.stage import INPUTS

SUFFIXES = (".txt", ".json", ".jsonl", ".csv", ".parquet")


@dataclass(frozen=True, slots=True)
class Source:
    """A text, where it came from, and what messages call it."""

    text: str
    origin: str
    place: str


def read_documents(params: CorpusParams) -> Iterator[Source]:
    """The texts that `corpus.source` names, in their own order; empty ones are left out.

    Raises:
        CorpusError: nothing is there, or something in it is no text.
    """
    found = _from_dataset(params) if params.source == "dataset" else _from_files(params)
    for source in found:
        if source.text.strip():
            yield _checked(source)


def _from_files(params: CorpusParams) -> Iterator[Source]:
    root = _corpus_path(params)
    files = [root]
    if root.is_dir():
        files = sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        if not files:
            raise CorpusError(
                f"{root} holds no {', '.join(SUFFIXES)} file; expected texts; give another folder"
            )
    for file in files:
        yield from _from_file(file, params.text_field)


def _corpus_path(params: CorpusParams) -> Path:
    if params.path is None:
        raise CorpusError(
            "corpus.source is 'file' and corpus.path is missing; expected a file or a folder; "
            "set corpus.path"
        )
    linked, given = INPUTS / "corpus" / Path(params.path).name, Path(params.path).expanduser()
    path = linked if linked.exists() else given
    if not path.exists():
        raise CorpusError(f"{given} does not exist; expected a file of texts; correct corpus.path")
    return path


def _from_file(path: Path, field: str) -> Iterator[Source]:
    match path.suffix.lower():
        case ".txt":
            texts = _blocks(_decoded(path))
        case ".json":
            texts = _json_texts(path, field)
        case ".jsonl":
            texts = _json_lines(path, field)
        case ".csv":
            texts = _csv_texts(path, field)
        case ".parquet":
            texts = _parquet_texts(path, field)
        case other:
            raise CorpusError(
                f"{path} ends in {other or 'nothing'!r}; expected one of {', '.join(SUFFIXES)}; "
                "rename or convert it"
            )
    for place, text in texts:
        yield Source(text, path.name, f"{path}, {place}")


def _decoded(path: Path) -> str:
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        at = error.start
        raise CorpusError(
            f"{path} is not UTF-8 at byte {at} (0x{raw[at]:02x}); expected UTF-8 text; convert "
            "it, for example with iconv"
        ) from None


def _blocks(text: str) -> Iterator[tuple[str, str]]:
    lines = text.replace("\r\n", "\n")
    by_blank_lines = re.search(r"\S[^\n]*\n[^\S\n]*\n\s*\S", lines) is not None
    pattern = r"\n[^\S\n]*\n\s*" if by_blank_lines else r"\n"
    for number, block in enumerate(re.split(pattern, lines.strip("\n")), 1):
        yield f"document {number}", block.strip("\n")


def _json_texts(path: Path, field: str) -> Iterator[tuple[str, str]]:
    try:
        items = json.loads(_decoded(path))
    except ValueError as error:
        raise CorpusError(f"{path} is not JSON ({error}); expected a list; mend it") from None
    if not isinstance(items, list):
        raise CorpusError(
            f"{path} holds {type(items).__name__}; expected a list of texts or of objects; mend it"
        )
    for number, item in enumerate(items):
        yield f"item {number}", _text_of(item, field, f"{path}, item {number}")


def _json_lines(path: Path, field: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(_decoded(path).split("\n"), 1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            item = json.loads(line)
        except ValueError as error:
            raise CorpusError(
                f"{place} is not JSON ({error}); expected an object; mend it"
            ) from None
        yield f"line {number}", _text_of(item, field, place)


def _text_of(item: object, field: str, place: str) -> str:
    found = item.get(field) if isinstance(item, dict) else item
    if not isinstance(found, str):
        keys = f" (fields: {', '.join(map(str, item))})" if isinstance(item, dict) else ""
        raise CorpusError(
            f"{place} holds no text at {field!r}{keys}; expected a string; set corpus.text_field"
        )
    return found


def _csv_texts(path: Path, field: str) -> Iterator[tuple[str, str]]:
    import pyarrow as pa
    from pyarrow import csv

    raw = io.BytesIO(_decoded(path).encode())
    try:
        table = csv.read_csv(
            raw,
            parse_options=csv.ParseOptions(newlines_in_values=True),
            convert_options=csv.ConvertOptions(
                column_types={field: pa.string()}, strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        reason = " ".join(str(error).split())[:200]
        raise CorpusError(f"{path} is not CSV ({reason}); expected a table; mend it") from None
    return _column_texts(table, path, field)


def _parquet_texts(path: Path, field: str) -> Iterator[tuple[str, str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CorpusError(f"{path} is not Parquet ({reason}); expected a table; mend it") from None
    return _column_texts(table, path, field)


def _column_texts(table: Any, path: Path, field: str) -> Iterator[tuple[str, str]]:
    if field not in table.column_names:
        raise CorpusError(
            f"{path} has the columns {', '.join(table.column_names)}; expected {field!r} among "
            "them; set corpus.text_field"
        )
    for number, text in enumerate(table[field].to_pylist(), 1):
        yield f"row {number}", _text_of(text or "", field, f"{path}, row {number}")


def _from_dataset(params: CorpusParams) -> Iterator[Source]:
    if params.dataset is None:
        raise CorpusError(
            "corpus.source is 'dataset' and corpus.dataset is missing; expected a name such as "
            "'name' or 'name:config'; set corpus.dataset"
        )
    name, _, config = params.dataset.partition(":")
    for number, row in enumerate(_streamed(name, config or None, params.dataset_split)):
        place = f"{params.dataset}, row {number}"
        yield Source(_text_of(row, params.text_field, place), params.dataset, place)


def _streamed(name: str, config: str | None, split: str) -> Iterable[dict[str, Any]]:
    from datasets import load_dataset

    try:
        rows = iter(load_dataset(name, config, split=split, streaming=True))
        first = next(rows, None)
    except Exception as error:  # the library raises many kinds, network and spelling alike
        reason = " ".join(str(error).split())[:200]
        raise CorpusError(
            f"dataset {name!r}, split {split!r} cannot be loaded ({reason}); expected a name that "
            "datasets.load_dataset knows; check corpus.dataset and the network"
        ) from error
    return itertools.chain([] if first is None else [first], rows)


def _checked(source: Source) -> Source:
    try:
        source.text.encode()
    except UnicodeEncodeError as error:
        raise CorpusError(
            f"{source.place} holds half a surrogate pair at character {error.start}; expected "
            "text that UTF-8 can write; mend it"
        ) from None
    return source
