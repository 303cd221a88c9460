"""The figures that sum a run's labels up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from features.labels import Chosen, ConceptCheck, Scored
from features.probe import ProbeScore, tracked
from features.rule_json import kind_of

GOOD_AUROC = 0.9
"""A named feature reads its concept well from here on, on test documents."""
GOOD_F1 = 0.7
"""A rule made without concepts has found the concept from here on."""


def is_found(check: ConceptCheck) -> bool:
    """Whether a rule made without concepts fires where the concept holds."""
    return check.f1 is not None and check.f1 >= GOOD_F1


def summarise_labels(
    chosen: Chosen,
    scored: Sequence[Scored],
    withheld: Sequence[Scored],
    checks: Sequence[ConceptCheck],
    probes: Sequence[ProbeScore],
) -> dict[str, Any]:
    """The figures of metrics/labels.json for one run."""
    followed = tracked(probes)
    auroc = {
        concept: next(
            (
                score.value
                for one in scored
                if one.choice.feature == feature
                for score in one.scores
                if score.metric == "auroc"
            ),
            None,
        )
        for concept, feature in chosen.named_by.items()
    }
    well = [c for c in followed if (auroc.get(c) or 0.0) >= GOOD_AUROC]
    found = [c.concept for c in checks if c.concept in followed and is_found(c)]
    kinds = Counter(kind_of(one.choice.rule) for one in scored)
    return {
        "labelled": len(scored),
        "above_null": _share(sum(not one.is_weak for one in scored), len(scored)),
        "kinds": dict(sorted(kinds.items())),
        "concepts": len(chosen.readings),
        "concepts_judged": sum(probe.auroc is not None for probe in probes),
        "concepts_tracked": len(followed),
        "concepts_named": len(chosen.named_by),
        "tracked_named_well": _share(len(well), len(followed)),
        "tracked_not_named_well": sorted(set(followed) - set(well)),
        "withheld_above_null": _share(sum(not one.is_weak for one in withheld), len(withheld)),
        "withheld_finds_tracked": _share(len(found), len(followed)),
    }


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None
