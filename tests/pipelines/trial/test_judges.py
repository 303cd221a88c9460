from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import MissingInput, PipelineError
from pipelines.trial.judges import WordJudge, WorldJudge, open_judge
from store.manifest import write_json

LISTS = [
    {"name": "she", "words": ["she", "her"], "against": ["he", "him"]},
    {"name": "he", "words": ["He", "him"], "against": ["she", "her"]},
    {"name": "sea", "words": ["boat", "sea"]},
]


@pytest.fixture
def words() -> WordJudge:
    return WordJudge.of(LISTS)


def shares(judge: WordJudge, text: str, start: int = 0) -> list[float]:
    return [float(one) for one in judge.probabilities([text], [start])[0]]


def test_a_concept_is_its_share_of_the_words_that_speak_for_or_against_it(words: WordJudge) -> None:
    assert shares(words, "She saw him and her dog.") == pytest.approx([2 / 3, 1 / 3, 0.0])


def test_a_text_that_says_neither_has_not_the_concept(words: WordJudge) -> None:
    assert shares(words, "The dog ran.") == [0.0, 0.0, 0.0]


def test_a_concept_without_opposites_holds_if_any_of_its_words_occurs(words: WordJudge) -> None:
    assert shares(words, "A boat on the SEA.")[2] == 1.0
    assert shares(words, "A boatman, seaward.")[2] == 0.0


def test_the_prompt_is_not_judged(words: WordJudge) -> None:
    text = "She went out. He ran."
    assert shares(words, text, text.index("He"))[:2] == [0.0, 1.0]


@given(text=st.text(max_size=60), cut=st.integers(0, 60))
def test_any_text_has_a_share_between_none_and_all(text: str, cut: int) -> None:
    found = shares(WordJudge.of(LISTS), text, min(cut, len(text)))
    assert all(0.0 <= one <= 1.0 for one in found)


def test_opposites_are_rivals_and_other_concepts_are_not(words: WordJudge) -> None:
    assert words.rivals("she").tolist() == [True, True, False]
    assert words.rivals("sea").tolist() == [False, False, True]
    with pytest.raises(PipelineError, match="does not know 'farm'"):
        words.column("farm")


def test_the_world_judge_agrees_with_the_worlds_own_probability() -> None:
    from microworld.grammar import documents
    from microworld.judge import probability

    judge = WorldJudge()
    texts = [document.text for document in documents(6, 11)]
    found = judge.probabilities(texts, [20] * len(texts))
    assert found.shape == (len(texts), len(judge.columns))
    for concept in ("sea", "happy", "spanish"):
        expected = [probability(text, concept, 20) for text in texts]
        np.testing.assert_allclose(found[:, judge.column(concept)], expected)


def test_a_topic_and_its_parts_are_rivals_and_a_mood_is_not() -> None:
    judge = WorldJudge()
    rivals = [
        name for name, is_rival in zip(judge.columns, judge.rivals("sea"), strict=True) if is_rival
    ]
    assert {name.partition("=")[0] for name in rivals} == {"topic", "subtopic"}
    assert not judge.rivals("happy")[judge.column("sea")]


def test_a_concept_of_tokens_cannot_be_judged() -> None:
    with pytest.raises(PipelineError, match="does not know 'pronoun'"):
        WorldJudge().column("pronoun")


def test_no_texts_are_no_rows() -> None:
    judge = WorldJudge()
    assert judge.probabilities([], []).shape == (0, len(judge.columns))


def test_the_corpus_names_its_judge(tmp_path: Path) -> None:
    write_json(tmp_path / "corpus.json", {"judge": "lexicon", "lexicon": LISTS})
    assert open_judge(tmp_path).columns == ("she", "he", "sea")
    write_json(tmp_path / "corpus.json", {"judge": "microworld"})
    assert "topic=sea" in open_judge(tmp_path).columns


def test_an_unknown_or_missing_judge_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match=r"corpus.json does not exist"):
        open_judge(tmp_path)
    write_json(tmp_path / "corpus.json", {"judge": "oracle"})
    with pytest.raises(PipelineError, match="expected 'microworld' or 'lexicon'"):
        open_judge(tmp_path)
