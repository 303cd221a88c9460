from __future__ import annotations

import numpy as np
import pytest

from pipelines.trial.judges import WordJudge
from pipelines.trial.scoring import Baseline, Texts, baseline, judged, score
from steering.fluency import FluencyReference

JUDGE = WordJudge.of(
    [
        {"name": "sea", "words": ["boat", "sea"]},
        {"name": "rain", "words": ["rain", "wet"]},
        {"name": "farm", "words": ["cow"]},
    ]
)
REFERENCE = FluencyReference(nats=1.0, tolerance=0.5, distinct2=1.0, repeated4=0.0)
PROMPTS = {3: "In the rain", 8: "One day"}


def texts(*rows: tuple[int, str, float]) -> Texts:
    return Texts(
        prompt_ids=np.array([prompt for prompt, _, _ in rows]),
        seeds=np.zeros(len(rows), dtype=np.int64),
        prompts=[PROMPTS[prompt] for prompt, _, _ in rows],
        texts=[PROMPTS[prompt] + text for prompt, text, _ in rows],
        ids=[np.arange(8) for _ in rows],
        nats=[np.full(8, nats, dtype=np.float32) for _, _, nats in rows],
    )


@pytest.fixture
def base() -> Baseline:
    quiet = texts((8, " a dog", 1.0), (3, " a wet dog", 1.0), (3, " a dog", 1.0))
    return baseline(JUDGE, "sea", quiet, REFERENCE, judged(JUDGE, quiet))


def test_the_baseline_is_a_mean_over_each_prompts_samples(base: Baseline) -> None:
    assert base.prompt_ids.tolist() == [3, 8]
    assert base.unsteered[0].tolist() == [0.0, 0.5, 0.0]
    assert base.unsteered[1].tolist() == [0.0, 0.0, 0.0]


def test_a_prompt_holds_what_the_judge_reads_in_it_but_never_the_target(base: Baseline) -> None:
    assert base.held.tolist() == [[False, True, False], [False, False, False]]
    on_target = baseline(JUDGE, "rain", texts((3, " x", 1.0)), REFERENCE, np.zeros((1, 3)))
    assert not on_target.held.any()


def test_a_text_is_scored_on_its_continuation_alone(base: Baseline) -> None:
    found = score(JUDGE, base, texts((3, " a boat in the wet", 1.0), (3, " a boat", 1.0)))
    assert found.concept.tolist() == [1.0, 1.0]
    assert found.preservation.tolist() == [1.0, 0.0]
    assert found.hm.tolist() == [1.0, 0.0]


def test_a_prompt_that_holds_nothing_is_scored_on_concept_and_fluency(base: Baseline) -> None:
    found = score(JUDGE, base, texts((8, " a boat", 1.0), (8, " a boat", 9.0)))
    assert np.isnan(found.preservation).all()
    assert found.hm[0] == pytest.approx(1.0)
    assert found.hm[1] < 0.01


def test_rows_may_come_in_any_order(base: Baseline) -> None:
    rows = [(8, " a boat", 1.2), (3, " wet sea", 1.9), (3, " sea", 1.0)]
    forward, backward = score(JUDGE, base, texts(*rows)), score(JUDGE, base, texts(*rows[::-1]))
    np.testing.assert_array_equal(forward.hm, backward.hm[::-1])
