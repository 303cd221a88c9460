"""The prompts that make, choose and score output labels are disjoint."""

from __future__ import annotations

import random

from pipelines.trial.output_labels import PROMPTS, thirds

TEXTS = {f"Text number {number}": [1, number] for number in range(100)}


def test_no_prompt_is_in_two_thirds() -> None:
    parts = thirds(TEXTS)
    assert [len(part) for part in parts] == [PROMPTS] * 3
    seen = [tuple(ids) for part in parts for ids in part]
    assert len(set(seen)) == len(seen)


def test_the_thirds_rest_on_the_texts_and_not_on_their_order() -> None:
    shuffled = list(TEXTS.items())
    random.Random(0).shuffle(shuffled)
    assert thirds(dict(shuffled)) == thirds(TEXTS)
    assert thirds(TEXTS)[0] != list(TEXTS.values())[:PROMPTS]


def test_few_prompts_leave_the_last_third_empty_first() -> None:
    assert [len(part) for part in thirds(dict(list(TEXTS.items())[:5]))] == [2, 2, 1]
    assert [len(part) for part in thirds(dict(list(TEXTS.items())[:2]))] == [1, 1, 0]
