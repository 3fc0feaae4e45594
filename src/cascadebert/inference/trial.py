"""Tokens to time and to test a stage with, where there are no texts yet."""

from __future__ import annotations

import numpy as np

from cascadebert.inference.batching import TokenizedTexts
from cascadebert.inference.tokenizer import StageTokenizer


def trial_texts(tokenizer: StageTokenizer, rows: int, length: int, *, vary: bool = False) -> TokenizedTexts:
    """So many texts of one length, of equal or of random tokens.

    Their last token is that of every text: BART and T5 read their answer at the end token.
    """
    ids = np.ones((rows, length), np.int32)
    if vary:
        ids[:] = np.random.default_rng(length).integers(tokenizer.vocab_size, size=ids.shape)
    if not tokenizer.without_tokens([""]):  # special tokens are added
        ids[:, -1] = tokenizer.encode([""]).ids[-1]
    starts = np.arange(rows + 1, dtype=np.int64) * length
    return TokenizedTexts(ids.ravel(), np.zeros(ids.size, np.int8), starts, tokenizer.padding)
