"""One place on the residual stream, as a value that is parsed once at the edge.

Knows names and layer numbers; where in a module tree a place lies is `architecture`'s business.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, Protocol, cast, get_args, runtime_checkable

from lm.errors import HookPointError

Site = Literal["resid_pre", "resid_mid", "resid_post"]


@runtime_checkable
class Layered(Protocol):
    """What a hook point has to know of a model to say whether it exists there."""

    @property
    def name(self) -> str:
        """What messages call the model."""

    @property
    def n_layers(self) -> int:
        """Number of its blocks."""

    @property
    def no_mid(self) -> str | None:
        """Why the model has no `resid_mid`, or None where it has one."""


@dataclass(frozen=True, slots=True)
class HookPoint:
    """One place on the residual stream: before, inside or after block `layer` (0-based)."""

    layer: int
    site: Site = "resid_post"

    @classmethod
    def parse(cls, text: str) -> HookPoint:
        """The place that SAELens writes as `blocks.<layer>.hook_resid_<pre|mid|post>`.

        Raises:
            HookPointError: the text names no such place.
        """
        match = re.fullmatch(r"blocks\.([0-9]+)\.hook_(resid_(?:pre|mid|post))", text)
        if match is None:
            raise HookPointError(
                f"{text!r} is not a hook point; expected "
                "'blocks.<layer>.hook_resid_<pre|mid|post>'; write for example "
                "'blocks.6.hook_resid_post'"
            )
        return cls(int(match[1]), cast(Site, match[2]))

    def __str__(self) -> str:
        return f"blocks.{self.layer}.hook_{self.site}"

    @property
    def depth(self) -> tuple[int, int]:
        """Sorts hook points in the order in which a forward pass reaches them."""
        return self.layer, get_args(Site).index(self.site)

    def check(self, model: Layered) -> None:
        """Does nothing if `model` has this place.

        Raises:
            HookPointError: the layer is beyond the last one, or the block has no such site.
        """
        if not 0 <= self.layer < model.n_layers:
            raise HookPointError(
                f"{self} is beyond {model.name}, which has {model.n_layers} layers; expected a "
                f"layer from 0 to {model.n_layers - 1}; choose one of those"
            )
        if self.site == "resid_mid" and model.no_mid is not None:
            raise HookPointError(
                f"{self} does not exist in {model.name}: {model.no_mid}; expected resid_pre or "
                f"resid_post; write for example 'blocks.{self.layer}.hook_resid_post'"
            )
