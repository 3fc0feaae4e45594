"""Text files: decompressed, decoded, without byte-order marks."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from cascadebert.data.files import DataFile
from cascadebert.errors import DataError, extra, reason

_MARK = b"\xef\xbb\xbf"  # byte-order mark of UTF-8
_OTHER_MARKS = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")
_OTHER_FORMATS = {
    b"\x1f\x8b": "is compressed with gzip: its name must end in .gz",
    b"\x28\xb5\x2f\xfd": "is compressed with zstd: its name must end in .zst",
    b"PK\x03\x04": "is a zip archive or a spreadsheet. Save the sheet as CSV, or unpack the archive.",
    b"PAR1": "is a parquet file: its name must end in .parquet",
}
READING_FAILURES = (OSError, EOFError, zlib.error)


@contextmanager
def open_text(file: DataFile, encoding: str | None, newline: str | None) -> Iterator[TextIO]:
    """Open a text file; bytes that are not of its encoding become lone surrogates.

    Raises DataError, also inside the block, if the file cannot be read, is of another format, or is UTF-16
    and no encoding is named.
    """
    try:
        with open_bytes(file) as raw:
            _check_start(raw.peek(4096)[:4096], file.name, encoding)
            name = codecs.lookup(encoding or "utf-8").name
            while name.startswith("utf-8") and raw.peek(3)[:3] == _MARK:
                raw.read(3)
            yield io.TextIOWrapper(raw, name, errors="surrogateescape", newline=newline)
    except UnicodeError as error:
        advice = "Leave out --encoding, or name another." if encoding else "Name another with --encoding."
        raise DataError(
            f"{file.name}: not text in {encoding or 'UTF-8'} ({reason(error)}). {advice}"
        ) from error
    except READING_FAILURES as error:
        raise DataError(f"{file.name}: cannot be read ({reason(error)})") from error


def _check_start(start: bytes, name: str, encoding: str | None) -> None:
    for magic, problem in _OTHER_FORMATS.items():
        if start.startswith(magic):
            raise DataError(f"{name} {problem}")
    if encoding is None and (start.startswith(_OTHER_MARKS) or start.count(0) > len(start) / 4):
        raise DataError(f"{name} is UTF-16 or UTF-32. Save it as UTF-8, or add --encoding utf-16.")


@contextmanager
def open_bytes(file: DataFile) -> Iterator[Any]:
    """Open a file for reading, decompressed, with `peek`."""
    if file.compression == ".gz":
        with file.open() as stored, gzip.open(stored) as raw:
            yield raw
    elif file.compression == ".zst":
        with extra("tune"):
            import pyarrow
        with file.open() as stored, pyarrow.input_stream(stored, compression="zstd") as raw:
            yield io.BufferedReader(raw)
    else:
        with file.open() as raw:
            yield raw


def count_lines(file: DataFile) -> int:
    """Line breaks in a text file."""
    try:
        with open_bytes(file) as raw:
            return sum(block.count(b"\n") for block in iter(lambda: raw.read(1 << 20), b""))
    except READING_FAILURES as error:
        raise DataError(f"{file.name}: cannot be read ({reason(error)})") from error
