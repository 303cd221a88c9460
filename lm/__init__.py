"""A language model and its residual stream: open, read, edit, collect, generate.

Names load their module on first use, so that `import lm` costs no torch. `collect` and
`generate` share their module's name, so they are imported from it: `from lm.generate import
generate`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from lm.errors import LmError
from lm.hookpoint import HookPoint

if TYPE_CHECKING:
    from lm.collect import Collected
    from lm.generate import Generation
    from lm.losses import token_losses
    from lm.model import LanguageModel, open_model, wrap_model
    from lm.tap import Edit, Step, edited, read, read_until
    from lm.tokenizer import Tokenizer, open_tokenizer

_HOMES = {
    "Collected": "lm.collect",
    "Edit": "lm.tap",
    "Generation": "lm.generate",
    "LanguageModel": "lm.model",
    "Step": "lm.tap",
    "Tokenizer": "lm.tokenizer",
    "edited": "lm.tap",
    "open_model": "lm.model",
    "open_tokenizer": "lm.tokenizer",
    "read": "lm.tap",
    "read_until": "lm.tap",
    "token_losses": "lm.losses",
    "wrap_model": "lm.model",
}

__all__ = [
    "Collected",
    "Edit",
    "Generation",
    "HookPoint",
    "LanguageModel",
    "LmError",
    "Step",
    "Tokenizer",
    "edited",
    "open_model",
    "open_tokenizer",
    "read",
    "read_until",
    "token_losses",
    "wrap_model",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'lm' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
