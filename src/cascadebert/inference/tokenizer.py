"""Tokenizes texts with a checkpoint's own fast tokenizer."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from tokenizers import Encoding, Tokenizer

from cascadebert.errors import DataError, StageError
from cascadebert.inference.batching import COARSE, TokenizedTexts, concatenate_tokens
from cascadebert.persistence.checkpoint_config import config_int, read_config
from cascadebert.types import Texts

DEFAULT_MAX_LENGTH = 128
LIMIT_KEY = "model_max_length"  # in a stage's config.json: the most tokens that the model reads


class StageTokenizer:
    """A checkpoint's `tokenizer.json`, truncating to a maximum length; training and inference share it."""

    def __init__(self, path: Path, *, max_length: int) -> None:
        file = path / "tokenizer.json"
        if not file.is_file():
            raise StageError(f"{path}: no tokenizer.json. Save the checkpoint with its fast tokenizer.")
        content = file.read_bytes()
        self.max_length = max_length
        self.pad_id = int(read_config(path).get("pad_token_id") or 0)  # 0 as in BERT
        self.key = f"{hashlib.sha256(content).hexdigest()}-{max_length}"  # equal keys give equal tokens
        self._tokenizer = Tokenizer.from_buffer(content)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length)
        self.vocab_size = self._tokenizer.get_vocab_size()

    def encode(self, texts: Texts) -> TokenizedTexts:
        """Tokens of each text or pair, special tokens included. Raises DataError if one is not a text."""
        if isinstance(texts, str):
            raise DataError("expected a list of texts (or of pairs), got one string: put it in a list")
        for number, text in enumerate(texts, start=1):
            if not (isinstance(text, str) or (isinstance(text, (tuple, list)) and len(text) == 2)):
                raise DataError(f"text {number}: expected a string or a pair of strings, got {text!r:.40}")
        encodings = self._tokenizer.encode_batch_fast(list(texts))
        for number, encoding in enumerate(encodings, start=1):
            if not encoding.ids:
                raise DataError(f"text {number} has no tokens; expected one or more")
        has_types = any(not isinstance(text, str) for text in texts) or (
            encodings and encodings[0].type_ids[0]
        )
        types = [encoding.type_ids for encoding in encodings] if has_types else None
        return concatenate_tokens([encoding.ids for encoding in encodings], types, self.pad_id)

    def truncates(self, texts: Texts) -> list[bool]:
        """For each text or pair, whether it exceeds the maximum length."""
        return [bool(encoding.overflowing) for encoding in self._tokenizer.encode_batch(list(texts))]

    def head_and_tail(self, texts: Texts) -> list[str]:
        """Texts that exceed the maximum length, cut to their first and last words that fit together.

        Raises DataError if they are pairs.
        """
        untruncated = Tokenizer.from_str(self._tokenizer.to_str())
        untruncated.no_truncation()
        half = (self.max_length - untruncated.num_special_tokens_to_add(False)) // 2
        shortened: list[str] = []
        for text in texts:
            if not isinstance(text, str):
                raise DataError("pairs cannot be cut to both ends; expected single texts")
            tokens = untruncated.encode(text, add_special_tokens=False)
            shortened.append(_head_and_tail(text, tokens, half))
        return shortened


def _head_and_tail(text: str, tokens: Encoding, half: int) -> str:
    """The complete words within the first and the last `half` tokens."""
    words, count = tokens.word_ids, len(tokens.ids)
    if count <= 2 * half:
        return text
    first = [i for i in range(1, count) if words[i] is None or words[i] != words[i - 1]]  # tokens of a word
    head = max((i for i in first if i <= half), default=1)
    tail = min((i for i in first if i >= count - half), default=count - 1)
    return f"{text[: tokens.offsets[head - 1][1]]} {text[tokens.offsets[tail][0] :]}"


def resolve_max_length(
    config: dict[str, Any], requested: int | None, path: Path, limit: int | None = None
) -> int:
    """The maximum length in tokens: as requested, else 128 or the most that the model reads.

    `limit` is what the model itself says that it reads, if it was asked; a stage keeps it in its config.json.
    Raises StageError if more is requested.
    """
    limit = limit or config_int(config, LIMIT_KEY, path, default=0)
    limit = limit or config_int(config, "max_position_embeddings", path, default=0)
    if not limit:
        return requested or DEFAULT_MAX_LENGTH  # relative positions: no limit
    limit -= limit % COARSE
    if requested is None:
        return min(DEFAULT_MAX_LENGTH, limit)
    if not 4 <= requested <= limit:
        raise StageError(f"{path}: a maximum length of 4 to {limit} tokens is possible, not {requested}")
    return requested
