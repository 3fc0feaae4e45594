"""Standard input and pipes: copied to a file once, their format told by the content."""

from __future__ import annotations

import csv
import logging
import re
import shutil
import sys
import tempfile
import weakref
from collections.abc import Collection
from itertools import chain
from pathlib import Path

from cascadebert.atomic import is_device
from cascadebert.data.columns import USUAL_LABEL_COLUMN, USUAL_TEXT_COLUMNS, Columns
from cascadebert.data.files import DataFile, DataFiles, Format, split_format
from cascadebert.data.text_files import READING_FAILURES, open_bytes
from cascadebert.errors import DataError, reason
from cascadebert.paths import STANDARD_STREAM

log = logging.getLogger("cascadebert")

_COMPRESSIONS = {b"\x1f\x8b": ".gz", b"\x28\xb5\x2f\xfd": ".zst"}
_BINARY: dict[bytes, Format] = {b"PAR1": "parquet", b"ARRO": "arrow", b"\xff\xff\xff\xff": "arrow"}
_NAMES: dict[Format, str] = {"json": "JSON", "csv": "csv", "txt": "lines of text", "parquet": "parquet"}
_SAMPLE = 1 << 16  # bytes
_STRING = r'"(?:[^"\\]|\\.)*"'
_JSON_START = re.compile(  # of objects and arrays, but not of "[Verse 1]", "[ ] to do" or "{name}"
    rf"\{{\s*(?:{_STRING}\s*:|\}}\s*(?:\{{|$)|$)|\[\s*(?:\{{|\]\s*$|$)|\[[\s\[]*{_STRING}\s*[,\]]"
)


def is_stream(source: Path) -> bool:
    """True for standard input by any name, pipes and devices."""
    return source == STANDARD_STREAM or is_device(source)


def copy_stream(source: Path, columns: Columns) -> DataFiles:
    """A copy of a stream, which can be read only once; it is removed with the result.

    A table is told from lines of text by a header with a name that is looked for, or by rows of equal width.
    """
    name = "standard input" if source == STANDARD_STREAM else str(source)
    folder = Path(tempfile.mkdtemp(prefix="cascadebert-"))
    try:
        copy = _copy(source, folder / "stream")
        file = DataFile(copy, name, *(split_format(source) or _guess_format(copy, columns)))
    except BaseException as error:  # an interruption too leaves nothing
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, READING_FAILURES):
            raise DataError(f"{name}: cannot be read ({reason(error)})") from error
        raise
    kind = _NAMES.get(file.format, file.format)
    log.info("%s is read as %s", name, f"compressed {kind}" if file.compression else kind)
    result = DataFiles((file,), name)
    weakref.finalize(result, shutil.rmtree, folder, ignore_errors=True)
    return result


def _copy(source: Path, copy: Path) -> Path:
    if source == STANDARD_STREAM and sys.stdin is None:
        raise DataError("standard input is closed. Give a file, or pipe one in.")
    with copy.open("wb") as target:
        if source == STANDARD_STREAM:
            shutil.copyfileobj(sys.stdin.buffer, target)
        else:
            with source.open("rb") as stream:
                shutil.copyfileobj(stream, target)
    return copy


def _guess_format(copy: Path, columns: Columns) -> tuple[Format, str]:
    """Format and compression by the first bytes."""
    with copy.open("rb") as raw:
        magic = raw.read(4)
    if magic in _BINARY:
        return _BINARY[magic], ""
    compression = next((ending for start, ending in _COMPRESSIONS.items() if magic.startswith(start)), "")
    with open_bytes(DataFile(copy, copy.name, "txt", compression)) as raw:
        start = raw.read(_SAMPLE)
    text = start.decode(columns.encoding or "utf-8", "replace").lstrip("\ufeff \t\r\n")
    if _JSON_START.match(text):
        return "json", compression
    names = (*columns.text, columns.label, *columns.remembered.text, columns.remembered.label)
    usual = (USUAL_LABEL_COLUMN, *chain(*USUAL_TEXT_COLUMNS))
    known = {name.lower() for name in (*names, *usual) if name is not None}
    return ("csv" if columns.delimiter or _is_table(text, known) else "txt"), compression


def _is_table(text: str, known: Collection[str]) -> bool:
    lines = text.splitlines()[:-1][:50] or text.splitlines()
    header = {cell.strip(" \r\"'").lower() for cell in re.split(r"[,;|\t]", lines[0])} if lines else set()
    if header & set(known) or (lines and lines[0].lower().startswith("sep=")):
        return True
    widths = ({len(row) for row in csv.reader(lines, delimiter=mark)} for mark in ",;|\t")
    return len(lines) > 1 and any(len(found) == 1 and found.pop() > 1 for found in widths)
