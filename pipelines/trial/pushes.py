"""Pushes along many features and along random directions, and what lists of tokens gain by them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lm.model import LanguageModel
from pipelines.params import Params
from pipelines.trial.bench import Bench
from pipelines.trial.response import feature_direction
from steering.intervention import Add
from steering.output_tokens import beyond_others, likelier, own_list, said
from steering.sources.random import random_direction

RANDOM: Final = 128
"""Random directions that a push is compared with."""
OTHERS: Final = 64
"""Other features whose lists are tried under a feature's push, at most."""
NULL: Final = 0.95
"""Share of a null that a figure has to exceed."""

Prompts = Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True, eq=False)
class Worth:
    """What one list a feature is worth on some prompts; nats are means over a list's tokens."""

    gain: Float[np.ndarray, "feature prompt"]
    """Nats that the feature's push gives its list beyond random pushes."""
    random: Float[np.ndarray, " feature"]
    """Nats that one random push gives the list beyond the others, at `NULL` of them."""
    other: Float[np.ndarray, " feature"]
    """Nats that the feature's push gives other features' lists, at `NULL`; NaN without others."""
    share: Float[np.ndarray, " feature"]
    """Probability under the push that the next token is in the list."""
    random_share: Float[np.ndarray, " feature"]
    """The same under random pushes, their mean."""


@dataclass(frozen=True, slots=True, eq=False)
class Pushes:
    """One push a feature and `RANDOM` others, all of one length."""

    lm: LanguageModel
    features: list[tuple[Add, ...]]
    randoms: list[tuple[Add, ...]]
    seed: int
    """Of the choice of other features."""

    @classmethod
    def of(cls, bench: Bench, features: Sequence[int], params: Params) -> Pushes:
        """Pushes of `directions.push` along the features' decoder rows, and at random."""
        push = params.directions.push
        seeds = np.random.SeedSequence([params.seed, RANDOM, 0]).generate_state(RANDOM)
        return cls(
            bench.lm,
            [(Add(feature_direction(bench, feature), push),) for feature in features],
            [
                (
                    Add(
                        random_direction(
                            bench.lm.d_model,
                            hook_point=bench.hook_point,
                            seed=int(seed),
                            mean_norm=bench.mean_norm,
                        ),
                        push,
                    ),
                )
                for seed in seeds
            ],
            params.seed,
        )

    def likelier(
        self, prompts: Prompts, allowed: Bool[Tensor, " vocab"], k: int
    ) -> tuple[Int[Tensor, "feature token"], Int[Tensor, "random token"]]:
        """The `k` tokens that each push makes likelier than random pushes do, best first.

        Args:
            allowed: tokens that a list may hold.
        """
        control = self._control(prompts)[0].mean(dim=1)
        found = [
            likelier(part.log_probs().mean(dim=1) - control.mean(dim=0), allowed, k)
            for part in said(self.lm, prompts, self.features)
        ]
        return torch.cat(found), likelier(beyond_others(control), allowed, k)

    def worth(self, prompts: Prompts, lists: Int[Tensor, "method feature token"]) -> list[Worth]:
        """What each feature's list is worth on prompts that did not make it, method by method."""
        control, random_probs = self._control(prompts)
        usual, beyond = control.mean(dim=0), beyond_others(control).mean(dim=1)
        others = self._others()
        found: list[list[tuple[Tensor, Tensor, Tensor]]] = [[] for _ in lists]
        start = 0
        for part in said(self.lm, prompts, self.features):
            gain, probs = part.log_probs() - usual, part.probs().mean(dim=1)
            here = slice(start, start + len(gain))
            start = here.stop
            for method, mine in enumerate(lists):
                own = own_list(gain, mine[here]).mean(dim=-1)
                other = own_list(gain.mean(dim=1), mine[others[here]]).mean(dim=-1)
                share = own_list(probs, mine[here]).sum(dim=-1)
                found[method].append((own, other, share))
        worths = []
        for mine, parts in zip(lists, found, strict=True):
            gain, other, share = (torch.cat(column) for column in zip(*parts, strict=True))
            worths.append(
                Worth(
                    gain.double().numpy(),
                    _quantile(beyond[:, mine].mean(dim=-1).T),
                    _quantile(other),
                    share.double().numpy(),
                    random_probs[mine].sum(dim=-1).double().numpy(),
                )
            )
        return worths

    def random_worth(self, prompts: Prompts, lists: Int[Tensor, "random token"]) -> float:
        """Nats that a random push gives its own list beyond the other pushes, at `NULL`."""
        beyond = beyond_others(self._control(prompts)[0]).mean(dim=1)
        return float(_quantile(own_list(beyond, lists).mean(dim=-1)[None])[0])

    def _control(
        self, prompts: Prompts
    ) -> tuple[Float[Tensor, "random prompt vocab"], Float[Tensor, " vocab"]]:
        """What random pushes say: log-probabilities of each, and mean probabilities."""
        found, probs = [], torch.zeros(self.lm.n_vocab)
        for part in said(self.lm, prompts, self.randoms):
            found.append(part.log_probs())
            probs += part.probs().mean(dim=1).sum(dim=0)
        return torch.cat(found), probs / len(self.randoms)

    def _others(self) -> Int[np.ndarray, "feature other"]:
        """For each feature the places of some others, the same steps away from all."""
        n = len(self.features)
        steps = np.random.default_rng([self.seed, n]).permutation(np.arange(1, n))[:OTHERS]
        found: Int[np.ndarray, "feature other"] = (np.arange(n)[:, None] + steps) % n
        return found


def _quantile(each: Float[Tensor, "row draw"]) -> Float[np.ndarray, " row"]:
    """Each row's `NULL` quantile; NaN where it has no draw."""
    values = each.double().numpy()
    if values.shape[1] == 0:
        return np.full(len(values), np.nan)
    found: Float[np.ndarray, " row"] = np.quantile(values, NULL, axis=1)
    return found
