"""Which tokens an edit touches, and how strongly as generation goes on.

Places are absolute: counted from a row's first real token, through padding, cached decoding,
beams and chunked prefill. A place means the same token however the text is cut into passes.
Special tokens and position 0 are left alone unless `include_special` says otherwise: position 0
carries a norm many times the others', and an edit there is felt by every later token.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias, assert_never

from steering.errors import PositionError


@dataclass(frozen=True, slots=True)
class Everywhere:
    """Every token, of the prompt and generated."""

    include_special: bool = False


@dataclass(frozen=True, slots=True)
class Prompt:
    """The tokens of the prompt."""

    include_special: bool = False


@dataclass(frozen=True, slots=True)
class Generation:
    """The generated tokens, as they are read back; the first of them is chosen before any edit."""

    include_special: bool = False


@dataclass(frozen=True, slots=True)
class Places:
    """Named places; a negative one counts from the end of the prompt, -1 its last token."""

    places: tuple[int, ...]
    prompt_only: bool = False
    """Skip places that lie behind the end of a short prompt."""
    include_special: bool = False

    def __post_init__(self) -> None:
        if not self.places:
            raise PositionError("no places; expected at least one; for example Places((-1,))")
        if 0 in self.places and not self.include_special:
            raise PositionError(
                "place 0 without include_special; position 0 is left alone by default; "
                "pass include_special=True to edit it"
            )


@dataclass(frozen=True, slots=True)
class Window:
    """Places from `start` to before `stop`; negative ones count from the end of the prompt."""

    start: int
    stop: int | None = None
    """None: to the end of the text."""
    include_special: bool = False

    def __post_init__(self) -> None:
        same_anchor = self.stop is not None and (self.start < 0) == (self.stop < 0)
        first = 1 if self.start == 0 and not self.include_special else self.start
        if same_anchor and self.stop is not None and first >= self.stop:
            raise PositionError(
                f"window from {self.start} to {self.stop} holds no token that may be edited; "
                "expected start < stop, position 0 apart; include_special=True edits that too"
            )


@dataclass(frozen=True, slots=True)
class Tokens:
    """Every token whose id is one of these."""

    ids: tuple[int, ...]
    include_special: bool = False

    def __post_init__(self) -> None:
        if not self.ids or min(self.ids) < 0:
            raise PositionError(
                f"token ids {self.ids}; expected one or more, none negative; "
                "take them from the tokenizer"
            )


@dataclass(frozen=True, slots=True)
class Except:
    """Every token but those."""

    inner: Everywhere | Prompt | Generation | Places | Window | Tokens
    include_special: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.inner, Everywhere):
            raise PositionError(
                "everything but everywhere is nowhere; expected places to leave out; "
                "leave the edit out instead"
            )


EVERYWHERE = Everywhere()
Positions: TypeAlias = Everywhere | Prompt | Generation | Places | Window | Tokens | Except


@dataclass(frozen=True, slots=True)
class Constant:
    """The same strength at every token."""


@dataclass(frozen=True, slots=True)
class FirstN:
    """Full strength in the prompt and on the first `n` generated tokens, then none."""

    n: int

    def __post_init__(self) -> None:
        _require_positive("n", self.n)


@dataclass(frozen=True, slots=True)
class Decay:
    """Full strength in the prompt, halved every `half_life` generated tokens."""

    half_life: float
    """Generated tokens."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "half_life", float(self.half_life))
        _require_positive("half_life", self.half_life)


@dataclass(frozen=True, slots=True)
class WarmUp:
    """Nothing in the prompt, then rising evenly to full strength at the n-th generated token."""

    n: int

    def __post_init__(self) -> None:
        _require_positive("n", self.n)


ALWAYS = Constant()
Schedule: TypeAlias = Constant | FirstN | Decay | WarmUp

FAR = 2**40
# start, is it counted from the prompt's end; stop, is it counted from the prompt's end
Interval: TypeAlias = tuple[int, int, int, int]
NOWHERE: Interval = (FAR, 0, -FAR, 0)


def may_overlap(one: Positions, other: Positions) -> bool:
    """Whether some token of some text may be chosen by both, as far as their form shows."""
    if isinstance(one, Except) or isinstance(other, Except):
        inside = [c.inner if isinstance(c, Except) else c for c in (one, other)]
        return isinstance(one, Except) == isinstance(other, Except) or inside[0] != inside[1]
    if isinstance(one, Tokens) and isinstance(other, Tokens):
        return bool(set(one.ids) & set(other.ids))
    if isinstance(one, Tokens) or isinstance(other, Tokens):
        return True
    pairs = product(intervals_of(one), intervals_of(other))
    return any(_may_meet(mine, theirs) for mine, theirs in pairs)


def _may_meet(mine: Interval, theirs: Interval) -> bool:
    """Whether two intervals share a place for some length of the prompt."""

    def ends_first(first: Interval, second: Interval) -> bool:
        _, _, stop, stop_from_end = first
        start, start_from_end, _, _ = second
        return stop <= start and stop_from_end == start_from_end

    return not (ends_first(mine, theirs) or ends_first(theirs, mine))


def require_reachable(positions: Positions, special_ids: Collection[int]) -> None:
    """Raises PositionError for token ids that are special and would be skipped in silence."""
    if isinstance(positions, Tokens) and not positions.include_special:
        skipped = sorted(set(positions.ids) & set(special_ids))
        if skipped:
            raise PositionError(
                f"token ids {skipped} are special; special tokens are left alone by default; "
                "pass include_special=True to edit them"
            )


def intervals_of(choice: Positions) -> list[Interval]:
    """The places of a choice as intervals; token ids apart, and the inner ones of an `Except`."""
    found: list[Interval]
    match choice:
        case Everywhere():
            found = [(-FAR, 0, FAR, 0)]
        case Prompt():
            found = [(-FAR, 0, 0, 1)]
        case Generation():
            found = [(0, 1, FAR, 0)]
        case Places(places):
            found = [(place, int(place < 0), place + 1, int(place < 0)) for place in places]
        case Window(start, stop):
            last = (FAR, 0) if stop is None else (stop, int(stop < 0))
            found = [(start, int(start < 0), *last)]
        case Tokens():
            found = [NOWHERE]
        case Except(inner):
            found = intervals_of(inner)
        case _:
            assert_never(choice)
    return found


def _require_positive(name: str, value: int | float) -> None:
    if not value > 0:
        raise PositionError(
            f"{name} is {value}; expected a positive number of generated tokens; "
            "use Constant() for no schedule"
        )
