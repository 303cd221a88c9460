"""A small invented corpus whose features are known, since a person wrote them."""

from __future__ import annotations

import numpy as np
import pytest

from features.tokens import Tokens


@pytest.fixture
def tokens() -> Tokens:
    """Forty documents of ten tokens; position 0 is special; pieces 0 to 11."""
    rng = np.random.default_rng(0)
    n = 400
    doc = np.arange(n) // 10
    pos = np.arange(n) % 10
    return Tokens(
        doc_id=doc.astype(np.int32),
        pos=pos.astype(np.int32),
        token_id=rng.integers(0, 12, n).astype(np.int32),
        is_special=pos == 0,
        split=(doc % 5).astype(np.int8),
    )
