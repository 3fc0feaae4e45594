"""Tokens of WordPiece tokenizers by the library nanotoken, some thirty times as fast as tokenizers."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any

import nanotoken
import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from cascadebert.inference.batching import Padding, TokenizedTexts
from cascadebert.types import Ints, Texts

nanotoken.set_cache_entries(1 << 17)  # some 16 MiB for each thread
Ids = NDArray[np.int32]
Types = NDArray[np.int8]
PROBES = (
    "", "It's [MASK] of 3.14!", "na\u00efve CAF\u00c9", "a\u0301\u0308 \ufb01ne", "\u65e5\u672c\u8a9e",
    "x" * 101, "\x00a\u200bb\tc\u2028d\xa0e\x0bf", "\U0001f44d\U0001f3fd \u0130I\u0131\u03a3\u03c2",
)  # fmt: skip
"""Texts on which nanotoken and tokenizers would most likely differ."""


class WordPieceTokens:
    """Tokens of texts and pairs as tokenizers makes them, cut at the right end. Threads may share it."""

    def __init__(
        self, library: nanotoken.Tokenizer, tokenizer: Tokenizer, max_length: int, padding: Padding
    ) -> None:
        """`library` and `tokenizer`, which does not cut or pad, are made from the same file."""
        self._library, self._max_length, self._padding = library, max_length, padding
        self._templates = {
            False: _template(tokenizer.encode("a")),
            True: _template(tokenizer.encode("a", "a")),
        }

    @classmethod
    def of(cls, tokenizer: Tokenizer, *, max_length: int, padding: Padding) -> WordPieceTokens | None:
        """Those of a tokenizer; None if nanotoken does not make the same of it."""
        plain = Tokenizer.from_str(tokenizer.to_str())
        plain.no_truncation()
        plain.no_padding()
        try:
            library = nanotoken.Tokenizer.from_json(plain.to_str())
        except ValueError:  # of another kind than WordPiece
            return None
        expected = plain.encode_batch_fast(list(PROBES), add_special_tokens=False)
        found = library.encode_batch(PROBES, add_special_tokens=False).to_list()
        same = [list(ids) for ids in found] == [encoding.ids for encoding in expected]
        return cls(library, plain, max_length, padding) if same else None

    def encode(self, texts: Texts) -> TokenizedTexts | None:
        """Tokens of one or more texts, or pairs; None for both mixed, or for what is no text in Unicode."""
        pairs = not isinstance(texts[0], str)
        template = self._templates[pairs]
        if template is None or any(isinstance(text, str) == pairs for text in texts):
            return None
        parts: Any = list(chain.from_iterable(texts)) if pairs else texts
        try:
            tokens = self._library.encode_batch(parts, add_special_tokens=False)
        except UnicodeEncodeError:
            return None
        ids = tokens.ids.view(np.int32)
        return template.fill(ids, np.diff(tokens.offsets), self._max_length, self._padding)


@dataclass(frozen=True)
class _Template:
    """The special tokens around a text, or around and between both texts of a pair."""

    gaps: tuple[tuple[Ids, Types], ...]  # before each text, and behind the last
    types: Types  # of each text's own tokens

    def fill(self, ids: Ids, lengths: Ints, max_length: int, padding: Padding) -> TokenizedTexts:
        """Put special tokens around n texts or pairs.

        Args:
            ids: tokens of all texts, concatenated.
            lengths: (n * texts per row,) number of each text's.
            max_length: the longest row, special tokens included; longer ones are cut.
            padding: of the model.
        """
        special = [len(gap) for gap, _ in self.gaps]
        body = lengths.reshape(-1, len(self.types))
        room = max_length - sum(special)
        truncated = body.sum(axis=1) > room
        if truncated.any():
            most = _most(body, room)
            ids = ids[_ranges(np.zeros_like(lengths), lengths) < np.repeat(most.ravel(), lengths)]
            body = np.minimum(body, most)
        whole = body.sum(axis=1) + sum(special)
        row_starts = np.concatenate([[0], np.cumsum(whole)])
        row_ends = row_starts[1:]
        # a row is: a gap, a text, a gap and so on; where each text begins
        starts = row_starts[:-1, None] + np.cumsum(special)[:-1] + np.cumsum(body, axis=1) - body
        out, types = np.empty(int(row_ends[-1]), np.int32), np.empty(int(row_ends[-1]), np.int8)
        own = _ranges(starts.ravel(), body.ravel())
        out[own], types[own] = ids, np.repeat(np.tile(self.types, len(body)), body.ravel())
        for (gap, gap_types), ends in zip(self.gaps, (*starts.T, row_ends), strict=True):
            places = (ends - len(gap))[:, None] + np.arange(len(gap))
            out[places], types[places] = gap, gap_types
        return TokenizedTexts(out, types, row_starts, padding, truncated)


def _template(probe: Encoding) -> _Template | None:
    """The template by which a text or a pair was encoded; None if none of its own tokens are left."""
    texts = np.array([-1 if text is None else text for text in probe.sequence_ids])
    ids, types = np.array(probe.ids, np.int32), np.array(probe.type_ids, np.int8)
    gaps, own, end = [], [], 0
    for text in range(probe.n_sequences):
        places = np.flatnonzero(texts == text)
        if not places.size:
            return None
        gaps.append((ids[end : places[0]], types[end : places[0]]))
        own.append(types[places[0]])
        end = int(places[-1]) + 1
    return _Template((*gaps, (ids[end:], types[end:])), np.array(own, np.int8))


def _most(lengths: Ints, room: int) -> Ints:
    """The most tokens that each text of a row keeps where rows have `room` for so many.

    Of a pair the longer text is cut first, as by the tokenizers' strategy "longest first".
    """
    if lengths.shape[1] == 1:
        return np.full_like(lengths, room)
    short = lengths.min(axis=1)
    long = np.where(short > room, short, np.maximum(short, room - short))
    halves = short + long > room
    short, long = np.where(halves, room // 2, short), np.where(halves, room - room // 2, long)
    is_longer = np.stack([lengths[:, 0] > lengths[:, 1], lengths[:, 0] <= lengths[:, 1]], axis=1)
    return np.where(is_longer, long[:, None], short[:, None])


def _ranges(starts: Ints, counts: Ints) -> Ints:
    """`starts[i]`, `starts[i] + 1` and so on, `counts[i]` of them, for each i; concatenated."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if ends.size else 0
    return np.arange(total) + np.repeat(starts - ends + counts, counts)
