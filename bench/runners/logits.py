"""What every script of a peer's logits does: `python logits_NAME.py VARIANT MODEL IDS OUT`.

IDS holds the texts' ids, int64 [texts, tokens]; OUT will hold fp32 [texts, tokens, vocab_size], both in NumPy's format.
Runs in the peers' environments.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

Texts = np.ndarray
"""int64 [texts, tokens]."""


def answer(logits: Callable[[str, Path, Texts], np.ndarray]) -> None:
    """`logits` takes the variant, the model and the texts."""
    variant, model, ids, out = sys.argv[1:]
    np.save(out, logits(variant, Path(model), np.load(ids)).astype(np.float32, copy=False))
