"""Labels: every feature that fires often enough gets a rule, a name, scores and a null.

Two steps that share no documents. `choose_labels` sees the splits `label`, `train` and
`score` and settles every rule and slug; `score_labels` sees `test`, and can change nothing
but a name's status.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from features.auroc import Reading
from features.candidates import Candidate
from features.choose import Choice, Chooser, best_by_concept
from features.documents import Evidence
from features.errors import LabelError
from features.judge import Considered, Judge
from features.measured import Measured, measure_concepts
from features.naming import short_name, slugify, unique_slugs
from features.rules import ConceptRule, PromotedTokens, Rule, fires
from features.scores import Score
from features.scoring import Scorer
from features.vocab import Vocab

LEAST_AUROC = 0.7
"""A concept that no feature reads so well on the score split gives its name to none."""
SAID_PIECES = 8
"""Promoted pieces in an output label."""


@dataclass(frozen=True, slots=True)
class LabelConfig:
    """How features get their names."""

    min_firings: int = 10
    """Fewer, over the whole corpus, and a feature has no name."""
    bootstrap: int = 200
    complexity_penalty: float = 0.01
    withheld: bool = True
    seed: int = 0

    @property
    def with_concepts(self) -> tuple[bool, ...]:
        """Once with the corpus's concepts, and once without if they are to be withheld."""
        return (True, False) if self.withheld else (True,)


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """Rules and names, settled before any test document is read."""

    choices: tuple[Choice, ...]
    """One a labelled feature, ascending."""
    slugs: tuple[str, ...]
    withheld: tuple[Choice, ...]
    """The same features' rules with the concepts withheld; empty if not asked for."""
    withheld_slugs: tuple[str, ...]
    named_by: Mapping[str, int]
    """Concept -> the feature that bears its name."""
    readings: tuple[Measured, ...]
    """Every feature against every concept on the score split."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A chosen rule with what it is worth on the test documents."""

    choice: Choice
    slug: str
    scores: tuple[Score, ...]

    @property
    def detection(self) -> Score:
        """The score that decides whether the name is weak."""
        return self.scores[0]

    @property
    def is_weak(self) -> bool:
        """Detection is undefined, or its lower bound does not exceed its null."""
        lo, null = self.detection.lo, self.detection.null_value
        return lo is None or null is None or lo <= null


@dataclass(frozen=True, slots=True)
class ConceptCheck:
    """Whether a rule made without concepts fires where a concept holds, on test documents."""

    concept: str
    feature: int
    f1: float | None


def living(
    label: Evidence, train: Evidence, score: Evidence, config: LabelConfig
) -> Bool[np.ndarray, " feature"]:
    """The features that fire often enough to be labelled, in documents that may decide it."""
    somewhere = (label.n_act + train.n_act) > 0
    alive: np.ndarray = (label.n_act + train.n_act + score.n_act >= config.min_firings) & somewhere
    return alive


def choose_labels(
    label: Evidence,
    train: Evidence,
    score: Evidence,
    config: LabelConfig,
    made: Sequence[tuple[Choice, ...]] | None = None,
) -> Chosen:
    """Rules and slugs of every feature with enough firings.

    A concept's best feature takes the concept for its rule and its bare name for a slug;
    other features get the rule with the best skill on the score split.

    Firings are counted in these three splits, so that no test document decides who is named.

    Args:
        made: the choices of every living feature, ascending, where they are made already.

    Raises:
        LabelError: evidence of the test split was given.
    """
    readings = measure_concepts(score)
    alive = living(label, train, score, config)
    named_by = best_by_concept(readings, alive & (score.n_act > 0), least_auroc=LEAST_AUROC)
    by_feature = {feature: concept for concept, feature in named_by.items()}
    features = np.flatnonzero(alive).tolist()
    if made is None:
        chooser = Chooser(label, train, score, complexity_penalty=config.complexity_penalty)
        made = [chooser.choose(f, with_concepts=config.with_concepts) for f in features]
    judge = Judge(score)
    choices: list[Choice] = []
    for feature, (best, *_) in zip(features, made, strict=True):
        concept = by_feature.get(feature)
        reading = next((r for r in readings if r.truth.name == concept), None)
        choices.append(best if reading is None else _take_concept(best, reading, judge))
    withheld = [choice for _, *others in made for choice in others]
    vocab = label.documents.rows.vocab
    reserved = {slugify(truth.name) for truth in label.documents.truths}
    return Chosen(
        choices=tuple(choices),
        slugs=_slugs(choices, vocab, by_feature, reserved),
        withheld=tuple(withheld),
        withheld_slugs=_slugs(withheld, vocab, {}, set()),
        named_by=named_by,
        readings=readings,
    )


def _take_concept(choice: Choice, reading: Reading, judge: Judge) -> Choice:
    """The choice with a concept for its rule, the rule it would have had second."""
    truth = reading.truth
    candidate = Candidate(
        ConceptRule(truth.name, truth.level), float(reading.threshold[choice.feature])
    )
    best: Considered = judge.consider(choice.feature, candidate)
    others = tuple(c for c in choice.considered if c.candidate.rule != candidate.rule)
    return Choice(
        choice.feature,
        best,
        (best, *others[:4]),
        made_from="score",
        chosen_on="score",
    )


def _slugs(
    choices: Sequence[Choice], vocab: Vocab, by_feature: Mapping[int, str], reserved: set[str]
) -> tuple[str, ...]:
    """Slugs in the order of `choices`; of two equal names the more skilful keeps it bare."""
    skill = [choice.best.skill if np.isfinite(choice.best.skill) else -1.0 for choice in choices]
    order = sorted(range(len(choices)), key=lambda i: (-skill[i], choices[i].feature))
    others = [i for i in order if choices[i].feature not in by_feature]
    bases = [slugify(short_name(choices[i].rule, vocab)) for i in others]
    slug = dict(zip(others, unique_slugs(bases, reserved), strict=True))
    for i, choice in enumerate(choices):
        if choice.feature in by_feature:
            slug[i] = slugify(by_feature[choice.feature])
    return tuple(slug[i] for i in range(len(choices)))


def score_labels(
    choices: Sequence[Choice], slugs: Sequence[str], scorer: Scorer
) -> tuple[Scored, ...]:
    """Each choice with its scores on the scorer's documents."""
    found = [scorer.score(choice.feature, choice.best.candidate) for choice in choices]
    return with_scores(choices, slugs, found)


def with_scores(
    choices: Sequence[Choice], slugs: Sequence[str], scores: Sequence[tuple[Score, ...]]
) -> tuple[Scored, ...]:
    """Each choice with its slug and its scores, in order."""
    return tuple(Scored(*one) for one in zip(choices, slugs, scores, strict=True))


def check_withheld(chosen: Chosen, test: Evidence) -> tuple[ConceptCheck, ...]:
    """For each concept that named a feature: F1 of the rule made without concepts.

    A document counts as said where the rule holds on one of its tokens.
    """
    rules = {choice.feature: choice.rule for choice in chosen.withheld}
    return tuple(
        ConceptCheck(concept, feature, _concept_f1(rules[feature], concept, test))
        for concept, feature in chosen.named_by.items()
        if feature in rules
    )


def _concept_f1(rule: Rule, concept: str, test: Evidence) -> float | None:
    truth = test.documents.truth[concept]
    rows = test.documents.rows
    says: Bool[np.ndarray, " unit"] = fires(rule, rows) & ~rows.is_special
    if truth.level == "document":
        says = np.bincount(rows.doc, weights=says, minlength=rows.n_docs) > 0
    says = says[truth.is_defined]
    holds = truth.holds[truth.is_defined]
    if not holds.any():
        return None
    return float(2 * (says & holds).sum() / (says.sum() + holds.sum()))


def output_rules(
    promoted: Int[np.ndarray, "feature rank"], features: Sequence[int]
) -> dict[int, PromotedTokens]:
    """What each feature's decoder row promotes, as a rule.

    Raises:
        LabelError: there are no promoted pieces.
    """
    if promoted.shape[1] == 0:
        raise LabelError(
            "no promoted pieces were given; expected the table logit; run `dvc repro harvest`"
        )
    return {
        feature: PromotedTokens(tuple(int(p) for p in promoted[feature, :SAID_PIECES]))
        for feature in features
    }
