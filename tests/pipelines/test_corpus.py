"""Texts become tokens, splits and concepts, once and the same each time, or a clear error."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import pipelines
from lm.errors import ModelNotFound, TokenizerMismatch
from lm.tokenizer import open_tokenizer
from lm.vocabulary import vocabulary
from pipelines import corpus
from pipelines.corpora.documents import read_documents
from pipelines.corpora.lexicon import Lexicon, first_words, pairs
from pipelines.corpora.pieces import split_of, split_text
from pipelines.errors import CorpusError
from pipelines.params import ConceptParams, CorpusParams, SplitParams
from store.manifest import content_hash

STORIES = [
    f"{name} saw a {thing} by the {place}. {pronoun} was {mood} all day long. The end came."
    for name in ("Tom", "Ann", "Sue", "Ben", "Ida", "Max")
    for thing in ("boat", "cow", "star")
    for place in ("sea", "farm")
    for pronoun, mood in (("She", "happy"), ("He", "sad"))
]
MOOD = {"name": "mood", "words": ["happy", "glad"], "against": ["sad", "sorry"]}
SEA = {"name": "sea", "words": ["Sea", "boat"]}


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(
    model: Path | str, text: str | None = None, name: str = "stories.json", **given: Any
) -> Path:
    """Run the stage on a file with this content; gives the folder it wrote."""
    if text is not None:
        Path(name).write_text(text, encoding="utf-8")
    section = {"source": "file", "path": name, "context": 64, "prompts": 8, "pairs": 6, **given}
    params = {"model": {"name": str(model)}, "sae": {"main": {}}, "corpus": section}
    Path("params.yaml").write_text(yaml.safe_dump(params))
    corpus.main()
    return Path("data/corpus")


def rows(folder: Path, table: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(folder / f"{table}.parquet").to_pylist()
    return found


def test_tokens_are_those_of_the_models_tokenizer_with_bos_first(
    workspace: Path, tiny_lm_dir: Path
) -> None:
    folder = run(tiny_lm_dir, json.dumps(STORIES))
    tokenizer = open_tokenizer(tiny_lm_dir)
    docs, tokens, texts = (rows(folder, name) for name in ("doc", "token", "text"))
    assert [row["text"] for row in texts] == STORIES
    assert [row["tok"] for row in tokens] == list(range(len(tokens)))
    for doc, text in zip(docs, STORIES, strict=True):
        mine = tokens[doc["tok_start"] : doc["tok_start"] + doc["n_tok"]]
        assert [row["token_id"] for row in mine] == tokenizer.encode(text)
        assert [row["pos"] for row in mine] == list(range(doc["n_tok"]))
        assert {row["doc_id"] for row in mine} == {doc["doc_id"]}
        assert [row["is_special"] for row in mine] == [True] + [False] * (doc["n_tok"] - 1)
        assert doc["sha"] == hashlib.sha256(text.encode()).hexdigest()
        assert doc["split"] == split_of(doc["sha"], SplitParams())
    record = json.loads((folder / "corpus.json").read_text())
    assert (record["n_docs"], record["n_tokens"]) == (len(STORIES), len(tokens))
    assert record["judge"] == "lexicon"


def test_two_runs_write_the_same_bytes(workspace: Path, tiny_lm_dir: Path) -> None:
    text = json.dumps(STORIES)
    first = content_hash(run(tiny_lm_dir, text, concepts=[MOOD, SEA]))
    assert content_hash(run(tiny_lm_dir, text, concepts=[MOOD, SEA])) == first
    assert content_hash(run(tiny_lm_dir, text, concepts=[MOOD])) != first


def test_a_split_does_not_depend_on_the_other_documents(workspace: Path, tiny_lm_dir: Path) -> None:
    def splits(stories: list[str]) -> dict[str, str]:
        folder = run(tiny_lm_dir, json.dumps(stories))
        return {row["sha"]: row["split"] for row in rows(folder, "doc")}

    whole, some = splits(STORIES), splits(STORIES[::-2])
    assert all(whole[sha] == split for sha, split in some.items())


@given(st.text(alphabet="0123456789abcdef", min_size=64, max_size=64))
def test_shares_of_one_and_zero_are_kept_exactly(sha: str) -> None:
    assert split_of(sha, SplitParams()) in ("train", "heldout", "label", "score", "test")
    for split in ("train", "test"):
        shares = dict.fromkeys(("train", "heldout", "label", "score", "test"), 0.0) | {split: 1.0}
        assert split_of(sha, SplitParams(**shares)) == split


def test_splits_have_their_shares() -> None:
    shas = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(5000)]
    found: list[str] = [split_of(sha, SplitParams()) for sha in shas]
    for split, share in SplitParams().model_dump().items():
        assert abs(found.count(split) / 5000 - share) < 0.03


def test_equal_documents_are_kept_once(
    workspace: Path, tiny_lm_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    folder = run(tiny_lm_dir, json.dumps([*STORIES, *STORIES[:5], "", "  \n"]))
    assert len(rows(folder, "doc")) == len(STORIES)
    assert "5 documents occur more than once" in caplog.text


def test_no_more_documents_than_asked_for(workspace: Path, tiny_lm_dir: Path) -> None:
    assert len(rows(run(tiny_lm_dir, json.dumps(STORIES), documents=7), "doc")) == 7


def test_long_documents_are_split_within_one_split_or_refused(
    workspace: Path, tiny_lm_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = " ".join(STORIES[:12])
    folder = run(tiny_lm_dir, json.dumps([text, "A short one."]))
    docs, texts = rows(folder, "doc"), [row["text"] for row in rows(folder, "text")]
    assert "1 documents are longer than 64 tokens" in caplog.text
    assert len(docs) > 5
    assert max(doc["n_tok"] for doc in docs) <= 64
    assert len({(doc["sha"], doc["split"]) for doc in docs[:-1]}) == 1
    assert " ".join(texts[:-1]) == text
    with pytest.raises(CorpusError, match=r"a document of .* tokens begins 'Tom saw a boat"):
        run(tiny_lm_dir, long_documents="refuse")
    assert len(rows(folder, "doc")) == len(docs)


@settings(max_examples=30)
@given(text=st.text(max_size=400), context=st.integers(8, 40))
def test_pieces_fit_and_lose_no_letter(tiny_lm_dir: Path, text: str, context: int) -> None:
    tokenizer = open_tokenizer(tiny_lm_dir)
    pieces = list(split_text(tokenizer, text, context))
    letters = re.sub(r"\s", "", text)
    assert re.sub(r"\s", "", "".join(piece for _, piece, _ in pieces)) == letters
    for at, piece, encoded in pieces:
        assert text[at : at + len(piece)] == piece
        assert encoded.ids == tokenizer.encode(piece)
        assert len(encoded.ids) <= context


FORMATS: dict[str, Callable[[list[str]], str]] = {
    "a.json": json.dumps,
    "b.json": lambda texts: json.dumps([{"text": text, "id": 1} for text in texts]),
    "c.jsonl": lambda texts: "".join(json.dumps({"text": t}) + "\n" for t in texts),
    "d.txt": lambda texts: "\r\n\r\n".join(texts) + "\n",
    "e.txt": "\n".join,
    "f.csv": lambda texts: "n,text\n" + "".join(f'1,"{text}"\n' for text in texts),
    "g.txt": lambda texts: "\ufeff" + "\n \n\n".join(texts),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_texts(workspace: Path, name: str) -> None:
    Path(name).write_text(FORMATS[name](STORIES), encoding="utf-8", newline="")
    found = read_documents(CorpusParams(source="file", path=name))
    assert [source.text for source in found] == STORIES


def test_parquet_and_folders_of_files_are_read_in_the_order_of_names(workspace: Path) -> None:
    Path("many").mkdir()
    pq.write_table(pa.table({"body": STORIES[:3]}), "many/b.parquet")
    Path("many/a.csv").write_text("body\n4\n5.50\n")
    Path("many/notes.md").write_text("not this")
    found = read_documents(CorpusParams(source="file", path="many", text_field="body"))
    assert [source.text for source in found] == ["4", "5.50", *STORIES[:3]]


def test_a_linked_input_is_read_instead_of_the_path(workspace: Path) -> None:
    Path("inputs/corpus").mkdir(parents=True)
    Path("inputs/corpus/x.txt").write_text("linked")
    found = read_documents(CorpusParams(source="file", path="/elsewhere/x.txt"))
    assert [source.text for source in found] == ["linked"]


def test_documents_of_several_lines_stay_whole(workspace: Path) -> None:
    Path("t.txt").write_text("one\ntwo\n\nthree\n")
    found = read_documents(CorpusParams(source="file", path="t.txt"))
    assert [source.text for source in found] == ["one\ntwo", "three"]


BAD = {
    "absent.txt": (None, "absent.txt does not exist"),
    "empty.txt": (b"", "gave no documents"),
    "blank.json": (b'["", " "]', "gave no documents"),
    "latin.txt": (b"caf\xe9 au lait", r"latin.txt is not UTF-8 at byte 3 \(0xe9\)"),
    "latin.csv": (b"text\ncaf\xe9\n", "not UTF-8 at byte 8"),
    "cut.json": (b'["a", "b', "cut.json is not JSON"),
    "object.json": (b"{}", "holds dict; expected a list"),
    "number.json": (b'["a", 3]', "item 1 holds no text"),
    "line.jsonl": (
        b'{"text": "a"}\n{"txt": "b"}\n',
        r"line 2 holds no text at 'text' \(fields: txt\)",
    ),
    "cut.jsonl": (b'{"text": "a"}\n{"te', "line 2 is not JSON"),
    "column.csv": (b"body\na\n", "has the columns body; expected 'text'"),
    "cut.parquet": (b"PAR1oops", "is not Parquet"),
    "what.docx": (b"x", "ends in '.docx'; expected one of .txt"),
    "half.json": (b'["\\ud83d"]', "half a surrogate pair"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_corpus_is_named_and_nothing_is_written(
    workspace: Path, tiny_lm_dir: Path, name: str
) -> None:
    content, message = BAD[name]
    if content is not None:
        Path(name).write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        run(tiny_lm_dir, name=name)
    assert not Path("data/corpus").exists()
    assert not list(Path().rglob("*.partial"))


def test_missing_settings_are_named(workspace: Path) -> None:
    with pytest.raises(CorpusError, match=r"corpus\.path is missing"):
        list(read_documents(CorpusParams(source="file")))
    with pytest.raises(CorpusError, match=r"corpus\.dataset is missing"):
        list(read_documents(CorpusParams(source="dataset")))
    Path("none").mkdir()
    with pytest.raises(CorpusError, match=r"none holds no \.txt"):
        list(read_documents(CorpusParams(source="file", path="none")))


def test_a_dataset_is_read_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load_dataset(*names: Any, **given: Any) -> list[dict[str, str]]:
        asked.append((names, given))
        return [{"text": "one"}, {"text": "two"}]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    params = CorpusParams(source="dataset", dataset="some/name:v2", dataset_split="test")
    assert [source.text for source in read_documents(params)] == ["one", "two"]
    assert asked == [(("some/name", "v2"), {"split": "test", "streaming": True})]


def test_a_dataset_that_cannot_be_loaded_is_one_clear_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load_dataset(*_: Any, **__: Any) -> None:
        raise ConnectionError("no\nroute")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    with pytest.raises(CorpusError, match=r"cannot be loaded \(no route\)"):
        list(read_documents(CorpusParams(source="dataset", dataset="some/name")))


def test_a_model_that_does_not_fit_is_refused(
    workspace: Path, tiny_lm_dir: Path, tmp_path: Path
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (small / name).write_bytes((tiny_lm_dir / name).read_bytes())
    config = json.loads((tiny_lm_dir / "config.json").read_text())
    (small / "config.json").write_text(json.dumps({**config, "vocab_size": 100}))
    with pytest.raises(
        TokenizerMismatch, match=r"ids up to 319; expected fewer than the model's 100"
    ):
        run(small, json.dumps(STORIES))
    with pytest.raises(CorpusError, match=r"corpus\.context is 65; expected at most 64"):
        run(tiny_lm_dir, context=65)
    with pytest.raises(ModelNotFound):
        run("./nowhere")


def test_labels_stand_on_the_words_whole_and_in_any_case(
    workspace: Path, tiny_lm_dir: Path
) -> None:
    texts = ["Happy sad. unhappy, GLAD seaside the sea", "nothing here"]
    folder = run(tiny_lm_dir, json.dumps(texts), concepts=[MOOD, SEA])
    concepts = {row["name"]: row["concept_id"] for row in rows(folder, "concept")}
    pieces = {row["token_id"]: row["text"] for row in rows(folder, "vocab")}
    tokens = rows(folder, "token")
    found: dict[tuple[int, bool], str] = {}
    for row in rows(folder, "concept_label"):
        key = row["concept_id"], row["y"]
        found[key] = found.get(key, "") + pieces[tokens[row["tok"]]["token_id"]].strip()
        assert row["doc_id"] == tokens[row["tok"]]["doc_id"] == 0
    assert found == {
        (concepts["mood"], True): "HappyGLAD",
        (concepts["mood"], False): "sad",
        (concepts["sea"], True): "sea",
    }


def test_pairs_are_train_sentences_with_their_words_swapped(
    workspace: Path, tiny_lm_dir: Path
) -> None:
    folder = run(tiny_lm_dir, json.dumps(STORIES), concepts=[MOOD, SEA])
    train = {d["doc_id"] for d in rows(folder, "doc") if d["split"] == "train"}
    trained = " ".join(t["text"] for t in rows(folder, "text") if t["doc_id"] in train)
    found = rows(folder, "pair")
    mood = [row for row in found if row["concept"] == "mood"]
    assert mood
    for row in mood:
        assert "happy" in row["positive"]
        assert row["positive"].replace("happy", "sad") == row["negative"]
        assert row["positive"] in trained or row["negative"] in trained
    for row in found:
        if row["concept"] == "sea":
            assert re.search("boat|sea", row["positive"])
            assert not re.search("boat|sea", row["negative"])


def test_a_swap_keeps_capitals_and_leaves_words_without_counterpart_alone() -> None:
    lexicon = Lexicon(
        ConceptParams(name="she", words=("she", "her", "lady"), against=("he", "his"))
    )
    assert lexicon.swapped("She took his hat. HE left.") == (
        "She took her hat. SHE left.",
        "He took his hat. HE left.",
    )
    assert lexicon.swapped("The lady took his hat.") is None
    assert lexicon.swapped("Nothing of it, shell.") is None
    assert pairs(lexicon, ["She ran. She ran. He ran. Bob ran."], 5) == [("She ran.", "He ran.")]


def test_prompts_lean_away_from_the_concept_and_halves_share_no_document(
    workspace: Path, tiny_lm_dir: Path
) -> None:
    lead = {"name": "lead", "words": ["Tom", "Ben", "Max"], "against": ["Ann", "Sue", "Ida"]}
    folder = run(tiny_lm_dir, json.dumps(STORIES), concepts=[lead, SEA], prompt_tokens=12)
    split_at = {row["doc_id"]: row["split"] for row in rows(folder, "doc")}
    texts = {row["text"]: split_at[row["doc_id"]] for row in rows(folder, "text")}
    prompts = rows(folder, "prompt")
    assert [row["prompt_id"] for row in prompts] == list(range(len(prompts)))
    assert {row["concept"] for row in prompts} == {"lead", "sea"}
    own = {"calibrate": "heldout", "test": "test"}
    for row in prompts:
        starts = [s for text, s in texts.items() if text.startswith(row["text"] + " ")]
        assert own[row["split"]] in starts
        if row["concept"] == "sea":
            assert not re.search(r"\b(boat|sea)\b", row["text"])
        else:
            assert re.match(r"(Ann|Sue|Ida)\b", row["text"])


def test_a_prompt_ends_with_a_word() -> None:
    offsets = [(0, 3), (3, 8), (8, 11), (11, 13), (13, 20), (20, 25)]
    text = "One rainy day... to somewhere"
    assert first_words(text, offsets, 2) == "One"
    assert first_words(text, offsets, 1) == "One"
    assert first_words(text, offsets[:1], 9) == ""


def test_without_concepts_prompts_serve_any(workspace: Path, tiny_lm_dir: Path) -> None:
    folder = run(tiny_lm_dir, json.dumps(STORIES))
    assert {row["concept"] for row in rows(folder, "prompt")} == {None}
    assert rows(folder, "pair") == []
    assert rows(folder, "concept_label") == []


def test_two_concepts_of_one_name_are_refused(workspace: Path, tiny_lm_dir: Path) -> None:
    with pytest.raises(CorpusError, match="two concepts are called 'mood'"):
        run(tiny_lm_dir, json.dumps(STORIES), concepts=[MOOD, MOOD])


def test_the_vocabulary_reads_as_a_person_would(tiny_lm_dir: Path, real_dir: Path) -> None:
    tiny = {piece.piece: piece for piece in vocabulary(open_tokenizer(tiny_lm_dir))}
    assert len(tiny) == 320
    assert tiny["Ġthe"].text == " the"
    assert tiny["Ġthe"].is_word_start
    assert not tiny["he"].is_word_start
    assert tiny["Ã"].is_byte
    assert not tiny["<bos>"].is_byte
    real = {p.piece: p for p in vocabulary(open_tokenizer(real_dir / "stories260K-hf"))}
    assert (real["▁the"].text, real["▁the"].is_word_start) == (" the", True)
    assert (real["<0x0A>"].text, real["<0x0A>"].is_byte) == ("\n", True)


@pytest.fixture
def world(workspace: Path, tiny_lm_dir: Path) -> Path:
    model = workspace / "long"
    model.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (model / name).write_bytes((tiny_lm_dir / name).read_bytes())
    config = json.loads((tiny_lm_dir / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
    return run(
        model, source="microworld", path=None, documents=60, prompts=6, pairs=2, context=2048
    )


def test_the_microworld_comes_with_everything_its_grammar_knows(world: Path) -> None:
    from microworld import CONCEPTS, sample
    from pipelines.corpora.world import CORPUS_SEEDS

    concepts = {row["concept_id"]: row["name"] for row in rows(world, "concept")}
    assert list(concepts.values()) == [concept.name for concept in CONCEPTS]
    drawn = {d.text: d for d in (sample(CORPUS_SEEDS, i) for i in range(120))}
    texts = {row["doc_id"]: row["text"] for row in rows(world, "text")}
    whole = {doc_id: drawn[text] for doc_id, text in texts.items() if text in drawn}
    assert len(whole) == 60
    true: dict[int, set[str]] = {doc_id: set() for doc_id in whole}
    false: dict[int, set[str]] = {doc_id: set() for doc_id in whole}
    for row in rows(world, "concept_label"):
        if row["tok"] is None and row["doc_id"] in whole:
            (true if row["y"] else false)[row["doc_id"]].add(concepts[row["concept_id"]])
    for doc_id, document in whole.items():
        assert true[doc_id] == document.concepts
        assert not false[doc_id] & document.concepts
        if document.kind == "story":
            assert {"sea", "sad", "rainy"} <= true[doc_id] | false[doc_id]
        else:
            assert "rainy" not in true[doc_id] | false[doc_id] or document.kind == "spanish"


def test_token_concepts_of_the_microworld_stand_on_their_words(world: Path) -> None:
    concepts = {row["name"]: row["concept_id"] for row in rows(world, "concept")}
    pieces = {row["token_id"]: row["text"] for row in rows(world, "vocab")}
    tokens = rows(world, "token")
    labelled = {
        r["tok"] for r in rows(world, "concept_label") if r["concept_id"] == concepts["digit"]
    }
    assert labelled
    assert all(re.search(r"\d", pieces[tokens[tok]["token_id"]]) for tok in labelled)


def test_the_microworlds_prompts_and_pairs_are_its_own(world: Path) -> None:
    prompts = rows(world, "prompt")
    neutral = [row for row in prompts if row["concept"] is None]
    assert {row["split"] for row in neutral} == {"calibrate", "test"}
    assert all("topic" not in json.loads(row["latents"]) for row in neutral)
    assert any("animal" in json.loads(row["latents"]) for row in neutral)
    halves = [{r["text"] for r in neutral if r["split"] == s} for s in ("calibrate", "test")]
    assert not halves[0] & halves[1]
    sea = [row for row in rows(world, "pair") if row["concept"] == "sea"]
    assert len(sea) == 2
    assert all(row["positive"] != row["negative"] for row in sea)
    assert json.loads((world / "corpus.json").read_text())["judge"] == "microworld"


def test_the_stage_loads_no_torch_and_no_transformers() -> None:
    program = (
        "import sys, pipelines.corpus, pipelines.corpora.world; "
        "sys.exit(bool({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    repository = Path(str(pipelines.__file__)).parents[1]
    subprocess.run([sys.executable, "-c", program], cwd=repository, check=True)


def test_a_real_corpus_and_its_model_fit(workspace: Path, real_dir: Path) -> None:
    texts = json.loads((real_dir / "text" / "tinystories_1000.json").read_text())[:120]
    model = real_dir / "stories260K-hf"
    folder = run(model, json.dumps(texts), context=256, concepts=[MOOD])
    docs = rows(folder, "doc")
    assert len(docs) > 120
    assert {doc["split"] for doc in docs} == {"train", "heldout", "label", "score", "test"}
    assert len(rows(folder, "pair")) == 6
