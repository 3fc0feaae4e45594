"""Unlabeled text of any size: documents from files, and passages cut from them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from cascadebert.data.cells import utf8
from cascadebert.data.columns import Columns, find_text_columns
from cascadebert.data.labels import shorten
from cascadebert.data.readers import Layout, raise_first_fault, read_chunks, read_layout
from cascadebert.data.table import Chunk, describe_fault
from cascadebert.errors import DataError

_Item = TypeVar("_Item")

CHUNK_ROWS = 1024
MIN_TOKENS = 8
PAIR_FRACTION = 0.25  # of the passages are pairs of neighbors, so that the second text's tokens are learned

_SENTENCE_END = re.compile("[.!?\u2026][\"')\\]\u201d\u2019]*\\s+|[\u3002\uff01\uff1f]|\\n+")


@dataclass(frozen=True)
class Corpus:
    """Text files that have been read and checked once."""

    layout: Layout
    columns: Columns  # of files with columns
    documents: int  # that hold text
    characters: int  # of all documents
    sha256: str  # of all documents

    def texts(self) -> Iterator[str]:
        """The documents in order, one at a time."""
        return (text for text in _cells(self.layout, self.columns) if text)

    @property
    def description(self) -> str:
        """Name and size in words."""
        names = shorten([file.file.name for file in self.layout.files], 3)
        return f"{names}: {self.documents:,} documents, {self.characters:,} characters"


def open_corpus(source: str | Path, *, columns: Columns | None = None) -> Corpus:
    """Read a corpus once from start to end, so that any fault is reported before hours of training.

    `source` is a file, folder or pattern as in docs/data.md, of which the text columns are read (each text
    of a pair is a document); of a txt file, each line is a document. Raises DataError if a file is missing,
    of another format, not well-formed or not UTF-8 (with its row and line), or if there is no text at all.
    """
    columns = columns or Columns()
    layout = read_layout(Path(source), columns)
    documents = characters = 0
    digest = hashlib.sha256()
    for text in filter(None, _cells(layout, columns)):
        documents += 1
        characters += len(text)
        digest.update(text.encode("utf-8") + b"\x1e")
    if not documents:
        raise DataError(f"{source}: no text in it")
    return Corpus(layout, columns, documents, characters, digest.hexdigest())


def passages(
    texts: Iterable[str], *, characters_per_token: float, max_tokens: int, seed: int
) -> Iterator[str | tuple[str, str]]:
    """Cut documents into passages of complete sentences whose lengths vary as those of real inputs do.

    Target lengths are log-uniform between 8 and `max_tokens` tokens; a longer sentence is cut. A quarter of
    the passages are pairs of neighbors that share the maximum length. No text is left out.
    """
    rng = np.random.default_rng(seed)
    limit = int(max_tokens * characters_per_token)

    def take(sentences: list[str], limit: int) -> str:
        shortest = min(MIN_TOKENS * characters_per_token, limit)
        length = np.exp(rng.uniform(np.log(shortest), np.log(limit)))
        passage = sentences.pop()
        while sentences and len(passage) < length and len(passage) + 1 + len(sentences[-1]) <= limit:
            passage = f"{passage} {sentences.pop()}"
        return passage

    for text in texts:
        sentences = _reversed_sentences(text, limit)
        while sentences:
            is_single = rng.random() >= PAIR_FRACTION or len(sentences[-1]) > limit // 2
            first = take(sentences, limit if is_single else limit // 2)
            is_pair = not is_single and sentences and len(sentences[-1]) <= limit // 2
            yield (first, take(sentences, limit // 2)) if is_pair else first


def sample(items: Iterable[_Item], *, fraction: float, seed: int) -> Iterator[_Item]:
    """Keep each item with probability `fraction`, in order."""
    rng = np.random.default_rng(seed)
    return (item for item in items if fraction >= 1 or rng.random() < fraction)


def _reversed_sentences(text: str, limit: int) -> list[str]:
    """Sentences of at most `limit` characters, the last one first so that they can be popped in order."""
    sentences: list[str] = []
    start = 0
    for end in (*(match.end() for match in _SENTENCE_END.finditer(text)), len(text)):
        while end - start > limit:
            cut = text.rfind(" ", start + limit // 2, start + limit) + 1 or start + limit
            sentences.append(text[start:cut])
            start = cut
        sentences.append(text[start:end])
        start = end
    return [sentence.strip() for sentence in reversed(sentences) if sentence.strip()]


def _cells(layout: Layout, columns: Columns) -> Iterator[str]:
    """Every text in order; empty strings where there is none."""
    names = {
        file.file.name: find_text_columns(file.types, columns, file.file.name, layout.repeated)
        for file in layout.files
        if file.types
    }
    needed = {name for texts in names.values() for name in texts}
    for chunk in read_chunks(layout, rows=CHUNK_ROWS, needed=needed):
        raise_first_fault(chunk)
        found = names[chunk.table.source]
        for i, row in enumerate(zip(*map(chunk.table.cells, found), strict=True)):
            for name, cell in zip(found, row, strict=True):
                yield _text(cell, chunk, i, name)


def _text(cell: Any, chunk: Chunk, index: int, column: str) -> str:
    if cell is None:
        return ""
    try:
        if not isinstance(cell, str):
            raise ValueError(f"expected text, found {type(cell).__name__}")
        return utf8(cell).strip()
    except ValueError as error:
        line = None if chunk.lines is None else chunk.lines[index]
        fault = f"column '{column}': {error}"
        place = describe_fault(chunk.table.source, chunk.numbers[index], line, fault)
        raise DataError(place) from error
