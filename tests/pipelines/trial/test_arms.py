from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from pipelines.errors import MissingInput, PipelineError
from pipelines.trial.arms import (
    CORPUS,
    arms_of,
    continued,
    first_copies,
    heldout_documents,
    prefix_of,
    read_prompts,
    sample_seed,
)
from steering.direction import Direction
from steering.intervention import Add
from steering.sources.random import random_direction
from store.schema import write_table

if TYPE_CHECKING:
    from lm import LanguageModel

POINT = "blocks.0.hook_resid_post"


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name: str, rows: list[dict[str, object]]) -> None:
    write_table(CORPUS / f"{name}.parquet", name, pa.Table.from_pylist(rows), {})


def prompt(prompt_id: int, concept: str | None, split: str, text: str) -> dict[str, object]:
    return {
        "prompt_id": prompt_id,
        "prompt_set": "neutral",
        "concept": concept,
        "text": text,
        "split": split,
        "latents": "{}",
    }


def direction(seed: int, place: int | None = None) -> Direction:
    from dataclasses import replace

    made = random_direction(16, hook_point=POINT, seed=seed, mean_norm=2.0)
    return made if place is None else replace(made, provenance={"place": place})


def test_a_concepts_own_prompts_come_before_those_for_any(tiny_lm: LanguageModel) -> None:
    write(
        "prompt",
        [
            prompt(0, None, "test", "The farmer"),
            prompt(1, "sea", "test", "One day"),
            prompt(2, "sea", "calibrate", "A star"),
        ],
    )
    assert [p.prompt_id for p in read_prompts(tiny_lm, "sea", "test", 8, 4)] == [1]
    assert [p.prompt_id for p in read_prompts(tiny_lm, "farm", "test", 8, 4)] == [0]
    assert read_prompts(tiny_lm, "sea", "calibrate", 8, 4)[0].ids == tuple(tiny_lm.encode("A star"))


def test_prompts_that_leave_no_room_are_passed_over_and_none_is_an_error(
    tiny_lm: LanguageModel,
) -> None:
    write("prompt", [prompt(0, None, "test", "The farmer went"), prompt(1, None, "test", "A")])
    room = tiny_lm.context - 2
    assert [p.prompt_id for p in read_prompts(tiny_lm, "sea", "test", 8, room)] == [1]
    with pytest.raises(PipelineError, match="no calibrate prompt for 'sea'"):
        read_prompts(tiny_lm, "sea", "calibrate", 8, 4)


def test_a_missing_corpus_names_the_stage_that_writes_it(tiny_lm: LanguageModel) -> None:
    with pytest.raises(MissingInput, match="corpus"):
        read_prompts(tiny_lm, "sea", "test", 8, 4)


def test_the_halves_of_the_heldout_split_share_no_document_and_nothing_of_other_splits() -> None:
    splits = ["train", "heldout", "heldout", "test", "heldout", "heldout"]
    write(
        "doc",
        [
            {"doc_id": i, "tok_start": 4 * i, "n_tok": 4, "split": split, "source": "", "sha": ""}
            for i, split in enumerate(splits)
        ],
    )
    write(
        "token",
        [
            {"tok": tok, "doc_id": tok // 4, "pos": tok % 4, "token_id": tok, "is_special": False}
            for tok in range(24)
        ],
    )
    calibrate, test = heldout_documents("calibrate", 99), heldout_documents("test", 99)
    assert list(calibrate) == [1, 4]
    assert list(test) == [2, 5]
    assert test[2] == [8, 9, 10, 11]
    assert list(heldout_documents("test", 4)) == [2]


def test_one_heldout_document_cannot_be_halved() -> None:
    row: dict[str, object] = {
        "doc_id": 0,
        "tok_start": 0,
        "n_tok": 1,
        "split": "heldout",
        "source": "",
        "sha": "",
    }
    write("doc", [row])
    token: dict[str, object] = {"tok": 0, "doc_id": 0, "pos": 0, "token_id": 5, "is_special": True}
    write("token", [token])
    with pytest.raises(PipelineError, match="expected at least two"):
        heldout_documents("test", 8)


def test_arms_come_by_concept_and_method_with_actadds_places_together() -> None:
    arms = arms_of(
        {
            "sea/random": direction(0),
            "sea/actadd/002": direction(2, 2),
            "sea/actadd/001": direction(1, 1),
            "farm/causal": direction(3),
        }
    )
    assert [arm.direction_id for arm in arms] == ["farm/causal", "sea/actadd", "sea/random"]
    assert [d.provenance["place"] for d in arms[1].directions] == [1, 2]
    assert len(arms[1].push(0.5)) == 2
    [edit] = arms[2].push(0.5)
    assert isinstance(edit, Add)
    assert edit.coefficient == 0.5


def test_arms_that_push_alike_are_known_and_only_within_a_concept() -> None:
    arms = arms_of(
        {
            "farm/causal": direction(1),
            "sea/label": direction(1),
            "sea/causal": direction(1),
            "sea/random": direction(2),
        }
    )
    assert [arm.direction_id for arm in arms][1:] == ["sea/label", "sea/causal", "sea/random"]
    assert first_copies(arms) == [0, 1, 1, 3]


def test_a_seed_depends_on_prompt_and_sample_alone() -> None:
    seeds = {sample_seed(0, prompt_id, sample) for prompt_id in range(8) for sample in range(3)}
    assert len(seeds) == 24
    assert sample_seed(0, 3, 1) == sample_seed(0, 3, 1) != sample_seed(1, 3, 1)


def test_a_continuation_is_read_with_its_prompt_in_front(tiny_lm: LanguageModel) -> None:
    ids = tiny_lm.encode("The farmer")
    more = tiny_lm.encode(" went to the barn.")[1:]
    assert continued(tiny_lm, ids, more) == ("The farmer", "The farmer went to the barn.")
    assert continued(tiny_lm, ids, []) == ("The farmer", "The farmer")


def test_the_prefix_is_the_start_of_the_first_positive_text(tiny_lm: LanguageModel) -> None:
    pair = {"concept": "sea", "pair_id": 0, "positive": "A sea. The boat", "negative": "A barn."}
    write("pair", [pair])
    prefix = prefix_of(tiny_lm, "sea")
    assert tiny_lm.decode(prefix) == "A sea."
    assert not set(prefix) & tiny_lm.special_ids
    assert prefix_of(tiny_lm, "farm") == ()
