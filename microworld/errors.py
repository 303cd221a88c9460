"""Errors of the small world.

MicroworldError
├── UnknownConcept     a name that is no concept, or a concept that cannot do what was asked
├── UnknownAttribute   a name that is no attribute of the world
└── TrainingError      the recipe cannot start, go on, or be measured
"""

from __future__ import annotations

__all__ = ["MicroworldError", "TrainingError", "UnknownAttribute", "UnknownConcept"]


class MicroworldError(Exception):
    """Anything that the small world refuses."""


class UnknownConcept(MicroworldError):
    """A name that is no concept, or a concept that cannot do what was asked of it."""


class UnknownAttribute(MicroworldError):
    """A name that is no attribute of the world, or one that cannot do what was asked."""


class TrainingError(MicroworldError):
    """The recipe cannot start, go on, or be measured."""
