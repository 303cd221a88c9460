"""The language that a whole text is in: English, Spanish, … or program code.

A natural language is told by py3langid: naive Bayes over the bytes of words, after Lui and
Baldwin (2012), `langid.py: An Off-the-shelf Language Identification Tool`. Nothing is learnt
from the corpus, so the language of a document depends on no other document.

Texts are asked as wholes, since few words often do not tell one language from its
neighbours: docs/log.md has the shares for sentences and for documents.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa

from features.documents import Documents
from features.errors import LabelError
from features.language_names import CODE, LANGUAGES

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

READ = 1_000
"""Characters of a text that are read, from its start; more tell no better."""
SURE = 0.5
"""The least probability of a language that is said."""
MARKED = 0.05
"""The least share of marks among the visible characters of program code."""
_MARK = re.compile(r"[(){}\[\]=;_+*/\\|&^%#~$`]")
_VISIBLE = re.compile(r"\S")


def language_of(text: str) -> str | None:
    """The code of a text's language, a key of `LANGUAGES`; None if it cannot be said surely."""
    start = text[:READ]
    visible = len(_VISIBLE.findall(start))
    if visible == 0:
        return None
    if len(_MARK.findall(start)) >= MARKED * visible:
        return CODE
    language, probability = _identifier().classify(start)
    return language if probability >= SURE and language in LANGUAGES else None


def with_languages(documents: Documents, corpus_dir: Path) -> Documents:
    """The same documents with the language of each; one whose text is not kept has none.

    Raises:
        LabelError: the corpus holds no texts.
    """
    path = corpus_dir / "text.parquet"
    if not path.is_file():
        raise LabelError(
            f"no text.parquet in {corpus_dir}; expected a corpus; run `dvc repro corpus`"
        )
    first, last = int(documents.doc_ids[0]), int(documents.doc_ids[-1])
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.register("wanted", pa.table({"doc_id": documents.doc_ids}))
        rows = connection.execute(
            """
            FROM (FROM read_parquet($path) WHERE doc_id BETWEEN $first AND $last)
                 SEMI JOIN wanted USING (doc_id)
            SELECT doc_id, text[:$read]
            """,
            {"path": str(path), "first": first, "last": last, "read": READ},
        ).fetchall()
    spoken = {doc_id: language_of(text or "") for doc_id, text in rows}
    languages = tuple(spoken.get(doc_id) for doc_id in documents.doc_ids.tolist())
    return replace(documents, rows=replace(documents.rows, languages=languages))


@cache
def _identifier() -> LanguageIdentifier:
    """Every language that the library knows, with probabilities."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
