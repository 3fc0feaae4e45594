"""Unlabeled text of any size: documents from files, and passages cut from them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from cascadebert.data.columns import Columns, find_text_columns
from cascadebert.data.files import check_format, check_not_utf16, parse_json_line, read_parquet
from cascadebert.data.table import SURROGATE
from cascadebert.errors import DataError

_Item = TypeVar("_Item")

MAX_LINE_CHARACTERS = 1 << 26
PARQUET_ROWS = 1024
MIN_TOKENS = 8
PAIR_FRACTION = 0.25  # of the passages are pairs of neighbors, so that the second text's tokens are learned

_SENTENCE_END = re.compile("[.!?\u2026][\"')\\]\u201d\u2019]*\\s+|[\u3002\uff01\uff1f]|\\n+")


@dataclass(frozen=True)
class Corpus:
    """Text files that have been read and checked once."""

    files: tuple[Path, ...]
    columns: Columns  # of jsonl and parquet files
    documents: int  # that hold text
    empty: int  # lines or cells without text, which are skipped
    characters: int  # of all documents
    sha256: str  # of all documents

    def texts(self) -> Iterator[str]:
        """The documents in order, one at a time."""
        return (text for text in _cells(self.files, self.columns) if text.strip())

    @property
    def description(self) -> str:
        """Name and size in words."""
        names = ", ".join(file.name for file in self.files[:3]) + (", ..." if len(self.files) > 3 else "")
        return f"{names}: {self.documents:,} documents, {self.characters:,} characters"


def open_corpus(source: str | Path, *, columns: Columns | None = None) -> Corpus:
    """Read a corpus once from start to end, so that any fault is reported before hours of training.

    `source` is a txt file (a document per line), a jsonl or parquet file with a text column (each text of a
    pair is a document), or a folder of such files at any depth, in order of name, without those whose names
    begin with a dot or an underscore. Raises DataError if a file is missing, of another format, not
    well-formed or not UTF-8 (with its line or row), or if there is no text at all.
    """
    files = _files(Path(source))
    columns = columns or Columns()
    documents = empty = characters = 0
    digest = hashlib.sha256()
    for text in _cells(files, columns):
        if not text.strip():
            empty += 1
            continue
        documents += 1
        characters += len(text)
        digest.update(text.encode("utf-8") + b"\x1e")
    if not documents:
        raise DataError(f"{source}: no text in it ({empty:,} empty lines)")
    return Corpus(files, columns, documents, empty, characters, digest.hexdigest())


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
        length = np.exp(rng.uniform(np.log(MIN_TOKENS * characters_per_token), np.log(limit)))
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


def _files(source: Path) -> tuple[Path, ...]:
    if source.is_dir():
        paths = (file for file in source.rglob("*") if file.is_file() and file.suffix.lower() in _READERS)
        hidden = re.compile(r"(^|/)[._]")
        files = sorted(path for path in paths if not hidden.search(path.relative_to(source).as_posix()))
        if not files:
            raise DataError(f"{source}: no file in it ends in {', '.join(_READERS)}")
        return tuple(files)
    if not source.is_file():
        raise DataError(f"{source}: no such file or folder")
    check_format(source, tuple(_READERS), ", or a folder of such files")
    return (source,)


def _cells(files: Sequence[Path], columns: Columns) -> Iterator[str]:
    """Every line or cell; empty strings where there is no text."""
    for file in files:
        try:
            yield from _READERS[file.suffix.lower()](file, columns)
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({error})") from error


def _lines(file: Path, _: Columns) -> Iterator[str]:
    check_not_utf16(file)
    number = 0
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="\n") as lines:
        while line := lines.readline(MAX_LINE_CHARACTERS):
            number += 1
            if SURROGATE.search(line) or "\0" in line:
                raise DataError(f"{file.name}, line {number}: bytes that are not UTF-8. Save it as UTF-8.")
            if len(line) == MAX_LINE_CHARACTERS:
                raise DataError(
                    f"{file.name}, line {number}: more than {MAX_LINE_CHARACTERS:,} characters. Break it."
                )
            yield line.strip()


def _jsonl_cells(file: Path, columns: Columns) -> Iterator[str]:
    for number, line in enumerate(_lines(file, columns), start=1):
        position = f"{file.name}, line {number}"
        if not line:
            yield ""
            continue
        try:
            record = parse_json_line(line)
        except ValueError as error:
            raise DataError(f"{position}: {error}") from error
        for name in find_text_columns(record, columns, position):
            yield _text(record[name], position, name)


def _parquet_cells(file: Path, columns: Columns) -> Iterator[str]:
    def text_columns(available: Iterable[str]) -> tuple[str, ...]:
        return find_text_columns(list(available), columns, file.name)

    for chunk in read_parquet(file, rows=PARQUET_ROWS, select=text_columns):
        names = text_columns(chunk.table.columns)
        for i, number in enumerate(chunk.numbers):
            for name in names:
                yield _text(chunk.table.columns[name][i], f"{file.name}, row {number}", name)


def _text(cell: Any, position: str, column: str) -> str:
    if cell is None:
        return ""
    if not isinstance(cell, str):
        raise DataError(f"{position}, column '{column}': expected text, found {type(cell).__name__}")
    if SURROGATE.search(cell):
        raise DataError(f"{position}, column '{column}': half of a surrogate pair, which is not text")
    return cell


_READERS = {".txt": _lines, ".jsonl": _jsonl_cells, ".parquet": _parquet_cells}
