"""The language of a text is told by the text alone, and only where it can be told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from features.choose import Chooser
from features.documents import Documents, Evidence, read_documents
from features.errors import LabelError
from features.language_names import CODE, LANGUAGES
from features.languages import READ, language_of, with_languages
from features.rules import TextLanguage
from store.schema import write_table
from tests.features.planted import (
    RANDOM,
    RANDOM_TOO,
    SEA,
    VOCAB,
    documents_of,
    evidence_of,
    make_world,
    write_corpus,
)

TEXTS = {
    "en": "The fisherman walked to the harbour with his dog, and the wind was cold.",
    "es": "Era un día claro y Elena miraba el mar con alegría desde la ventana.",
    "fr": "Le pêcheur marchait vers le port avec son chien, et le vent était froid.",
    "de": "Der Fischer ging mit seinem Hund zum Hafen, und der Wind war sehr kalt.",
    "ru": "Рыбак шёл к гавани со своей собакой, и ветер был очень холодным.",
    "ja": "漁師は犬を連れて港まで歩いて行きました。風がとても冷たかったです。",
    CODE: "def total(a, y):\n    return a + y\nfor i in numbers:\n    print(i)",
}
WORLD = make_world(n_docs=60, length=10)


@pytest.mark.parametrize(("language", "text"), TEXTS.items())
def test_a_text_is_in_its_language(language: str, text: str) -> None:
    assert language_of(text) == language


@pytest.mark.parametrize("text", ["", " \n\t ", "7", "0451 17 2 9 88 301", "zq"])
def test_what_is_no_text_has_no_language(text: str) -> None:
    assert language_of(text) is None


def test_a_remark_in_code_is_no_program_and_a_program_with_a_remark_is() -> None:
    assert language_of("One calls total(a, y) to add them up, and prints what comes of it.") == "en"
    assert language_of(f"# Adds all of them up, one after another.\n{TEXTS[CODE]}") == CODE


def test_the_language_of_most_of_a_text_is_said() -> None:
    assert language_of(f"{TEXTS['en']} {TEXTS['en']} {TEXTS['en']} Era un día claro.") == "en"


@pytest.mark.parametrize("language", ["en", "de", CODE])
def test_only_the_start_of_a_long_text_is_read(language: str) -> None:
    start = (TEXTS[language] + "\n") * (READ // len(TEXTS[language]) + 1)
    assert language_of(start + TEXTS["ru"] * 200) == language


def test_every_language_that_may_be_said_has_a_name_of_its_own() -> None:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    known = set(LanguageIdentifier.from_model_file(MODEL_FILE).labels)
    assert set(LANGUAGES) == (known - {"zxx"}) | {CODE}
    assert len(set(LANGUAGES.values())) == len(LANGUAGES)


def _write(folder: Path, language_of_doc: dict[int, str]) -> None:
    write_corpus(WORLD, folder)
    table = pa.table(
        {
            "doc_id": pa.array(list(language_of_doc), pa.int32()),
            "text": [TEXTS[language] for language in language_of_doc.values()],
        }
    )
    write_table(folder / "text.parquet", "text", table, {})


def _read(folder: Path, split: str) -> Documents:
    return with_languages(read_documents(folder, split, VOCAB), folder)


@pytest.mark.parametrize("split", ["label", "score", "test"])
def test_documents_of_any_split_have_the_languages_of_their_own_texts(
    tmp_path: Path, split: str
) -> None:
    codes = sorted(TEXTS)
    written = {doc: codes[doc % len(codes)] for doc in range(WORLD.n_docs) if doc % 4}
    _write(tmp_path, written)
    read = _read(tmp_path, split)
    assert read.rows.languages == tuple(written.get(doc) for doc in read.doc_ids.tolist())
    assert None in read.rows.languages


def test_the_language_of_a_document_hangs_on_no_other_document(tmp_path: Path) -> None:
    docs = range(WORLD.n_docs)
    test = set(documents_of(WORLD, "test").doc_ids.tolist())
    _write(tmp_path / "mixed", {doc: "es" if doc in test else "de" for doc in docs})
    _write(tmp_path / "plain", {doc: "es" if doc in test else "ja" for doc in docs})
    spoken = [_read(tmp_path / name, "test").rows.languages for name in ("mixed", "plain")]
    assert spoken[0] == spoken[1] == ("es",) * len(test)


def test_a_corpus_without_texts_is_an_error(tmp_path: Path) -> None:
    _write(tmp_path, {})
    read = read_documents(tmp_path, "label", VOCAB)
    (tmp_path / "text.parquet").unlink()
    with pytest.raises(LabelError, match=r"no text\.parquet in .*; expected a corpus; run"):
        with_languages(read, tmp_path)


def _spoken(evidence: Evidence, languages: tuple[str, ...]) -> Evidence:
    """The same evidence, the language of each document by its number."""
    documents = evidence.documents
    spoken = tuple(languages[doc % len(languages)] for doc in documents.doc_ids.tolist())
    rows = replace(documents.rows, languages=spoken)
    return replace(evidence, documents=replace(documents, rows=rows))


def test_a_feature_of_one_language_is_named_by_it_without_a_concept_table() -> None:
    evidence = evidence_of(make_world(), "label", "train", "score")
    label, train, score = (_spoken(each, ("es", "en", CODE)) for each in evidence)
    chooser = Chooser(label, train, score, complexity_penalty=0.01)
    (choice,) = chooser.choose(SEA, with_concepts=(False,))
    assert choice.rule == TextLanguage("es")
    for feature in (RANDOM, RANDOM_TOO):
        (choice,) = chooser.choose(feature, with_concepts=(False,))
        assert not isinstance(choice.rule, TextLanguage)


def test_no_language_names_a_feature_where_languages_lie_anyhow() -> None:
    evidence = evidence_of(make_world(), "label", "train", "score")
    label, train, score = (_spoken(each, ("es", "en", "es", "en", CODE)) for each in evidence)
    (choice,) = Chooser(label, train, score, complexity_penalty=0.01).choose(
        SEA, with_concepts=(False,)
    )
    assert not isinstance(choice.rule, TextLanguage)
