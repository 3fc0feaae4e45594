"""The columns of data: which hold texts, labels and groups, and how a file separates and encodes them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from cascadebert.data.labels import shorten
from cascadebert.errors import DataError, printable

_PAIRS = (("sentence1", "sentence2"), ("premise", "hypothesis"), ("question", "sentence"))
USUAL_TEXT_COLUMNS = (*_PAIRS, ("question1", "question2"), ("text",), ("sentence",))
USUAL_LABEL_COLUMN = "label"
_DELIMITERS = ",;|\t^~"
_DELIMITED_SOURCE = re.compile(r"\.[ct]sv\b|^standard input$", re.IGNORECASE)
_INDEX_NAMES = {"", "id", "idx", "index", "unnamed: 0"}  # of columns that hold neither texts nor labels
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)\s*")


@dataclass(frozen=True)
class ColumnNames:
    """The columns that were named when a cascade was made; later calls look for them first."""

    text: tuple[str, ...] = ()
    label: str | None = None


@dataclass(frozen=True)
class Columns:
    """Names of the columns to use, by default the usual ones, and the form of text files.

    Attributes:
        text: one name, or two for pairs of texts.
        label: name of the label column.
        group: name of a column whose equal values are never split apart.
        label_map: the stages' name for labels of the data, where the data has another.
        delimiter: the character between the cells of a csv file; None to find out.
        encoding: the encoding of text files; None for UTF-8.
        remembered: names to look for before the usual ones.
    """

    text: Sequence[str] = ()
    label: str | None = None
    group: str | None = None
    label_map: Mapping[str, str] | None = None
    delimiter: str | None = None
    encoding: str | None = None
    remembered: ColumnNames = ColumnNames()

    def __post_init__(self) -> None:
        text = (self.text,) if isinstance(self.text, str) else tuple(self.text)
        object.__setattr__(self, "text", text)
        if len(text) > 2:
            raise DataError(f"at most two text columns (a pair) can be named; given: {shorten(text)}")
        if self.delimiter == r"\t":  # as it is typed in a shell
            object.__setattr__(self, "delimiter", "\t")
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '"\r\n\0'):
            raise DataError(
                "the delimiter must be one character, such as ';' or '\\t', but no quotation mark or line "
                f"break; given: '{printable(self.delimiter, 40)}'"
            )
        if self.encoding is not None and not _is_text_encoding(self.encoding):
            raise DataError(
                f"unknown text encoding '{printable(self.encoding, 40)}'. Examples: utf-8, utf-16, latin-1, "
                "cp1252, shift_jis, gb18030."
            )


def named(columns: Columns | None) -> ColumnNames | None:
    """The text and label columns that are named, for a cascade to remember; None if there are none."""
    if columns is None or not (columns.text or columns.label):
        return None
    return ColumnNames(tuple(columns.text), columns.label)


def or_remembered(columns: Columns | None, remembered: ColumnNames | None) -> Columns:
    """The columns as named, and where none is named those that a cascade remembers before the usual ones."""
    return replace(columns or Columns(), remembered=remembered or ColumnNames())


def find_text_columns(
    available: Collection[str], columns: Columns, source: str, repeated: Collection[str] = ()
) -> tuple[str, ...]:
    """The text columns of a table: those named, otherwise those remembered, or the first usual name or pair.

    `source` names the table in errors; `repeated` are names that its header has twice. Raises DataError if a
    named column, or every usual one, is missing.

    >>> find_text_columns(["idx", "Premise", "Hypothesis", "label"], Columns(), "nli.csv")
    ('Premise', 'Hypothesis')
    >>> find_text_columns(["review", "stars"], Columns(), "reviews.csv")
    Traceback (most recent call last):
    cascadebert.errors.DataError: reviews.csv has no column 'text' (columns found: review, stars). \
Name it with --text-column review.
    """
    wanted = columns.text or _first_present(available, columns.remembered.text) or ("text",)
    return tuple(find_column(available, name, source, "--text-column", repeated) for name in wanted)


def _first_present(available: Collection[str], remembered: tuple[str, ...]) -> tuple[str, ...] | None:
    """Names that the table has: those remembered, a usual name or pair exactly, or in another case."""
    if remembered and all(match_column(available, name) for name in remembered):
        return remembered
    exact = (names for names in USUAL_TEXT_COLUMNS if set(names) <= set(available))
    similar = (names for names in USUAL_TEXT_COLUMNS if all(match_column(available, name) for name in names))
    return next(chain(exact, similar), None)


def find_label_column(
    available: Collection[str],
    columns: Columns,
    source: str,
    repeated: Collection[str] = (),
    *,
    required: bool = True,
) -> str | None:
    """The label column: as named, as remembered, or the usual one; None if missing but not required.

    Raises DataError if it is required and missing, or there twice.
    """
    remembered = columns.remembered.label
    name = columns.label or remembered or USUAL_LABEL_COLUMN
    if columns.label is None and match_column(available, name) is None:
        name = USUAL_LABEL_COLUMN
    if required:
        return find_column(available, name, source, "--label-column", repeated)
    found = match_column(available, name)
    return None if found in repeated else found


def find_column(
    available: Collection[str], name: str, source: str, option: str, repeated: Collection[str] = ()
) -> str:
    """The column of this name as the table has it, see `match_column`.

    Raises DataError with the available columns and the option to use, if there is none or it is there twice.
    """
    found, shown = match_column(available, name), printable(name, 40)
    if found in repeated:
        raise DataError(f"{source} names the column '{shown}' twice. Rename or remove one of them.")
    if found is not None:
        return found
    similar = [column for column in available if _fold(column) == _fold(name)]
    if similar:
        raise DataError(
            f"{source} has several columns like '{shown}': {shorten([repr(column) for column in similar])}. "
            f"Name one of them exactly with {option}."
        )
    columns = list(available)
    raise DataError(
        f"{source} has no column '{shown}' (columns found: {shorten(columns) or 'none'}). "
        f"{_advice(columns, source, option)}"
    )


def match_column(available: Collection[str], name: str) -> str | None:
    """The column of exactly this name, otherwise the only one that differs in case or spaces around it."""
    if name in available:
        return name
    similar = [column for column in available if _fold(column) == _fold(name)]
    return similar[0] if len(similar) == 1 else None


def _advice(columns: Sequence[str], source: str, option: str) -> str:
    """The likely reason why a column is not found, and what to do."""
    usual = {USUAL_LABEL_COLUMN, *chain(*USUAL_TEXT_COLUMNS)}
    advice, cells = "", columns
    if _DELIMITED_SOURCE.search(source):
        mark = max(_DELIMITERS, key="".join(columns).count)
        cells = [cell for column in columns for cell in column.split(mark)]
        is_likely = len(columns) == 1 and (mark != "," or ".tsv" in source.lower())
        if len(cells) > len(columns) and (is_likely or usual & set(map(_fold, cells))):
            advice = f"Cells may be separated by {mark!r}: --delimiter {mark!r}. "
        else:
            cells = columns
        if not usual & set(map(_fold, cells)) and any(map(_looks_like_data, cells)):
            advice += "The first line looks like a row, not a header: add one, such as text,label."
    others = (name for name in columns if _fold(name) not in usual | _INDEX_NAMES)
    example = printable(shlex.quote(next(others, "NAME")), 40)
    is_unsure = _DELIMITED_SOURCE.search(source) and any(" " in name.strip() for name in columns)
    header = ", or add a header line such as text,label if that is a row" if is_unsure else ""
    return advice.strip() or f"Name it with {option} {example}{header}."


def _looks_like_data(cell: str) -> bool:
    return len(cell.split(maxsplit=2)) > 2 or _NUMBER.fullmatch(cell) is not None


def _fold(name: str) -> str:
    return name.replace("\ufeff", "").strip().casefold()


def _is_text_encoding(name: str) -> bool:
    try:
        "".encode(name)  # also fails for codecs between bytes, such as hex
    except (LookupError, ValueError):
        return False
    return True
