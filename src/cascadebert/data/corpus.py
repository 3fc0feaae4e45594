"""Unlabelled text of any size: documents one by one from files, cut into passages to learn from."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from cascadebert.data.columns import Columns, find_text_columns
from cascadebert.errors import DataError, extra

_Piece = TypeVar("_Piece")

FORMATS = (".txt", ".jsonl", ".parquet")
LONGEST_LINE = 1 << 26
PARQUET_ROWS = 1024
PAIRED = 0.25
"""Share of the passages that are two neighbours as a pair, so that the second text's tokens are learned."""

_SENTENCE_END = re.compile("[.!?\u2026][\"')\\]\u201d\u2019]*\\s+|[\u3002\uff01\uff1f]|\\n+")
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Corpus:
    """Files of text, read once to the end and found good.

    Attributes:
        files: the files, in order.
        columns: where the text of jsonl and parquet files is.
        documents: how many there are that hold text.
        empty: how many lines or cells hold none; they are passed over.
        characters: of all documents.
        sha256: of all documents.
    """

    files: tuple[Path, ...]
    columns: Columns
    documents: int
    empty: int
    characters: int
    sha256: str

    def texts(self) -> Iterator[str]:
        """The documents, in order, one at a time."""
        return (text for text in _cells(self.files, self.columns) if text.strip())

    def words(self) -> str:
        """Name and size, for people."""
        names = ", ".join(file.name for file in self.files[:3]) + (", ..." if len(self.files) > 3 else "")
        return f"{names}: {self.documents:,} documents, {self.characters:,} characters"


def open_corpus(source: str | Path, *, columns: Columns | None = None) -> Corpus:
    """Read a corpus once from end to end: whatever is wrong with it comes out before hours of training.

    Args:
        source: a txt file (a document per line), a jsonl or parquet file with a text column, or a folder
            of such files at any depth, taken in order of name; names that begin with a dot or an underscore
            are left out.
        columns: the name of the text column, where not a usual one; of a pair, each text is a document.

    Raises:
        DataError: if a file is absent, of another format, not well-formed or not UTF-8 (with its line or
            row), or there is no text at all.
    """
    files = _files(Path(source))
    columns = columns or Columns()
    documents = empty = characters = 0
    whole = hashlib.sha256()
    for text in _cells(files, columns):
        if not text.strip():
            empty += 1
            continue
        documents += 1
        characters += len(text)
        whole.update(text.encode("utf-8"))
        whole.update(b"\x1e")
    if not documents:
        raise DataError(f"{source}: no text in it ({empty:,} empty lines)")
    return Corpus(files, columns, documents, empty, characters, whole.hexdigest())


def passages(
    texts: Iterable[str], *, characters: float, longest: int, seed: int
) -> Iterator[str | tuple[str, str]]:
    """Cut documents into passages of whole sentences whose lengths vary as those of real inputs do.

    Wanted lengths are drawn so that their logarithm is uniform between 8 tokens and `longest`. A sentence
    that is longer than `longest` is cut. A quarter of the passages are pairs of two neighbours, which share
    the longest length. Nothing is left out.

    Args:
        texts: the documents.
        characters: of a token, on the average.
        longest: tokens that a passage should not exceed.
        seed: decides the lengths and the pairs.
    """
    rng = np.random.default_rng(seed)
    most = int(longest * characters)

    def taken(waiting: list[str], limit: int) -> str:
        wanted = np.exp(rng.uniform(np.log(8 * characters), np.log(limit)))
        passage = waiting.pop()
        while waiting and len(passage) < wanted and len(passage) + 1 + len(waiting[-1]) <= limit:
            passage = f"{passage} {waiting.pop()}"
        return passage

    for text in texts:
        sentences = _sentences(text, most)
        while sentences:
            alone = rng.random() >= PAIRED or len(sentences[-1]) > most // 2
            first = taken(sentences, most if alone else most // 2)
            paired = not alone and sentences and len(sentences[-1]) <= most // 2
            yield (first, taken(sentences, most // 2)) if paired else first


def sample(pieces: Iterable[_Piece], *, share: float, seed: int) -> Iterator[_Piece]:
    """Each piece with the probability `share`, in order."""
    rng = np.random.default_rng(seed)
    return (piece for piece in pieces if share >= 1 or rng.random() < share)


def _sentences(text: str, longest: int) -> list[str]:
    """Sentences of at most `longest` characters, the last first (to be popped)."""
    found: list[str] = []
    start = 0
    for end in (*(match.end() for match in _SENTENCE_END.finditer(text)), len(text)):
        while end - start > longest:
            cut = text.rfind(" ", start + longest // 2, start + longest) + 1 or start + longest
            found.append(text[start:cut])
            start = cut
        found.append(text[start:end])
        start = end
    return [one.strip() for one in found if one.strip()][::-1]


def _files(source: Path) -> tuple[Path, ...]:
    if source.is_dir():
        found = (file for file in source.rglob("*") if file.is_file() and file.suffix.lower() in FORMATS)
        files = tuple(sorted(file for file in found if not _is_hidden(file.relative_to(source))))
        if not files:
            raise DataError(f"{source}: no file in it ends in {', '.join(FORMATS)}")
        return files
    if not source.is_file():
        raise DataError(f"{source}: no such file or folder")
    if source.suffix.lower() not in FORMATS:
        raise DataError(
            f"{source}: expected a file ending in {', '.join(FORMATS)}, or a folder of such files"
        )
    return (source,)


def _is_hidden(file: Path) -> bool:
    return any(part.startswith((".", "_")) for part in file.parts)


def _cells(files: Sequence[Path], columns: Columns) -> Iterator[str]:
    """Every line or cell; empty ones are empty strings."""
    readers = {".txt": _lines, ".jsonl": _json_cells, ".parquet": _parquet_cells}
    for file in files:
        try:
            yield from readers[file.suffix.lower()](file, columns)
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({error})") from error


def _lines(file: Path, columns: Columns) -> Iterator[str]:
    del columns  # plain text has none
    with file.open("rb") as raw:
        if raw.read(2) in (b"\xff\xfe", b"\xfe\xff"):
            raise DataError(
                f"{file.name} is not UTF-8 (it begins as UTF-16 or UTF-32 does). Save it as UTF-8."
            )
    number = 0
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="\n") as lines:
        while line := lines.readline(LONGEST_LINE):
            number += 1
            if _SURROGATE.search(line) or "\0" in line:
                raise DataError(f"{file.name}, line {number}: bytes that are not UTF-8. Save it as UTF-8.")
            if len(line) == LONGEST_LINE:
                raise DataError(
                    f"{file.name}, line {number}: more than {LONGEST_LINE:,} characters. Break it."
                )
            yield line.strip()


def _json_cells(file: Path, columns: Columns) -> Iterator[str]:
    for number, line in enumerate(_lines(file, columns), start=1):
        if not line:
            yield ""
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{file.name}, line {number}: not JSON ({error})") from error
        if not isinstance(record, dict):
            raise DataError(f"{file.name}, line {number}: expected an object, one per line")
        where = f"{file.name}, line {number}"
        for name in find_text_columns(record, columns, where):
            yield _text(record[name], where, name)


def _parquet_cells(file: Path, columns: Columns) -> Iterator[str]:
    with extra("tune"):
        import pyarrow
        import pyarrow.parquet
    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            names = find_text_columns(table.schema_arrow.names, columns, file.name)
            batches = table.iter_batches(PARQUET_ROWS, columns=list(names))
            rows = (row for batch in batches for row in batch.to_pylist())
            for number, row in enumerate(rows, start=1):
                yield from (_text(row[name], f"{file.name}, row {number}", name) for name in names)
    except (pyarrow.ArrowInvalid, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file.name}: not a readable parquet file ({error})") from error


def _text(cell: Any, where: str, column: str) -> str:
    if cell is None:
        return ""
    if not isinstance(cell, str):
        raise DataError(f"{where}, column '{column}': expected text, found {type(cell).__name__}")
    if _SURROGATE.search(cell):
        raise DataError(f"{where}, column '{column}': half of a surrogate pair, which is no text")
    return cell
