"""Tokenizes texts with a checkpoint's own fast tokenizer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Encoding, Tokenizer

from cascadebert.errors import DataError, StageError, reason
from cascadebert.inference.batching import (
    COARSE,
    Padding,
    TokenizedTexts,
    concatenate_tokens,
    join_tokens,
)
from cascadebert.inference.wordpiece import WordPieceTokens
from cascadebert.persistence.checkpoint_config import config_int, config_pad_id, read_config
from cascadebert.types import Ints, PaddingSide, Texts

DEFAULT_MAX_LENGTH = 128
ENCODED_CHARACTERS = 1 << 20  # tokenized at the same time
LIMIT_KEY = "cascadebert_max_length"  # in a stage's config.json: the most tokens that the model reads


class StageTokenizer:
    """A checkpoint's `tokenizer.json`, truncating to a maximum length; training and inference share it.

    Two settings come from its tokenizer_config.json: `truncation_side`, and `model_input_names`, which decide
    if the model is given token types.
    """

    def __init__(self, path: Path, *, max_length: int, padding_side: PaddingSide = "right") -> None:
        file = path / "tokenizer.json"
        if not file.is_file():
            raise StageError(f"{path}: no tokenizer.json. Save the checkpoint with its fast tokenizer.")
        content = file.read_bytes()
        self.max_length = max_length
        side, token_types = _read_settings(path)
        self._token_types = token_types is not False
        config = read_config(path)
        self.limit = max_length_limit(config, path)  # kept: the folder may be gone when it is asked for
        self.padding = Padding(config_pad_id(config, path), padding_side)
        # equal keys give equal tokens
        parts = (hashlib.sha256(content).hexdigest(), max_length, side, self._token_types, self.padding)
        self.key = "-".join(map(str, parts))
        try:
            self._tokenizer = Tokenizer.from_buffer(content)
        except Exception as error:  # tokenizers raises no type of its own
            raise StageError(
                f"{file} is damaged, or was not downloaded completely ({reason(error)}). Download it again."
            ) from error
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length, direction=side)
        self.vocab_size = self._tokenizer.get_vocab_size()
        self._cuts_right = side == "right"

    @cached_property
    def _wordpiece(self) -> WordPieceTokens | None:
        if not self._cuts_right:
            return None
        return WordPieceTokens.of(self._tokenizer, max_length=self.max_length, padding=self.padding)

    def encode(self, texts: Texts, places: Sequence[int] | Ints | None = None) -> TokenizedTexts:
        """Tokens of each text or pair, special tokens included; see `as_texts` for what these are.

        Raises DataError if one has no tokens, with its place: its index, or the one in `places`.
        """
        tokens = join_tokens([self._tokens(part) for part in _parts(texts)], self.padding)
        if not tokens.lengths.all():
            i = int(tokens.lengths.argmin())
            place = i if places is None else places[i]
            raise DataError(f"texts[{place}]: no tokens in {texts[i]!r:.40}; expected one or more")
        return tokens

    def _tokens(self, texts: Texts) -> TokenizedTexts:
        """Tokens of some of the texts, from the faster library where it makes the same."""
        tokens = None if self._wordpiece is None else self._wordpiece.encode(texts)
        if tokens is not None:
            zeros = np.zeros_like(tokens.type_ids)
            return tokens if self._token_types else replace(tokens, type_ids=zeros)
        encodings = self._tokenizer.encode_batch_fast(list(texts))
        ids = [encoding.ids for encoding in encodings]
        pairs = any(not isinstance(text, str) for text in texts)
        types = None
        if self._token_types and (pairs or any(encodings[0].type_ids)):
            types = [encoding.type_ids for encoding in encodings]
        # what is cut has the maximum length
        truncated = [
            len(own) >= self.max_length and bool(encoding.overflowing)
            for own, encoding in zip(ids, encodings, strict=True)
        ]
        return concatenate_tokens(ids, types, self.padding, np.array(truncated, dtype=np.bool_))

    def without_tokens(self, texts: Texts) -> list[int]:
        """Indices of the texts or pairs of which no token is left: none if special tokens are added."""
        if not len(texts) or self._tokenizer.num_special_tokens_to_add(not isinstance(texts[0], str)):
            return []
        encode = self._tokenizer.encode_batch_fast
        encodings = chain.from_iterable(encode(list(part)) for part in _parts(texts))
        return [i for i, encoding in enumerate(encodings) if not encoding.ids]

    def truncates(self, texts: Texts) -> list[bool]:
        """For each text or pair, whether it exceeds the maximum length."""
        truncated: list[bool] = self.encode(texts).truncated.tolist()
        return truncated

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


def _parts(texts: Texts) -> Iterator[Any]:
    """Texts in parts: until it is cut, a text takes up to 500 bytes per character."""
    start = size = 0
    for end, text in enumerate(texts, start=1):
        size += len(text) if isinstance(text, str) else sum(map(len, text))
        if size >= ENCODED_CHARACTERS or end == len(texts):
            yield texts[start:end]
            start, size = end, 0


def gives_token_types(path: Path) -> bool:
    """True if a checkpoint's tokenizer says that its model is given token types."""
    return _read_settings(path)[1] is True


def _read_settings(path: Path) -> tuple[str, bool | None]:
    """The side of truncation, and if the model is given token types; None where that is not said."""
    file = path / "tokenizer_config.json"
    try:
        settings = json.loads(file.read_text("utf-8-sig")) if file.is_file() else {}
        side, inputs = settings.get("truncation_side") or "right", settings.get("model_input_names")
        token_types = None if inputs is None else "token_type_ids" in inputs
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise StageError(f"{file}: not the settings of a tokenizer ({reason(error)})") from error
    if side in ("left", "right"):
        return side, token_types
    raise StageError(f"{file} says truncation_side: {side!r:.40}; expected left or right")


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
    limit = limit or max_length_limit(config, path)
    if not limit:
        return requested or DEFAULT_MAX_LENGTH
    limit -= limit % COARSE
    if requested is None:
        return min(DEFAULT_MAX_LENGTH, limit)
    if not 4 <= requested <= limit:
        raise StageError(f"{path}: a maximum length of 4 to {limit} tokens is possible, not {requested}")
    return requested


def max_length_limit(config: dict[str, Any], path: Path) -> int | None:
    """The longest text in tokens that a stage reads; None for relative positions, which have no limit."""
    limit = config_int(config, LIMIT_KEY, path, default=0)
    limit = limit or config_int(config, "max_position_embeddings", path, default=0)
    return limit - limit % COARSE if limit else None
