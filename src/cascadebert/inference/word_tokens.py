"""Tokens of texts, put together from those of their words, which are remembered."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from cascadebert.inference.batching import Padding, TokenizedTexts
from cascadebert.types import Ints, Texts

MAX_WORDS, MAX_CHARACTERS = 1 << 16, 1 << 20  # of words that are remembered, twice
Ids = NDArray[np.int32]
Types = NDArray[np.int8]


def splits_at_spaces(settings: dict[str, Any]) -> bool:
    """True for the settings of a tokenizer.json like BERT's.

    To such a tokenizer what stands between two spaces never matters for the tokens of the rest.
    """
    kinds = [(settings.get(part) or {}).get("type") for part in ("normalizer", "pre_tokenizer", "model")]
    added = [token["content"] for token in settings.get("added_tokens") or []]
    spaced = any(character.isspace() for content in added for character in content)
    return kinds == ["BertNormalizer", "BertPreTokenizer", "WordPiece"] and not spaced


class WordTokens:
    """Makes the tokens of texts from those of their words: the same as the tokenizer makes of whole texts.

    Each word is tokenized once and remembered. Texts repeat their words so often that this saves most of the
    time of a tokenizer. Threads may share it.
    """

    def __init__(self, tokenizer: Tokenizer, *, max_length: int, padding: Padding) -> None:
        """The tokenizer is one that `splits_at_spaces`; texts are cut at their right end."""
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._templates = {
            False: _template(self._tokenizer.encode("a")),
            True: _template(self._tokenizer.encode("a", "a")),
        }
        self._max_length, self._padding = max_length, padding
        self._lock = Lock()
        self._words, self._older = _Words(), _Words()

    def encode(self, texts: Texts) -> TokenizedTexts | None:
        """Tokens of one or more texts, or pairs; None for both mixed."""
        pairs = not isinstance(texts[0], str)
        template = self._templates[pairs]
        if template is None or any(isinstance(text, str) == pairs for text in texts):
            return None
        parts: Any = list(chain.from_iterable(texts)) if pairs else texts
        ids, lengths = self._tokens(parts, None if pairs else self._max_length)
        return template.fill(ids, lengths, self._max_length, self._padding)

    def _tokens(self, texts: Sequence[str], most: int | None) -> tuple[Ids, Ints]:
        """The tokens of n texts, concatenated, without special ones; and (n,) the number of each text's.

        Of a text of more words, only the first `most` are read, if they have so many tokens.
        """
        split = [text.replace("\n", " ").split(" ", -1 if most is None else most) for text in texts]
        words_of = np.fromiter(map(len, split), np.int64, len(split))
        is_cut = words_of > (np.inf if most is None else most)
        for i in np.flatnonzero(is_cut).tolist():
            split[i].pop()  # all that is left
        words_of -= is_cut
        with self._lock:
            ids, counts = self._look_up(list(chain.from_iterable(split)))
        totals = np.add.reduceat(counts, np.cumsum(words_of) - words_of)
        if most is not None and (totals[is_cut] < most).any():
            return self._tokens(texts, None)
        return ids, totals

    def _look_up(self, words: Sequence[str]) -> tuple[Ids, Ints]:
        """The tokens of words, concatenated, and the number of each word's; new words are tokenized."""
        places = np.fromiter(map(self._words.places.get, words, repeat(-1)), np.int64, len(words))
        missing = np.flatnonzero(places < 0).tolist()
        if missing:
            self._learn(dict.fromkeys(words[i] for i in missing))
            places[missing] = [self._words.places[words[i]] for i in missing]
        found = self._words.tokens(places)
        if self._words.is_full:  # words that are used often are found among the older ones
            self._words, self._older = _Words(), self._words
        return found

    def _learn(self, words: Collection[str]) -> None:
        new = [word for word in words if word not in self._older.places]
        encodings = iter(self._tokenizer.encode_batch_fast(new, add_special_tokens=False))
        for word in words:
            older = self._older.places.get(word)
            self._words.add(word, next(encodings).ids if older is None else self._older.one(older))


class _Words:
    """The tokens of words."""

    def __init__(self) -> None:
        self.places: dict[str, int] = {}
        self._ids, self._starts = array("i"), array("q", [0])  # of all words; the last start is the end
        self._characters = 0

    @property
    def is_full(self) -> bool:
        """True if no more should be remembered."""
        return len(self.places) > MAX_WORDS or self._characters > MAX_CHARACTERS

    def add(self, word: str, ids: Iterable[int]) -> None:
        """Remember a new word."""
        self.places[word] = len(self.places)
        self._ids.extend(ids)
        self._starts.append(len(self._ids))
        self._characters += len(word)

    def one(self, place: int) -> array[int]:
        """The tokens of the word at a place."""
        return self._ids[self._starts[place] : self._starts[place + 1]]

    def tokens(self, places: Ints) -> tuple[Ids, Ints]:
        """The tokens of the words at (m,) places, concatenated, and (m,) the number of each word's."""
        starts = np.frombuffer(self._starts, np.int64)  # the arrays cannot grow as long as this is in use
        counts = starts[places + 1] - starts[places]
        return np.frombuffer(self._ids, np.int32)[_ranges(starts[places], counts)], counts


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
