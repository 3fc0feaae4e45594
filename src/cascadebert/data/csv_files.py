"""Csv and tsv files: the delimiter and the header, and rows of which a broken one spoils no other."""

from __future__ import annotations

import csv
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeAlias

from cascadebert.data.files import DataFile
from cascadebert.data.labels import shorten
from cascadebert.data.table import Chunk, Fault, Table, repeated_names, unique_names
from cascadebert.data.text_files import open_text
from cascadebert.errors import DataError

log = logging.getLogger("cascadebert")

DELIMITERS = (",", ";", "\t", "|")  # the first is preferred where several fit
SAMPLE_LINES = 50
MAX_ROW_LINES = 10_000  # a quoted cell of more lines is taken for one that is not closed
_OPEN = "unexpected end of data"  # the csv module's words for an open quotation mark
MANY_LINES = 50  # a longer cell with the delimiter on most lines is worth a note


@dataclass(frozen=True)
class CsvLayout:
    """The form of a csv or tsv file, from its first rows."""

    delimiter: str
    quoted: bool  # False: a quotation mark is text
    names: tuple[str, ...]  # of its columns; a repeated one gets a number
    repeated: frozenset[str]
    has_separator_line: bool  # "sep=;" before the header

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of `csv.reader`."""
        return {"delimiter": self.delimiter, **_form(self.quoted)}


def _form(quoted: bool) -> dict[str, Any]:
    return {"strict": True} if quoted else {"quoting": csv.QUOTE_NONE}


def _header(rows: Iterator[list[str]], quoted: bool) -> list[str] | None:
    """The first row, in csv after empty lines; None if there is none."""
    return next((row for row in rows if row or not quoted), None)


def read_csv_layout(file: DataFile, *, delimiter: str | None, encoding: str | None) -> CsvLayout | None:
    """Find the delimiter and the header of a csv or tsv file; None if it is empty.

    Raises DataError if the header is misquoted.
    """
    with open_text(file, encoding, "") as text:
        lines = list(islice(text, SAMPLE_LINES))
    is_separator_line = (
        bool(lines) and lines[0].lower().startswith("sep=") and len(lines[0].rstrip("\r\n")) == 5
    )
    if is_separator_line:
        delimiter = delimiter or lines[0][4]
        lines = lines[1:]
    quoted = file.format == "csv"
    found = delimiter or ("\t" if not quoted else _sniff(lines))
    try:
        with _long_cells():
            header = _header(csv.reader(lines, delimiter=found, **_form(quoted)), quoted)
    except csv.Error as error:
        raise DataError(f"{file.name}, header: {_misquoted(str(error))}") from error
    if header is None:
        return None
    if delimiter is None and quoted and found != ",":
        log.info("%s: cells are separated by %s", file.name, "tabs" if found == "\t" else repr(found))
    names = _without_blank_end(header)
    columns = tuple(unique_names(names))
    return CsvLayout(found, quoted, columns, repeated_names(names), is_separator_line)


def _without_blank_end(header: Sequence[str]) -> list[str]:
    """The header without the nameless columns that spreadsheets leave at its end."""
    names = list(header)
    while len(names) > 1 and not names[-1].strip():
        names.pop()
    return names


def _sniff(lines: Sequence[str]) -> str:
    """The delimiter by which the header and most of the first rows have equally many cells."""

    def fit(delimiter: str) -> float:
        rows = [row for row in _sample(lines, delimiter) if row]
        width = len(rows[0]) if rows else 0
        return 0.0 if width < 2 else sum(len(row) == width for row in rows) / len(rows)

    return max(DELIMITERS, key=fit)


def _sample(lines: Sequence[str], delimiter: str) -> list[list[str]]:
    """The rows of the first lines, read leniently, up to one that cannot be read."""
    rows: list[list[str]] = []
    with _long_cells(), suppress(csv.Error):
        rows.extend(csv.reader(lines, delimiter=delimiter))
    return rows


def read_csv(file: DataFile, layout: CsvLayout, *, encoding: str | None, rows: int) -> Iterator[Chunk]:
    """Read a csv or tsv file in chunks of `rows` good and bad rows.

    A row without any content is skipped if it is an empty line or at the end of the file.
    """
    first, suspects = 1, list[tuple[int, int]]()
    with open_text(file, encoding, "") as text, _long_cells():
        records = _records(text, layout)
        while batch := list(islice(records, rows)):
            numbered = list(enumerate(batch, first))
            first += len(batch)
            good = [(number, *row) for number, row in numbered if type(row[2]) is list]
            bad = [Fault(number, row[0], row[2]) for number, row in numbered if type(row[2]) is str]
            cells = [list(column) for column in zip(*(row for *_, row in good), strict=True)]
            columns = dict(zip(layout.names, cells or ([] for _ in layout.names), strict=True))
            long = [(number, list(row)) for number, _, count, row in good if count > 1]
            suspects += _swallowed_rows(long, columns, layout)
            table, numbers = Table(columns, file.name, layout.repeated), [number for number, *_ in good]
            yield Chunk(table, numbers, bad, [line for _, line, _, _ in good])
    if suspects:
        _report(file.name, suspects)


def _report(name: str, suspects: Sequence[tuple[int, int]]) -> None:
    (row, breaks), *others = suspects
    more = f", as do {len(others):,} more" if len(others) > 1 else ", as does one more" if others else ""
    log.warning(
        "%s: row %s holds %s line break%s and looks like %s rows%s. It may be several rows in one, if a "
        "quotation mark is missing or wrong.",
        name, f"{row:,}", f"{breaks:,}", "s" if breaks > 1 else "", f"{breaks + 1:,}", more,
    )  # fmt: skip


@contextmanager
def _long_cells() -> Iterator[None]:
    limit = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


_Row: TypeAlias = (
    "tuple[int, int, list[str] | str]"  # its first line, its number of lines, its cells or fault
)


class _Lines:
    """Lines of a file, of which those of the present row can be given back."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self._again: deque[str] = deque()
        self._taken: list[str] = []
        self._start = 1  # number of the present row's first line

    def take(self) -> Iterator[str]:
        """The lines that are left. Raises csv.Error where a row has too many."""
        taken = self._taken
        while self._again:
            taken.append(self._again.popleft())
            yield taken[-1]
        for line in self._lines:
            taken.append(line)
            if len(taken) > MAX_ROW_LINES:
                raise csv.Error(_OPEN)
            yield line

    def end_row(self) -> tuple[int, int]:
        """Begin another row. Returns number of the ended one's first line, and its lines."""
        start, count = self._start, len(self._taken)
        self._start += count
        self._taken.clear()
        return start, count

    def end_line(self) -> int:
        """Begin another row after the present one's first line, whose number is returned."""
        self._again.extendleft(reversed(self._taken[1:]))
        del self._taken[1:]
        return self.end_row()[0]


def _records(text: Iterable[str], layout: CsvLayout) -> Iterator[_Row]:
    """The rows after the header. A misquoted row ends with its first line, and the next row begins there."""
    lines, width = _Lines(text), len(layout.names)
    if layout.has_separator_line:
        next(lines.take())
    reader = csv.reader(lines.take(), **layout.options)
    _header(reader, layout.quoted)
    lines.end_row()
    blank: list[_Row] = []  # rows without content, which are skipped at the end
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            record: _Row = lines.end_line(), 1, _misquoted(str(error))
            reader = csv.reader(lines.take(), **layout.options)
        else:
            record = *lines.end_row(), cells if len(cells) == width else _fitted(cells, width, layout)
        if not record[2]:  # an empty line
            continue
        if width > 1 and not any(record[2]):
            blank.append(record)
            continue
        if blank:
            yield from blank
            blank.clear()
        yield record


def _fitted(cells: list[str], width: int, layout: CsvLayout) -> list[str] | str:
    """As many cells as the header has, or the fault; none for an empty line."""
    if not cells:
        return cells if layout.quoted or width > 1 else [""]
    if len(cells) > width and not any(map(str.strip, cells[width:])):
        return cells[:width]
    advice = "Quote cells that hold the delimiter." if layout.quoted else "A cell of tsv cannot hold a tab."
    names = shorten(layout.names)
    expected = f"the header names {width} column{'s' if width > 1 else ''} ({names})"
    return f"{len(cells)} cell{'s' if len(cells) > 1 else ''}, but {expected}. {advice}"


def _misquoted(message: str) -> str:
    fault = (
        "a quotation mark is not closed" if _OPEN in message else f"a misplaced quotation mark ({message})"
    )
    return f"{fault}. Close quotation marks, and double those inside a quoted cell."


def _swallowed_rows(
    rows: Sequence[tuple[int, list[str]]], columns: Mapping[str, list[str]], layout: CsvLayout
) -> Iterator[tuple[int, int]]:
    """Row number and line breaks of each of some rows whose cell reads as if it held several rows."""
    values = [set(cells) if rows else set() for cells in columns.values()]
    for number, cells in rows:
        for i, cell in enumerate(cells):
            breaks = cell.count("\n")
            if breaks and _reads_as_rows(cell, i, values, layout.delimiter):
                yield number, breaks
                break


def _reads_as_rows(cell: str, column: int, values: Sequence[set[str]], delimiter: str) -> bool:
    # With an open quotation mark in this column, the first line goes on to the last column, the lines between
    # are whole rows, and the last line ends in this column.
    width = len(values)
    first, *between, last = lines = cell.replace("\r\n", "\n").split("\n")
    if width > 1 and len(lines) > MANY_LINES and sum(delimiter in line for line in lines) * 2 > len(lines):
        return True
    expected = [width - 1 - column, *(width - 1 for _ in between), column]
    if width < 2 or [line.count(delimiter) for line in (first, *between, last)] != expected:
        return False
    tail = zip(first.split(delimiter)[1:], values[column + 1 :], strict=True)
    return len(between) > 0 or any(value in known for value, known in tail)
