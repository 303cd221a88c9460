"""A small written world whose every concept is known, and the exact judge of its texts.

Importing it loads no torch. The model trained on it lies in `MODEL_DIR`, made by
`microworld.train`.
"""

from pathlib import Path

from microworld.concepts import ATTRIBUTES, CONCEPTS, attribute_of
from microworld.grammar import Document, documents, grammar_hash, sample
from microworld.judge import entropy_floor, log_prob, posterior, probability
from microworld.probes import Prompt, pairs, prompts

MODEL_DIR = Path(__file__).parent / "model"
"""Config, weights and tokenizer of the shipped model, in Hugging Face's layout."""

__all__ = [
    "ATTRIBUTES",
    "CONCEPTS",
    "MODEL_DIR",
    "Document",
    "Prompt",
    "attribute_of",
    "documents",
    "entropy_floor",
    "grammar_hash",
    "log_prob",
    "pairs",
    "posterior",
    "probability",
    "prompts",
    "sample",
]
