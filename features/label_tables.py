"""Labels as tables: the rows that the stage writes, one function a table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from features.label_summary import is_found
from features.labels import ConceptCheck, Scored
from features.naming import describe, short_name, slugify, unique_slugs
from features.rule_json import kind_of, to_json
from features.rules import (
    ConceptRule,
    PromotedTokens,
    Rule,
    complexity,
    names_concept,
)
from features.scores import Score
from features.vocab import Vocab


def input_label_id(feature: int) -> int:
    """The label of when a feature fires."""
    return 10 * feature


def output_label_id(feature: int) -> int:
    """The label of what a feature's decoder row promotes."""
    return 10 * feature + 1


def label_table(
    scored: Sequence[Scored], outputs: Mapping[int, PromotedTokens], vocab: Vocab, *, run_id: str
) -> pa.Table:
    """Rows of `label`: one about the input and one about the output a feature."""
    rows = [_input_row(one, vocab) for one in scored]
    taken = [one.slug for one in scored]
    bases = [slugify(short_name(rule, vocab)) for rule in outputs.values()]
    for (feature, rule), slug in zip(outputs.items(), unique_slugs(bases, taken), strict=True):
        rows.append(
            {
                "label_id": output_label_id(feature),
                "feature_id": feature,
                "name": short_name(rule, vocab).replace("-", " "),
                "slug": slug,
                "text": f"Promotes {describe(rule, vocab).removeprefix('the token before ')}",
                "rule": _json(rule),
                "method": kind_of(rule),
                "side": "output",
                "status": "unscored",
            }
        )
    return pa.Table.from_pylist([{"run_id": run_id, **row} for row in rows], _LABEL)


def _input_row(one: Scored, vocab: Vocab) -> dict[str, Any]:
    rule = one.choice.rule
    name = one.slug if isinstance(rule, ConceptRule) else short_name(rule, vocab)
    return {
        "label_id": input_label_id(one.choice.feature),
        "feature_id": one.choice.feature,
        "name": ("weak: " if one.is_weak else "") + name.replace("-", " "),
        "slug": one.slug,
        "text": _sentence(one, vocab),
        "rule": _json(rule),
        "method": kind_of(rule),
        "side": "input",
        "status": "weak" if one.is_weak else "ok",
    }


def _sentence(one: Scored, vocab: Vocab) -> str:
    best = one.choice.best.candidate
    above = f" (above {best.threshold:.3g})" if best.threshold > 0 else ""
    sentence = f"Fires on {describe(best.rule, vocab)}{above}"
    if not isinstance(best.rule, ConceptRule):
        return sentence
    others = [c.candidate.rule for c in one.choice.considered[1:]]
    plain = next((rule for rule in others if not names_concept(rule)), None)
    return sentence if plain is None else f"{sentence}; without concepts: {describe(plain, vocab)}"


def score_table(
    scored: Sequence[Scored], outputs: Mapping[int, PromotedTokens], *, run_id: str, seed: int
) -> pa.Table:
    """Rows of `label_score`, all on the test split; output labels wait for their causal score."""
    rows = [
        _score_row(input_label_id(one.choice.feature), score, seed)
        for one in scored
        for score in one.scores
    ]
    waiting = Score(
        "output_score", None, None, None, None, 0, 0, reason="scored by its effect in directions"
    )
    rows += [_score_row(output_label_id(feature), waiting, seed) for feature in outputs]
    return pa.Table.from_pylist([{"run_id": run_id, **row} for row in rows], _SCORE)


def _score_row(label_id: int, score: Score, seed: int) -> dict[str, Any]:
    return {
        "label_id": label_id,
        "metric": score.metric,
        "value": score.value,
        "lo": score.lo,
        "hi": score.hi,
        "null_value": score.null_value,
        "n_pos": score.n_pos,
        "n_neg": score.n_neg,
        "n_unanswered": 0,
        "negatives": score.negatives,
        "scorer": "rule",
        "split": "test",
        "seed": seed,
        "reason": score.reason,
    }


def candidate_table(scored: Sequence[Scored], *, run_id: str) -> pa.Table:
    """The rules that were considered for each label, the chosen one first."""
    rows = [
        {
            "run_id": run_id,
            "label_id": input_label_id(one.choice.feature),
            "rank": rank,
            "rule": _json(considered.candidate.rule),
            "threshold": considered.candidate.threshold,
            "f1": _number(considered.f1),
            "skill": _number(considered.skill),
            "complexity": complexity(considered.candidate.rule),
            "made_from": one.choice.made_from,
            "chosen_on": one.choice.chosen_on,
        }
        for one in scored
        for rank, considered in enumerate(one.choice.considered)
    ]
    return pa.Table.from_pylist(rows, _CANDIDATE)


def withheld_table(
    scored: Sequence[Scored], checks: Sequence[ConceptCheck], vocab: Vocab, *, run_id: str
) -> pa.Table:
    """The labels made without concepts; for features that bear a concept's name, whether
    their rule fires where the concept holds."""
    by_feature = {check.feature: check for check in checks}
    rows = []
    for one in scored:
        check = by_feature.get(one.choice.feature)
        rows.append(
            {
                "run_id": run_id,
                "feature_id": one.choice.feature,
                "slug": one.slug,
                "text": f"Fires on {describe(one.choice.rule, vocab)}",
                "rule": _json(one.choice.rule),
                "status": "weak" if one.is_weak else "ok",
                "detection": one.detection.value,
                "lo": one.detection.lo,
                "hi": one.detection.hi,
                "null_value": one.detection.null_value,
                "concept": check.concept if check else None,
                "concept_f1": check.f1 if check else None,
                "finds_concept": is_found(check) if check else None,
            }
        )
    return pa.Table.from_pylist(rows, _WITHHELD)


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _json(rule: Rule) -> str:
    return _write_json(to_json(rule))


_write_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


_RUN_LABEL = [("run_id", pa.string()), ("label_id", pa.int64())]
_LABEL = pa.schema(
    [
        *_RUN_LABEL,
        ("feature_id", pa.int32()),
        *[(name, pa.string()) for name in ("name", "slug", "text", "rule", "method")],
        *[(name, pa.string()) for name in ("model", "prompt_sha", "side", "status")],
    ]
)
_SCORE = pa.schema(
    [
        *_RUN_LABEL,
        ("metric", pa.string()),
        *[(name, pa.float32()) for name in ("value", "lo", "hi", "null_value")],
        *[(name, pa.int32()) for name in ("n_pos", "n_neg", "n_unanswered")],
        *[(name, pa.string()) for name in ("negatives", "scorer", "split")],
        ("seed", pa.int32()),
        ("reason", pa.string()),
    ]
)
_CANDIDATE = pa.schema(
    [
        *_RUN_LABEL,
        ("rank", pa.int16()),
        ("rule", pa.string()),
        *[(name, pa.float32()) for name in ("threshold", "f1", "skill", "complexity")],
        *[(name, pa.string()) for name in ("made_from", "chosen_on")],
    ]
)
_WITHHELD = pa.schema(
    [
        ("run_id", pa.string()),
        ("feature_id", pa.int32()),
        *[(name, pa.string()) for name in ("slug", "text", "rule", "status")],
        *[(name, pa.float32()) for name in ("detection", "lo", "hi", "null_value")],
        ("concept", pa.string()),
        ("concept_f1", pa.float32()),
        ("finds_concept", pa.bool_()),
    ]
)
