"""Labeled or unlabeled examples from files and data sets, with every cell checked."""

from __future__ import annotations

import hashlib
import logging
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cascadebert.data.files import FORMATS, SURROGATE, Table, read_table
from cascadebert.data.labels import near_matches, read_ids, same_labels, shorten, whole_number
from cascadebert.errors import DataError, extra
from cascadebert.types import Ints, Texts

if TYPE_CHECKING:
    import datasets

log = logging.getLogger("cascadebert")
DataSource: TypeAlias = "str | Path | datasets.Dataset | Examples"
Hashes = NDArray[np.uint64]
_PAIRS = (("sentence1", "sentence2"), ("premise", "hypothesis"), ("question", "sentence"))
USUAL_TEXT_COLUMNS = (*_PAIRS, ("question1", "question2"), ("text",), ("sentence",))
MAX_CHARACTERS = 131_072  # Python's csv reader stops here by default, and no encoder reads as far

_DIGITS = re.compile(r"[+-]?\d+")
_FRACTION = re.compile(r"[+-]?(\d+\.\d*|\.\d+|\d+(\.\d*)?[eE][+-]?\d+)")


@dataclass(frozen=True)
class Columns:
    """Names of the columns to use; by default the usual names.

    Attributes:
        text: one name, or two for pairs of texts.
        label: name of the label column.
        group: name of a column whose equal values are never split apart.
        label_map: the stages' name for labels of the data, where the data has another.
    """

    text: tuple[str, ...] = ()
    label: str | None = None
    group: str | None = None
    label_map: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        if len(self.text) > 2:
            raise DataError(f"at most two text columns (a pair) can be named; given: {', '.join(self.text)}")


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
    source: str | Path | datasets.Dataset | Table | Examples,
    *,
    columns: Columns | None = None,
    labels: bool = True,
    groups: bool = True,
    split: str = "train",
) -> Examples:
    """Read and check examples from a file, a `datasets.Dataset`, or a data set of the Hugging Face Hub.

    Args:
        source: a csv, tsv, jsonl or parquet file; a table or data set in memory; or the name of a data
            set on the Hub (or a local folder of one): `owner/name`, `owner/name:config`, with `@split` at
            its end for another split than `split`.
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
    label_column = columns.label or "label"
    table, order = (source, None) if isinstance(source, Table) else _to_table(source, title, label_column)
    text_columns = find_text_columns(table.columns, columns, table.source)
    if labels or columns.label is not None:
        require_column(table.columns, label_column, table.source, "--label-column")
    if groups and columns.group is not None:
        require_column(table.columns, columns.group, table.source, "--group-column")
    if len(table) == 0:
        raise DataError(f"{table.source} is empty: expected at least one row")
    texts, _, faults = check_texts(table, text_columns)
    _raise_first(table, faults)
    names = keys = None
    cells = table.columns.get(label_column)
    if cells is not None and (labels or not all(map(_is_missing, cells))):
        names = _checked(table, label_column, _label if order is None else _declared_label)
        names = tuple((columns.label_map or {}).get(name, name) for name in names)
        if order is None:
            _check_not_mixed(table, label_column, names)
    if columns.group is not None and columns.group in table.columns:
        keys = _checked(table, columns.group, _group)
    return Examples(texts, names, keys, table.source, label_column, order)


def find_text_columns(available: Collection[str], columns: Columns, source: str) -> tuple[str, ...]:
    """The text columns of a table: those named, otherwise the first usual name or pair.

    `source` names the table in errors. Raises DataError if a named column, or every usual one, is missing.

    >>> find_text_columns(["idx", "premise", "hypothesis", "label"], Columns(), "nli.csv")
    ('premise', 'hypothesis')
    >>> find_text_columns(["review", "stars"], Columns(), "reviews.csv")
    Traceback (most recent call last):
    cascadebert.errors.DataError: reviews.csv has no column 'text' (columns found: review, stars). \
Name it with --text-column review.
    """
    usual = (names for names in USUAL_TEXT_COLUMNS if set(names) <= set(available))
    text_columns = columns.text or next(usual, ("text",))
    for name in text_columns:
        require_column(available, name, source, "--text-column")
    return text_columns


def require_column(available: Collection[str], name: str, source: str, option: str) -> None:
    """Raise DataError with the available columns and the option to use, if `name` is not among them."""
    if name not in available:
        usual = {"label", *chain(*USUAL_TEXT_COLUMNS)}
        example = next((column for column in available if column not in usual), "NAME")
        raise DataError(
            f"{source} has no column '{name}' (columns found: {', '.join(available) or 'none'}). "
            f"Name it with {option} {example}."
        )


def check_texts(table: Table, names: Sequence[str]) -> tuple[Texts, list[int], dict[int, str]]:
    """Check one text column, or two for pairs; a missing column counts as empty.

    Returns the good texts or pairs, their positions in the table, and the faults of the others by position.
    """
    columns, faults = [], dict[int, str]()
    for name in names:
        cells, column_faults = _check_column(table, name, _text)
        columns.append(cells)
        faults = column_faults | faults  # the first column's fault is reported
    texts: list[Any] = columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))
    good = [i for i in range(len(texts)) if i not in faults]
    return [texts[i] for i in good], good, faults


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


def _to_table(
    dataset: datasets.Dataset, title: str, label_column: str
) -> tuple[Table, tuple[str, ...] | None]:
    """A data set as a table, and its declared label names, by which the label ids are replaced."""
    if isinstance(dataset.column_names, dict):
        raise DataError(
            f"a data set of several splits ({', '.join(dataset.column_names)}): choose one, such as "
            f"data[{next(iter(dataset.column_names), 'train')!r}]"
        )
    dataset = dataset.with_format(None)
    columns = {name: list(dataset[name]) for name in dataset.column_names}
    declared = getattr(dataset.features.get(label_column), "names", None)
    if declared is None:
        return Table(columns, title), None
    ids = columns[label_column]
    columns[label_column] = [None if i is None or i < 0 else declared[i] for i in ids]
    return Table(columns, title), tuple(declared)


def _checked(table: Table, column: str, check: Callable[[Any], str]) -> tuple[str, ...]:
    values, faults = _check_column(table, column, check)
    _raise_first(table, faults)
    return tuple(values)


def _check_column(table: Table, name: str, check: Callable[[Any], str]) -> tuple[list[str], dict[int, str]]:
    """Checked cells, and the fault of each bad one by position, as "column 'NAME': ..."."""
    values, faults = [], dict[int, str]()
    for i, cell in enumerate(table.columns.get(name, [None] * len(table))):
        try:
            values.append(check(cell))
        except ValueError as error:
            values.append("")
            faults[i] = f"column '{name}': {error}"
    return values, faults


def _raise_first(table: Table, faults: dict[int, str]) -> None:
    if faults:
        i = min(faults)
        more = f" ({len(faults) - 1:,} more such rows)" if len(faults) > 1 else ""
        raise DataError(f"{table.source}, row {i + 1}, {faults[i]}{more}. Fix or remove the row.")


def _text(cell: Any) -> str:
    if _is_null(cell) or (isinstance(cell, str) and not cell.strip()):
        raise ValueError("empty text")
    if not isinstance(cell, str):
        raise ValueError(f"expected text, found {type(cell).__name__} {cell!r:.40}")
    if len(cell) > MAX_CHARACTERS:
        raise ValueError(f"a text of {len(cell):,} characters; at most {MAX_CHARACTERS:,} are allowed")
    return _utf8(cell)


def _utf8(text: str) -> str:
    if SURROGATE.search(text):
        raise ValueError("bytes that are not UTF-8")
    return text


def _is_null(cell: Any) -> bool:
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def _is_missing(cell: Any) -> bool:
    return cell.strip().lower() in ("", "nan") if isinstance(cell, str) else _is_null(cell)


def _label(cell: Any) -> str:
    if _is_missing(cell):
        raise ValueError("no label (empty or NaN)")
    if not isinstance(cell, (str, int, float)):
        raise ValueError(f"expected one label (a string or a whole number), found {type(cell).__name__}")
    name = _utf8(str(cell).strip())
    number = whole_number(name)
    if _FRACTION.fullmatch(number):
        raise ValueError(f"the label {name} has a fraction: a classifier needs whole numbers or names")
    return number


def _declared_label(cell: Any) -> str:
    if cell is None:
        raise ValueError("no label (empty or NaN)")
    return str(cell)


def _group(cell: Any) -> str:
    if _is_missing(cell):
        raise ValueError("no group")
    return whole_number(str(cell))


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
