"""Rules that every feature tries: where they hold is found once and kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from features.rows import Rows
from features.rules import ConceptRule, Repetition, Rule, TextLanguage, TokenClass, fires


def is_shared(rule: Rule) -> bool:
    """Whether a rule is one of the few that are tried on every feature."""
    return isinstance(rule, TokenClass | Repetition | ConceptRule | TextLanguage)


class SharedRules:
    """Masks of shared rules over one split's tokens, special ones left out."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._place: dict[Rule, int] = {}
        self._masks = np.zeros((0, len(rows)), dtype=bool)
        self._said = np.zeros(0, dtype=np.int64)

    def mask(self, rule: Rule) -> Bool[np.ndarray, " token"]:
        """The tokens on which a rule holds."""
        place = self.places((rule,))
        return np.asarray(self._masks[place[0]])

    def places(self, rules: Sequence[Rule]) -> Int[np.ndarray, " rule"]:
        """What `said` and `holding` know these rules by; new ones are executed."""
        try:
            return np.array([self._place[rule] for rule in rules], dtype=np.int64)
        except KeyError:
            self._execute([rule for rule in dict.fromkeys(rules) if rule not in self._place])
            return self.places(rules)

    def said(self, place: Int[np.ndarray, " rule"]) -> Int[np.ndarray, " rule"]:
        """Tokens on which each rule holds."""
        said: np.ndarray = self._said[place]
        return said

    def holding(
        self, place: Int[np.ndarray, " rule"], row: Int[np.ndarray, " act"]
    ) -> Bool[np.ndarray, "rule act"]:
        """Whether each rule holds on each of these tokens."""
        return np.asarray(self._masks[place[:, None], row])

    def _execute(self, rules: Sequence[Rule]) -> None:
        real = ~self._rows.is_special
        self._masks = np.stack([*self._masks, *(fires(rule, self._rows) & real for rule in rules)])
        self._said = np.count_nonzero(self._masks, axis=1)
        self._place |= {rule: len(self._place) + i for i, rule in enumerate(rules)}
