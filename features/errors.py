"""What can go wrong between a latent and its name.

FeatureError
├── UnknownFeature      no feature has this name; the nearest names are given
├── AmbiguousFeature    the name exists in several runs
├── WeakFeature         the name did not beat its null and was not allowed
└── LabelError          the label stage was given something it must not or cannot use
"""

from __future__ import annotations


class FeatureError(Exception):
    """Any failure of the features package."""


class UnknownFeature(FeatureError):
    """No feature bears this name."""


class AmbiguousFeature(FeatureError):
    """More than one run has a feature of this name."""


class WeakFeature(FeatureError):
    """The feature's name is not better than its null."""


class LabelError(FeatureError):
    """Labels cannot be made from what was given."""
