"""What can go wrong between a text and its residual stream, drawn as a tree.

LmError
├── ModelNotFound        no folder and no hub name gives a model that can be opened
├── UnknownArchitecture  the model's blocks, norm or unembedding lie where no known family has them
├── HookPointError       text that is no hook point, or a place that the model does not have
├── TokenizerMismatch    the tokenizer is missing, or has ids that the model has no embedding for
└── ContextOverflow      more tokens than the model has positions for, or none at all
"""


class LmError(Exception):
    """Any expected failure of this package."""


class ModelNotFound(LmError):
    """No model can be opened at this folder or under this name."""


class UnknownArchitecture(LmError):
    """The parts of the model are not where any known family keeps them."""


class HookPointError(LmError):
    """Not a place on this model's residual stream."""


class TokenizerMismatch(LmError):
    """The tokenizer does not fit the model."""


class ContextOverflow(LmError):
    """A sequence that the model cannot read in one piece."""
