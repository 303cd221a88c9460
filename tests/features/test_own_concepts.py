"""Concepts of one's own become rows beside the corpus's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from features.documents import read_documents
from features.errors import ConceptError
from features.naming import slugify
from features.own_concepts import (
    ConceptFile,
    ConceptPattern,
    ConceptWords,
    OwnConcept,
    find_concepts,
    read_words,
)
from store.schema import conform, read_table, write_table
from tests.features.planted import NUMBERS, PIECES, SEA_WORDS, SHIP, VOCAB, make_world
from tests.features.spelled import texts_of, write_spelled

WORLD = make_world(n_docs=60)
TOKENS = WORLD.tokens


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_spelled(WORLD, tmp_path_factory.mktemp("corpus"))


def fault(corpus: Path, *concepts: OwnConcept) -> str:
    with pytest.raises(ConceptError) as told:
        find_concepts(concepts, corpus)
    assert "\n" not in str(told.value)
    assert "; expected " in str(told.value)
    return str(told.value)


def judged(folder: Path, rows: str, name: str = "judged.csv") -> Path:
    path = folder / name
    path.write_text(rows, encoding="utf-8")
    return path


def test_a_pattern_covers_the_tokens_that_share_a_character_with_it(corpus: Path) -> None:
    own = find_concepts([ConceptPattern("numeral", r"\d")], corpus)
    assert own.concept.to_pylist() == [
        {
            "concept_id": 3,
            "name": "numeral",
            "kind": "token",
            "source": "pattern",
            "defined_on": "everywhere",
        }
    ]
    labels = conform("concept_label", own.concept_label)
    expected = np.flatnonzero(np.isin(TOKENS.token_id, NUMBERS))
    assert labels["tok"].to_pylist() == expected.tolist()
    assert labels["doc_id"].to_pylist() == TOKENS.doc_id[expected].tolist()
    assert set(labels["y"].to_pylist()) == {True}


def test_a_pattern_over_several_tokens_covers_each_of_them(corpus: Path) -> None:
    own = find_concepts([ConceptPattern("a-ship", "a ship")], corpus)
    tok = own.concept_label["tok"].to_numpy()
    pieces = TOKENS.token_id[tok].reshape(-1, 2)
    assert len(pieces) > 10
    assert set(pieces[:, 1].tolist()) == {SHIP}
    assert len(set(pieces[:, 0].tolist())) == 1


def test_at_document_level_a_document_has_it_or_not(corpus: Path) -> None:
    words = ConceptWords("ships", ("SHIP", "sail"), "document")
    pattern = ConceptPattern("shipping", "ship|sail", "document")
    own = find_concepts([words, pattern], corpus)
    holding = [d for d, text in enumerate(texts_of(WORLD)) if "ship" in text or "sail" in text]
    rows = own.concept_label.to_pylist()
    for concept_id in (3, 4):
        assert [r["doc_id"] for r in rows if r["concept_id"] == concept_id] == holding
    assert {row["tok"] for row in rows} == {None}
    assert own.concept["kind"].to_pylist() == ["document", "document"]
    assert own.concept["source"].to_pylist() == ["words", "pattern"]


def test_only_the_splits_that_are_asked_for_are_searched(corpus: Path) -> None:
    own = find_concepts([ConceptPattern("numeral", r"\d")], corpus, {"score"})
    tok = own.concept_label["tok"].to_numpy()
    assert set(TOKENS.split[tok]) == {3}


def test_concepts_are_read_beside_the_corpus_s_own(tmp_path: Path, corpus: Path) -> None:
    path = judged(tmp_path, "doc_id,concept,y\n18,wet,1\n20,wet,0\n21,wet,1\n50,wet,0\n")
    own = find_concepts([ConceptPattern("numeral", r"\d"), ConceptFile(path)], corpus)
    read = read_documents(corpus, "score", VOCAB, own)
    assert [t.name for t in read.truths] == ["sea", "farm", "number", "numeral", "wet"]
    assert [t.concept_id for t in read.truths] == [0, 1, 2, 3, 4]
    assert np.array_equal(read.truth["numeral"].holds, read.truth["number"].holds)
    assert read.truth["numeral"].is_defined.all()
    wet = read.truth["wet"]
    assert read.doc_ids[wet.is_defined].tolist() == [18, 20, 21, 50]
    assert read.doc_ids[wet.holds].tolist() == [18, 21]
    assert np.array_equal(read.rows.concepts["numeral"], read.truth["number"].holds)


def test_tokens_that_a_file_does_not_list_are_unknown_unless_it_is_complete(
    tmp_path: Path, corpus: Path
) -> None:
    path = judged(tmp_path, "tok,concept,y\n725,mark,1\n726,mark,0\n730,mark,1\n")
    own = find_concepts([ConceptFile(path)], corpus)
    truth = read_documents(corpus, "score", VOCAB, own).truth["mark"]
    tok = read_documents(corpus, "score", VOCAB).tok
    assert tok[truth.is_defined].tolist() == [725, 726, 730]
    assert tok[truth.holds].tolist() == [725, 730]
    own = find_concepts([ConceptFile(path, is_complete=True)], corpus)
    truth = read_documents(corpus, "score", VOCAB, own).truth["mark"]
    assert truth.is_defined.all()
    assert tok[truth.holds].tolist() == [725, 730]
    assert own.concept["defined_on"].to_pylist() == ["everywhere"]


def test_no_concept_of_one_s_own_is_no_row(corpus: Path) -> None:
    own = find_concepts([], corpus)
    assert own.concept.num_rows == own.concept_label.num_rows == 0


def test_ids_follow_the_order_in_which_concepts_are_given(tmp_path: Path, corpus: Path) -> None:
    path = judged(tmp_path, "doc_id,concept,y\n1,b,1\n2,b,0\n1,a,1\n2,a,0\n")
    own = find_concepts(
        [ConceptWords("w", ("cow",)), ConceptFile(path), ConceptPattern("p", "hay")], corpus
    )
    assert own.concept["name"].to_pylist() == ["w", "a", "b", "p"]
    assert own.concept["concept_id"].to_pylist() == [3, 4, 5, 6]


@pytest.mark.parametrize(("y", "said"), [(1, "true"), (0, "false")])
def test_one_class_only_names_its_splits(tmp_path: Path, corpus: Path, y: int, said: str) -> None:
    path = judged(tmp_path, f"doc_id,y\n18,{y}\n24,{y}\n")
    told = fault(corpus, ConceptFile(path))
    assert f"says only {said} of 'judged' (2 rows on score, test); expected both" in told
    assert ("`complete: true`" in told) == (y == 1)


def test_a_list_of_positives_is_enough_where_it_is_complete(tmp_path: Path, corpus: Path) -> None:
    path = judged(tmp_path, "doc_id,y\n18,1\n24,1\n")
    own = find_concepts([ConceptFile(path, is_complete=True)], corpus)
    assert own.concept_label["doc_id"].to_pylist() == [18, 24]


@pytest.mark.parametrize(
    ("concept", "said"),
    [
        (ConceptWords("w", ("zebra",)), "the words of 'w' stand nowhere among 2340 tokens"),
        (ConceptPattern("p", "zebra"), "the pattern of 'p' stands nowhere among 2340 tokens"),
        (ConceptPattern("p", "zebra", "document"), "nowhere among 60 documents"),
        (ConceptPattern("p", r"(?s)."), "stands on every token among 2340 tokens"),
        (ConceptPattern("p", "z*"), "stands nowhere"),
        (ConceptPattern("p", "("), r"the pattern '(' is no regular expression"),
        (ConceptWords("w", ("!",)), "begin and end with a letter"),
    ],
)
def test_what_holds_nowhere_or_everywhere_is_an_error(
    corpus: Path, concept: OwnConcept, said: str
) -> None:
    assert said in fault(corpus, concept)


@pytest.mark.parametrize("name", ["sea", "farm", "Sea", "FARM"])
def test_a_name_of_the_corpus_is_taken(corpus: Path, name: str) -> None:
    """Or would share its slug, which features are called by."""
    told = fault(corpus, ConceptPattern(name, r"\d"))
    known = slugify(name)
    assert f"is called {name!r}, as is the corpus's {known!r}; expected a name of its own" in told


def test_a_name_is_given_once(tmp_path: Path, corpus: Path) -> None:
    path = judged(tmp_path, "doc_id,concept,y\n1,b,1\n2,b,0\n")
    told = fault(corpus, ConceptPattern("b", r"\d"), ConceptFile(path))
    assert "another of one's own, 'b'" in told


def test_a_word_list_is_read_line_by_line(tmp_path: Path) -> None:
    path = judged(tmp_path, "\ufeffship\n\n  big sail \r\n", "words.txt")
    assert read_words(path) == ("ship", "big sail")


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"\n \n", "is empty"), (b"\xff\xfe\x00", "cannot be read"), (None, "cannot")],
)
def test_a_word_list_without_words_is_an_error(
    tmp_path: Path, content: bytes | None, said: str
) -> None:
    path = tmp_path / "words.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConceptError, match=rf"the word list .* {said}.*; expected .*; "):
        read_words(path)


def test_tokens_that_are_not_spelled_as_the_text_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    corpus = write_spelled(WORLD, tmp_path)
    text = read_table(corpus / "text.parquet", "text")
    changed = [one.replace(" ship", " vessel") for one in text["text"].to_pylist()]
    write_table(
        corpus / "text.parquet",
        "text",
        text.set_column(1, "text", [changed]),
        {},
    )
    own = find_concepts([ConceptWords("sailing", ("sail",))], corpus)
    n = int((TOKENS.token_id == SHIP).sum())
    assert f"{n} of 2340 tokens are not spelled as the text is" in caplog.text
    is_whole = np.roll(TOKENS.token_id, -1) != PIECES.index("s")
    expected = np.flatnonzero((TOKENS.token_id == SEA_WORDS[2]) & is_whole)
    assert own.concept_label["tok"].to_pylist() == expected.tolist()
