"""Labeled or unlabeled examples from files and data sets, with every cell checked."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cascadebert.data.cells import check_group, check_texts, checked, is_missing, raise_first, utf8
from cascadebert.data.columns import (
    USUAL_LABEL_COLUMN,
    Columns,
    find_column,
    find_label_column,
    find_text_columns,
    match_column,
)
from cascadebert.data.files import FORMATS, read_table
from cascadebert.data.labels import near_matches, read_ids, same_labels, shorten, whole_number
from cascadebert.data.memory import TableLike, declared_labels, memory_table
from cascadebert.data.table import Table
from cascadebert.errors import DataError, extra
from cascadebert.types import Ints, Texts

if TYPE_CHECKING:
    import datasets

log = logging.getLogger("cascadebert")
DataSource: TypeAlias = "str | Path | datasets.Dataset | TableLike | Mapping[str, Any] | Examples"
Hashes = NDArray[np.uint64]
_DIGITS = re.compile(r"[+-]?\d+")
_FRACTION = re.compile(r"[+-]?(\d+\.\d*|\.\d+|\d+(\.\d*)?[eE][+-]?\d+)")


@dataclass(frozen=True)
class Examples:
    """n checked examples; `source` and `label_column` name their origin in errors."""

    texts: Texts  # n texts, or n pairs of texts
    labels: tuple[str, ...] | None  # n label names, or None where there are no labels
    groups: tuple[str, ...] | None = None  # n keys, equal for examples that must not be split apart
    source: str = "data"
    label_column: str = "label"
    label_order: tuple[str, ...] | None = None  # as declared by the source, if it does
    rows: tuple[int, ...] | None = None  # n row numbers in the source; None for 1 to n

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: Ints) -> Examples:
        """The examples at these indices, in that order."""
        return replace(
            self,
            texts=[self.texts[i] for i in indices],
            labels=None if self.labels is None else tuple(self.labels[i] for i in indices),
            groups=None if self.groups is None else tuple(self.groups[i] for i in indices),
            rows=tuple(self.row(i) for i in indices.tolist()),
        )

    def row(self, index: int) -> int:
        """The row number of an example in its source, counted from 1."""
        return index + 1 if self.rows is None else self.rows[index]

    def match_labels(self, names: Sequence[str]) -> Examples:
        """These examples with the labels' names in existing stages, which the data may give as ids.

        Raises DataError if a label is neither a name nor an id.
        """
        found = set(self.labels or ())
        if self.labels is None or found <= set(names):
            return self
        by_id = read_ids(found, names)
        if not by_id:
            raise self._unknown_label(names, " Map the data's labels to these names with --label-map FILE.")
        if not same_labels(names, [str(i) for i in range(len(names))]):
            read = [f"{label} = {by_id[label]}" for label in sorted(found)]
            log.warning("%s: labels are read as the stages' ids: %s", self.source, shorten(read))
        return replace(self, labels=tuple(by_id[label] for label in self.labels))

    def label_ids(self, label_names: Sequence[str]) -> Ints:
        """(n,) positions of the labels in `label_names`.

        Raises DataError if there are no labels, or one is not among the names.
        """
        if self.labels is None:
            raise DataError(f"{self.source} has no labels. Name their column with --label-column.")
        ids = {name: i for i, name in enumerate(label_names)}
        if not ids.keys() >= set(self.labels):
            raise self._unknown_label(label_names)
        return np.array([ids[label] for label in self.labels], dtype=np.int64)

    def _unknown_label(self, names: Sequence[str], advice: str = "") -> DataError:
        labels = self.labels or ()
        unknown = {label: i for i, label in reversed(list(enumerate(labels))) if label not in names}
        label, index = min(unknown.items(), key=lambda item: item[1])
        return DataError(
            f"{self.source}, row {self.row(index)}, column '{self.label_column}': unknown label {label!r}. "
            f"Known: {shorten(names)}.{near_matches(sorted(unknown), names)}{advice}"
        )

    def hashes(self, *, labels: bool = False) -> Hashes:
        """(n,) 64-bit fingerprints of the texts, with the labels if requested.

        Runs of white space count as one space.
        """
        rows = [(text,) if isinstance(text, str) else tuple(text) for text in self.texts]
        if labels and self.labels is not None:
            rows = [(*row, label) for row, label in zip(rows, self.labels, strict=True)]
        contents = ("\x1f".join(" ".join(part.split()) for part in row).encode() for row in rows)
        digests = b"".join(hashlib.blake2b(content, digest_size=8).digest() for content in contents)
        return np.frombuffer(digests, dtype="<u8").astype(np.uint64)

    def sha256(self) -> str:
        """Fingerprint of all texts and labels, in order."""
        digest = hashlib.sha256(self.hashes().tobytes())
        digest.update("\x1f".join(self.labels or ()).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


def load_examples(
    source: DataSource,
    *,
    columns: Columns | None = None,
    labels: bool = True,
    groups: bool = True,
    split: str = "train",
) -> Examples:
    """Read and check examples from a file, from memory, or from a data set of the Hugging Face Hub.

    Args:
        source: a csv, tsv, jsonl or parquet file; in memory a DataFrame of pandas or polars, a
            `datasets.Dataset`, a `pyarrow.Table`, or a dict of columns; or the name of a data set on the Hub
            (or a local folder of one): `owner/name`, `owner/name:config`, with `@split` at its end for
            another split than `split`.
        columns: names of the columns, where they are not the usual ones.
        labels: require labels; otherwise they are None where the column is missing or empty.
        groups: require a named group column; otherwise groups are None where it is missing.
        split: default split of a data set from the Hub.

    Raises:
        DataError: with the file, row and column of the first bad cell.
    """
    columns = columns or Columns()
    if isinstance(source, Examples):
        return source
    title = "data set"
    if isinstance(source, (str, Path)):
        path, title = Path(source), str(source)
        is_file = path.suffix.lower() in FORMATS or path.is_file()
        source = read_table(path) if is_file else _load_hub(title, split)
    table = source if isinstance(source, Table) else memory_table(source, title)
    text_columns = find_text_columns(table.columns, columns, table.source, table.repeated)
    label_column = find_label_column(table.columns, columns, table.source, table.repeated, required=labels)
    group_column = None
    if columns.group is not None and (groups or match_column(table.columns, columns.group)):
        group_column = find_column(
            table.columns, columns.group, table.source, "--group-column", table.repeated
        )
    if len(table) == 0:
        raise DataError(f"{table.source} is empty: expected at least one row")
    texts, _, faults = check_texts(table, text_columns)
    raise_first(table, faults)
    order = None if label_column is None else declared_labels(source, label_column)
    names = None
    if label_column is not None:
        names = _read_labels(table, label_column, order, columns.label_map or {}, required=labels)
    keys = None if group_column is None else checked(table, group_column, check_group)
    return Examples(texts, names, keys, table.source, label_column or USUAL_LABEL_COLUMN, order)


def _read_labels(
    table: Table, column: str, order: tuple[str, ...] | None, label_map: Mapping[str, str], *, required: bool
) -> tuple[str, ...] | None:
    """The checked labels, by name where they are ids of declared names; None if all are missing."""
    cells = table.cells(column)
    if order is not None:
        cells = [None if i is None or i < 0 else order[i] for i in cells]
        table = replace(table, columns={column: cells})
    if not required and all(map(is_missing, cells)):
        return None
    names = checked(table, column, _label if order is None else _declared_label)
    names = tuple(label_map.get(name, name) for name in names)
    if order is None:
        _check_not_mixed(table, column, names)
    return names


def label_names(*parts: Examples | None) -> tuple[str, ...]:
    """The labels in order: as declared by the source, else numbers by size, names by alphabet.

    Raises DataError if there are fewer than two.

    >>> label_names(Examples(["a", "b", "c"], ("10", "9", "10")))
    ('9', '10')
    """
    examples = [part for part in parts if part is not None]
    for part in examples:
        if part.label_order is not None and len(part.label_order) > 1:
            return part.label_order
    names = {name for part in examples for name in part.labels or ()}
    if len(names) < 2:
        raise DataError(
            f"{examples[0].source}, column '{examples[0].label_column}': at least two labels are needed to "
            f"train a classifier (found: {', '.join(names) or 'none'})"
        )
    return tuple(sorted(names, key=lambda name: (int(name), name) if _DIGITS.fullmatch(name) else (0, name)))


def _load_hub(name: str, default_split: str) -> datasets.Dataset:
    with extra("train"):
        import datasets
    path, split, config = name, "", ""
    if "@" in path and not Path(path).is_dir():  # the name of a local folder may contain these characters
        path, _, split = path.rpartition("@")
    if ":" in path and not Path(path).is_dir():
        path, _, config = path.rpartition(":")
    try:
        return datasets.load_dataset(path, config or None, split=split or default_split)
    except Exception as error:  # the Hub, its client and builders raise many types
        raise DataError(
            f"{name}: neither a file ending in {', '.join(FORMATS)} nor a data set that can be loaded "
            f"({type(error).__name__}: {error})"
        ) from error


def _label(cell: Any) -> str:
    if is_missing(cell):
        raise ValueError("no label (empty or NaN)")
    if not isinstance(cell, (str, int, float)):
        raise ValueError(f"expected one label (a string or a whole number), found {type(cell).__name__}")
    name = utf8(str(cell).strip())
    number = whole_number(name)
    if _FRACTION.fullmatch(number):
        raise ValueError(f"the label {name} has a fraction: a classifier needs whole numbers or names")
    return number


def _declared_label(cell: Any) -> str:
    if cell is None:
        raise ValueError("no label (empty or NaN)")
    return str(cell)


def _check_not_mixed(table: Table, column: str, names: Iterable[str]) -> None:
    """Raise DataError with the first row of each kind, if some labels are numbers and others are names."""
    first: dict[bool, tuple[int, str]] = {}
    for row, name in enumerate(names, start=1):
        first.setdefault(_DIGITS.fullmatch(name) is not None, (row, name))
    if len(first) == 2:
        (number_row, number), (name_row, name) = first[True], first[False]
        raise DataError(
            f"{table.source}, row {max(number_row, name_row)}, column '{column}': labels of mixed types, the "
            f"number {number} (row {number_row}) and the name {name!r} (row {name_row}). Use only numbers or "
            "only names."
        )
