"""On a real pretrained model: a budget is met, and he - she turns the pronouns of its stories."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from steering.budget import solve_budgets
from steering.evaluate import spearman
from steering.fluency import fluency, mean_nats, reference
from steering.intervals import paired_interval
from steering.intervention import Add
from steering.resume import read_once
from steering.sampling import Answer, Ask, sample
from steering.sources.diff_mean import from_pairs
from steering.tax import delta_ce, held_out, measure_tax

POINT = "blocks.2.hook_resid_post"
SHE, HE = re.compile(r"\b(she|her)\b", re.I), re.compile(r"\b(he|his|him)\b", re.I)


def share(text: str) -> float:
    she, he = len(SHE.findall(text)), len(HE.findall(text))
    return she / (she + he) if she + he else 0.0


@pytest.mark.real
def test_the_mean_difference_turns_pronouns_at_a_solved_cost(real_dir: Path) -> None:
    from lm import open_model

    lm = open_model(real_dir / "stories260K-hf", device="cpu", dtype="float32")
    stories = json.loads((real_dir / "text" / "tinystories_1000.json").read_text())
    starts = ["was happy", "went home", "saw a dog", "liked to play", "ran to the park"]
    pairs = [(f"One day, she {end}.", f"One day, he {end}.") for end in starts]
    push = from_pairs(lm, pairs, POINT, concept="she")
    texts = held_out(lm, [lm.encode(story) for story in stories[:8]], 96)
    assert read_once(lm, texts.ids, texts.is_real, [[Add(push, 1.0)]]).stream is not None

    def cost(_which: np.ndarray, doses: np.ndarray) -> np.ndarray:
        return delta_ce(lm, texts, [[Add(push, float(dose))] for dose in doses])

    [[small, large]] = solve_budgets(cost, 1, [0.05, 0.25])
    assert small.cost == pytest.approx(0.05, rel=0.05)
    assert large.cost == pytest.approx(0.25, rel=0.05)
    [tax] = measure_tax(lm, texts, [[Add(push, large.coefficient)]])
    assert tax.delta_ce == pytest.approx(large.cost, abs=1e-4)
    assert tax.kl_mean > 0

    prompts = ["Once upon a time, a little child", "One day, the teacher", "The friend"] * 4
    doses = [0.0, small.coefficient, large.coefficient]
    asks = [
        Ask(tuple(lm.encode(prompt)), seed, (Add(push, dose),) if dose else ())
        for dose in doses
        for seed, prompt in enumerate(prompts)
    ]
    answers = sample(lm, asks, max_new_tokens=40, temperature=1.0)
    by_dose = np.array([share(lm.decode(one.ids)) for one in answers]).reshape(3, -1)
    gain = paired_interval(by_dose[2], by_dose[0])
    assert gain.lo > 0
    assert spearman(np.array(doses), by_dose.mean(axis=1)) > 0

    def scored(some: list[Answer]) -> np.ndarray:
        return fluency(mean_nats([a.nats for a in some]), [np.array(a.ids) for a in some], ref)

    quiet, shuffled = answers[:12], [_shuffled(one, seed) for seed, one in enumerate(answers[:12])]
    ref = reference(mean_nats([a.nats for a in quiet]), [np.array(a.ids) for a in quiet])
    asked = [Ask(ask.prompt_ids, ask.seed) for ask in asks[:12]]
    from lm.losses import token_losses

    rows = [[*a.prompt_ids, *s.ids] for a, s in zip(asked, shuffled, strict=True)]
    losses = [loss[-len(s.ids) :] for loss, s in zip(token_losses(lm, rows), shuffled, strict=True)]
    gibberish = [Answer(s.ids, loss) for s, loss in zip(shuffled, losses, strict=True)]
    assert scored(quiet).mean() > 0.8
    assert scored(gibberish).mean() < 0.2


def _shuffled(answer: Answer, seed: int) -> Answer:
    order = np.random.default_rng(seed).permutation(len(answer.ids))
    return Answer(tuple(answer.ids[i] for i in order), answer.nats)
