"""From files and data sets to examples, every cell checked: a bad one is named by row and column."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cascadebert.data.columns import Columns, find_text_columns, require_column
from cascadebert.data.readers import FORMATS, Table, read_table
from cascadebert.errors import DataError, extra
from cascadebert.types import Ints, Texts

if TYPE_CHECKING:
    import datasets

MAX_CHARACTERS = 131_072
"""Longest text taken; the csv reader of Python stops here too, and no encoder reads so far."""

Hashes = NDArray[np.uint64]
_SURROGATE = re.compile("[\ud800-\udfff]")
_WHOLE = re.compile(r"[+-]?(0|[1-9]\d*)(\.0*)?")
_DIGITS = re.compile(r"[+-]?\d+")
_FRACTION = re.compile(r"[+-]?(\d+\.\d*|\.\d+|\d+(\.\d*)?[eE][+-]?\d+)")


@dataclass(frozen=True)
class Examples:
    """Checked rows of a classification task.

    Attributes:
        texts: n texts, or n pairs of texts.
        labels: n label names, or None where the source has no label column.
        groups: (n,) group number of each row, or None; equal numbers belong together.
        source: what to call the rows in messages.
        label_column: where the labels came from, for messages.
        label_order: the order in which the source declares its labels, if it does.
    """

    texts: Texts
    labels: tuple[str, ...] | None
    groups: tuple[str, ...] | None = None
    source: str = "data"
    label_column: str = "label"
    label_order: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Ints) -> Examples:
        """The rows at the given positions, in that order."""
        return replace(
            self,
            texts=[self.texts[i] for i in rows],
            labels=None if self.labels is None else tuple(self.labels[i] for i in rows),
            groups=None if self.groups is None else tuple(self.groups[i] for i in rows),
        )

    def label_ids(self, label_names: Sequence[str]) -> Ints:
        """(n,) position of each row's label in `label_names`.

        Raises:
            DataError: if there are no labels, or one is not among the names.
        """
        if self.labels is None:
            raise DataError(f"{self.source} has no labels. Name their column with --label-column.")
        ids = {name: i for i, name in enumerate(label_names)}
        for row, label in enumerate(self.labels, start=1):
            if label not in ids:
                raise DataError(
                    f"{self.source}, row {row}, column '{self.label_column}': unknown label {label!r}. "
                    f"Known: {shorten(label_names)}."
                )
        return np.array([ids[label] for label in self.labels], dtype=np.int64)

    def hashes(self, *, labels: bool = False) -> Hashes:
        """(n,) 64-bit fingerprint of each row's texts, and of its label if asked for.

        Runs of white space count as one space.
        """
        rows = [(text,) if isinstance(text, str) else tuple(text) for text in self.texts]
        if labels and self.labels is not None:
            rows = [(*row, label) for row, label in zip(rows, self.labels, strict=True)]
        return np.array([_fingerprint(row) for row in rows], dtype=np.uint64)

    def sha256(self) -> str:
        """Fingerprint of all rows: texts and labels, in order."""
        whole = hashlib.sha256(self.hashes().tobytes())
        whole.update("\x1f".join(self.labels or ()).encode("utf-8", "surrogatepass"))
        return whole.hexdigest()


def load_examples(
    source: str | Path | datasets.Dataset | Table | Examples,
    *,
    columns: Columns | None = None,
    labels: bool = True,
    groups: bool = True,
    split: str = "train",
) -> Examples:
    """Read and check rows from a file, a `datasets.Dataset`, or a data set of the Hugging Face Hub.

    Args:
        source: a csv, tsv, jsonl or parquet file; a table or data set in memory; or the name of a data
            set on the Hub (or a local folder of one): `owner/name`, `owner/name:config`, with `@split` at
            its end for another split than the usual one.
        columns: names of the columns, where they are not the usual ones.
        labels: whether there must be labels; else they are None where the column is absent or all empty.
        groups: whether a named group column must be there; else groups are None where it is absent.
        split: the usual split of a data set from the Hub.

    Raises:
        DataError: naming the file, row and column of the first bad cell.
    """
    columns = columns or Columns()
    if isinstance(source, Examples):
        return source
    order = None
    title = "data set"
    if isinstance(source, Table):
        return _examples(source, columns, labels, groups, order)
    if isinstance(source, (str, Path)):
        path = Path(source)
        if path.suffix.lower() in FORMATS or path.is_file():
            return _examples(read_table(path), columns, labels, groups, order)
        title = str(source)
        source = _load_hub(title, split)
    if isinstance(source.column_names, dict):
        raise DataError(
            f"a data set of several splits ({', '.join(source.column_names)}): choose one, such as "
            f"data[{next(iter(source.column_names), 'train')!r}]"
        )
    source = source.with_format(None)
    table = Table({name: list(source[name]) for name in source.column_names}, title)
    name = columns.label or "label"
    declared = getattr(source.features.get(name), "names", None)
    if declared is not None:
        order = tuple(declared)
        cells = [None if cell is None or cell < 0 else order[cell] for cell in table.columns[name]]
        table = replace(table, columns={**table.columns, name: cells})
    return _examples(table, columns, labels, groups, order)


def check_texts(table: Table, names: Sequence[str]) -> tuple[Texts, list[int], list[tuple[int, str]]]:
    """The texts of a table whose bad rows are not to stop the work.

    Args:
        table: the rows.
        names: one text column, or two for pairs.

    Returns:
        The good texts or pairs; their positions in the table; position and fault of each bad row.
    """
    texts: list[Any] = []
    good: list[int] = []
    bad: list[tuple[int, str]] = []
    absent = [None] * len(table)
    columns = [table.columns.get(name, absent) for name in names]
    for place, cells in enumerate(zip(*columns, strict=True)):
        try:
            row = tuple(_in_column(name, cell) for name, cell in zip(names, cells, strict=True))
        except ValueError as error:
            bad.append((place, str(error)))
            continue
        texts.append(row if len(row) > 1 else row[0])
        good.append(place)
    return texts, good, bad


def _in_column(name: str, cell: Any) -> str:
    try:
        return _text(cell)
    except ValueError as error:
        raise ValueError(f"column '{name}': {error}") from error


def label_names(*parts: Examples | None) -> tuple[str, ...]:
    """The labels of a task in order: as declared by the source, else numbers by size, words by alphabet.

    Raises:
        DataError: if there are fewer than two.

    >>> label_names(Examples(["a", "b", "c"], ("10", "9", "10")))
    ('9', '10')
    """
    given = [part for part in parts if part is not None]
    for part in given:
        if part.label_order is not None and len(part.label_order) > 1:
            return part.label_order
    names = {name for part in given for name in part.labels or ()}
    if len(names) < 2:
        found = ", ".join(sorted(names)) or "none"
        first = given[0]
        raise DataError(
            f"{first.source}, column '{first.label_column}': at least two labels are needed to train a "
            f"classifier (found: {found})"
        )
    return tuple(sorted(names, key=lambda name: (int(name), name) if _is_whole(name) else (0, name)))


def shorten(names: Sequence[str], most: int = 12) -> str:
    """A list of names for a message, cut where it grows long.

    >>> shorten(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _load_hub(name: str, split: str) -> datasets.Dataset:
    with extra("train"):
        import datasets
    path, wanted, config = name, "", ""
    if not Path(name).is_dir():  # a local folder may have these signs in its name
        path, _, wanted = name.rpartition("@") if "@" in name else (name, "", "")
    if not Path(path).is_dir():
        path, _, config = path.rpartition(":") if ":" in path else (path, "", "")
    try:
        return datasets.load_dataset(path, config or None, split=wanted or split)
    except Exception as error:  # the Hub, its client and builders raise kinds of their own
        raise DataError(
            f"{name}: neither a file ending in {', '.join(FORMATS)} nor a data set that can be loaded "
            f"({type(error).__name__}: {error})"
        ) from error


def _examples(
    table: Table, columns: Columns, labels: bool, groups: bool, order: tuple[str, ...] | None
) -> Examples:
    found = list(table.columns)
    text_columns = find_text_columns(found, columns, table.source)
    label_column = columns.label or "label"
    if labels or columns.label is not None:
        require_column(found, label_column, table.source, "--label-column")
    if groups and columns.group is not None:
        require_column(found, columns.group, table.source, "--group-column")
    if len(table) == 0:
        raise DataError(f"{table.source} is empty: expected at least one row")
    checked = [_checked(table, name, _text) for name in text_columns]
    names = None
    given = label_column in table.columns
    if given and (labels or not all(map(_is_missing, table.columns[label_column]))):
        names = tuple(_checked(table, label_column, _label if order is None else _declared))
        if order is None:
            _refuse_mixed(table, label_column, names)
    together = None
    if columns.group is not None and columns.group in table.columns:
        together = tuple(_checked(table, columns.group, _group))
    texts: Texts = checked[0] if len(checked) == 1 else list(zip(*checked, strict=True))
    return Examples(texts, names, together, table.source, label_column, order)


def _checked(table: Table, name: str, check: Callable[[Any], str]) -> list[str]:
    """Each cell of a column through `check`; the first bad one is named, the others are counted."""
    values: list[str] = []
    bad: list[str] = []
    for row, cell in enumerate(table.columns[name], start=1):
        try:
            values.append(check(cell))
        except ValueError as error:
            bad.append(f"{table.source}, row {row}, column '{name}': {error}")
    if bad:
        more = f" ({len(bad) - 1:,} more such rows)" if len(bad) > 1 else ""
        raise DataError(f"{bad[0]}{more}. Mend or remove the row.")
    return values


def _text(cell: Any) -> str:
    if _is_missing(cell) and not isinstance(cell, str):
        raise ValueError("empty text")
    if not isinstance(cell, str):
        raise ValueError(f"expected text, found {type(cell).__name__} {cell!r:.40}")
    if not cell.strip():
        raise ValueError("empty text")
    if len(cell) > MAX_CHARACTERS:
        raise ValueError(f"a text of {len(cell):,} characters; at most {MAX_CHARACTERS:,} are taken")
    if _SURROGATE.search(cell):
        raise ValueError("bytes that are not UTF-8")
    return cell


def _is_missing(cell: Any) -> bool:
    """Whether a cell holds nothing: null, NaN or empty."""
    if isinstance(cell, str):
        return cell.strip().lower() in ("", "nan")
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def _label(cell: Any) -> str:
    if _is_missing(cell):
        raise ValueError("no label (empty or NaN)")
    if not isinstance(cell, (str, int, float)):
        raise ValueError(f"expected one label (a string or a whole number), found {type(cell).__name__}")
    name = str(cell).strip()
    if _SURROGATE.search(name):
        raise ValueError("bytes that are not UTF-8")
    if _WHOLE.fullmatch(name):
        return str(int(name.partition(".")[0]))
    if _FRACTION.fullmatch(name):
        raise ValueError(f"the label {name} has a fraction: a classifier needs whole numbers or names")
    return name


def _declared(cell: Any) -> str:
    if cell is None:
        raise ValueError("no label (empty or NaN)")
    return str(cell)


def _group(cell: Any) -> str:
    if _is_missing(cell):
        raise ValueError("no group")
    name = str(cell)
    return name.partition(".")[0] if _WHOLE.fullmatch(name) else name


def _is_whole(name: str) -> bool:
    return _DIGITS.fullmatch(name) is not None


def _refuse_mixed(table: Table, column: str, names: Iterable[str]) -> None:
    first: dict[bool, tuple[int, str]] = {}
    for row, name in enumerate(names, start=1):
        first.setdefault(_is_whole(name), (row, name))
    if len(first) == 2:
        (row_a, number), (row_b, word) = first[True], first[False]
        raise DataError(
            f"{table.source}, row {max(row_a, row_b)}, column '{column}': labels of mixed types, the number "
            f"{number} (row {row_a}) and the name {word!r} (row {row_b}). Use numbers or names throughout."
        )


def _fingerprint(parts: Sequence[str]) -> int:
    content = "\x1f".join(" ".join(part.split()) for part in parts)
    return int.from_bytes(hashlib.blake2b(content.encode(), digest_size=8).digest(), "little")
