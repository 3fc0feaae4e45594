"""Tokenizes texts with a checkpoint's own fast tokenizer."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from tokenizers import Encoding, Tokenizer

from cascadebert.errors import DataError, StageError
from cascadebert.inference.batching import COARSE, TokenizedTexts, concatenate_tokens
from cascadebert.persistence.checkpoint_config import ALIASES, config_int, read_config
from cascadebert.types import Texts

ENCODE_CHUNK = 8192


DEFAULT_LENGTH = 128


class StageTokenizer:
    """Texts to tokens by a checkpoint's own `tokenizer.json`, cut to a maximum length.

    Training and inference both go through here, so they see the same tokens.
    """

    def __init__(self, path: Path, *, max_length: int) -> None:
        file = path / "tokenizer.json"
        if not file.is_file():
            raise StageError(f"{path}: no tokenizer.json. Save the checkpoint with its fast tokenizer.")
        content = file.read_bytes()
        self.max_length = max_length
        self.pad_id = _pad_id(path)
        self.key = f"{hashlib.sha256(content).hexdigest()}-{max_length}"
        self._tokenizer = Tokenizer.from_buffer(content)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length)
        self.vocabulary = self._tokenizer.get_vocab_size()

    def encode(self, texts: Texts) -> TokenizedTexts:
        """Tokens of each text or pair, special tokens included.

        Raises:
            DataError: if it is given one string, or something that is no text.
        """
        if isinstance(texts, str):
            raise DataError("expected a list of texts (or of pairs), got one string: put it in a list")
        for place, text in enumerate(texts, start=1):
            if not (isinstance(text, str) or (isinstance(text, (tuple, list)) and len(text) == 2)):
                raise DataError(f"text {place}: expected a string or a pair of strings, got {text!r:.40}")
        found: list[Encoding] = []
        for start in range(0, len(texts), ENCODE_CHUNK):
            found.extend(self._tokenizer.encode_batch_fast(list(texts[start : start + ENCODE_CHUNK])))
        empty = next((place for place, one in enumerate(found, start=1) if not one.ids), None)
        if empty is not None:
            raise DataError(f"text {empty} has no tokens; expected one or more")
        typed = any(not isinstance(text, str) for text in texts) or any(one.type_ids[0] for one in found[:1])
        types = [one.type_ids for one in found] if typed else None
        return concatenate_tokens([one.ids for one in found], types, self.pad_id)

    def cuts(self, texts: Texts) -> list[bool]:
        """Whether each text or pair is longer than a row and is cut."""
        return [bool(one.overflowing) for one in self._tokenizer.encode_batch(list(texts))]

    def head_and_tail(self, texts: Texts) -> list[str]:
        """Texts too long for one row, cut to their first and last words that fill it together.

        Args:
            texts: single texts.

        Raises:
            DataError: if they are pairs.
        """
        whole = Tokenizer.from_str(self._tokenizer.to_str())
        whole.no_truncation()
        half = (self.max_length - whole.num_special_tokens_to_add(False)) // 2
        cut: list[str] = []
        for text in texts:
            if not isinstance(text, str):
                raise DataError("pairs cannot be cut to both ends; expected single texts")
            cut.append(_both_ends(text, whole.encode(text, add_special_tokens=False), half))
        return cut


def _both_ends(text: str, tokens: Encoding, half: int) -> str:
    """The whole words within the first and within the last so many tokens."""
    words, count = tokens.word_ids, len(tokens.ids)
    if count <= 2 * half:
        return text
    head, tail = half, count - half
    while head > 1 and words[head] is not None and words[head] == words[head - 1]:
        head -= 1
    while tail < count - 1 and words[tail] is not None and words[tail] == words[tail - 1]:
        tail += 1
    return f"{text[: tokens.offsets[head - 1][1]]} {text[tokens.offsets[tail][0] :]}"


def resolve_max_length(config: dict[str, Any], wanted: int | None, path: Path) -> int:
    """The maximum length in tokens: as wanted, or 128, within what the model reads.

    Raises:
        StageError: if more is wanted than the model reads.
    """
    if not any(name in config for name in ("max_position_embeddings", *ALIASES["max_position_embeddings"])):
        return wanted or DEFAULT_LENGTH  # relative positions: no limit
    reads = config_int(config, "max_position_embeddings", path)
    if config.get("model_type") in ("roberta", "xlm-roberta", "camembert"):
        reads -= int(config.get("pad_token_id", 1)) + 1  # positions are counted from behind the padding id
    reads -= reads % COARSE
    if wanted is not None and not 4 <= wanted <= reads:
        raise StageError(f"{path}: a maximum length of 4 to {reads} tokens is possible, not {wanted}")
    return min(DEFAULT_LENGTH, reads) if wanted is None else wanted


def _pad_id(path: Path) -> int:
    """The padding token's number: from the configuration, else 0 as in BERT."""
    number = read_config(path).get("pad_token_id")
    return 0 if number is None else int(number)
