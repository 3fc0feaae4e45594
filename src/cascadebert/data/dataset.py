"""Labeled or unlabeled examples from files and data sets, with every cell checked."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cascadebert.data.cells import check_group, check_texts, checked, raise_first, utf8
from cascadebert.data.columns import (
    USUAL_LABEL_COLUMN,
    Columns,
    find_column,
    find_label_column,
    find_text_columns,
    match_column,
)
from cascadebert.data.files import EXPECTED, is_input
from cascadebert.data.labels import is_missing_label, map_labels, match_names, near_matches, number, shorten
from cascadebert.data.memory import TableLike, memory_table
from cascadebert.data.readers import Layout, read_layout, read_rows
from cascadebert.data.table import Places, Table
from cascadebert.errors import DataError, extra
from cascadebert.types import Ints, Texts

if TYPE_CHECKING:
    import datasets

log = logging.getLogger("cascadebert")
DataSource: TypeAlias = "str | Path | datasets.Dataset | TableLike | Mapping[str, Any] | Examples"
Hashes = NDArray[np.uint64]
NUMBERS: tuple[type[Any], ...] = (Real, Decimal)  # with those of NumPy


@dataclass(frozen=True)
class Examples:
    """n checked examples; `source` and `label_column` name their origin in errors."""

    texts: Texts  # n texts, or n pairs of texts
    labels: tuple[str | None, ...] | None  # n labels as they are written, None where there is none
    groups: tuple[str, ...] | None = None  # n keys, equal for examples that must not be split apart
    source: str = "data"
    label_column: str = "label"
    label_order: tuple[str, ...] | None = None  # the names that the source declares, if it does
    places: Places | None = field(default=None, compare=False)  # of n rows, if they are not 1 to n

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: Ints) -> Examples:
        """The examples at these indices, in that order."""
        return replace(
            self,
            texts=[self.texts[i] for i in indices],
            labels=None if self.labels is None else tuple(self.labels[i] for i in indices),
            groups=None if self.groups is None else tuple(self.groups[i] for i in indices),
            places=self._places().take(indices),
        )

    def describe(self, index: int, fault: str) -> str:
        """An example's fault with its place, such as "a.csv, row 2: no tokens (line 3 of the file)"."""
        return self._places().describe(index, fault)

    def _places(self) -> Places:
        return self.places or Places.join([(self.source, range(1, len(self) + 1), None)])

    def match_labels(self, names: Sequence[str], *, ids: bool = True, required: bool = True) -> Examples:
        """These examples with the names that their labels have in existing stages (see `match_names`).

        If labels are not required and a row has none that can be used, all are left out, with a notice.

        Args:
            names: the names that labels may have.
            ids: labels may also be given as ids; false where the names are those of other data.
            required: every row needs a label.

        Raises:
            DataError: with the first row without label, or whose label has no name, if labels are required.
        """
        if self.labels is None:
            return self
        found, notices = match_names({label for label in self.labels if label is not None}, names, ids=ids)
        usable = sum(label in found for label in self.labels)
        if usable == len(self):
            for notice in notices:
                log.warning("%s: %s", self.source, notice)
            return replace(self, labels=tuple(found[label] for label in self.labels if label is not None))
        if required:
            advice = " Map the data's labels to these names with --label-map FILE." if ids else ""
            raise self.label_error(found, names, advice)
        unknown = self._unknown_labels(found)
        log.warning(
            "%s: %s of %s rows have a usable label; none is needed here, so labels are not used.%s",
            *(self.source, f"{usable:,}", f"{len(self):,}"),
            f" Unknown: {shorten(unknown)}; known: {shorten(names)}." if unknown else "",
        )
        return replace(self, labels=None)

    def label_ids(self, label_names: Sequence[str]) -> Ints:
        """(n,) positions of the labels in `label_names`.

        Raises DataError if there are no labels, or one is not among the names.
        """
        if self.labels is None:
            raise DataError(f"{self.source} has no labels. Name their column with --label-column.")
        ids: dict[str | None, int] = {name: i for i, name in enumerate(label_names)}
        if not ids.keys() >= set(self.labels):
            raise self.label_error(label_names, label_names)
        return np.array([ids[label] for label in self.labels], dtype=np.int64)

    def label_error(self, found: Collection[str], names: Sequence[str], advice: str = "") -> DataError:
        """The error of the first row whose label is missing or not among those found to have a name."""
        labels = self.labels or ()
        bad = [i for i, label in enumerate(labels) if label is None or label not in found]
        label, column = labels[bad[0]], f"column '{self.label_column}'"
        if is_missing_label(label):
            missing = sum(is_missing_label(labels[i]) for i in bad)
            more = f" ({missing - 1:,} more such rows)" if missing > 1 else ""
            reason = "empty or NaN" if label is None or number(label) is None else "-1 marks a missing one"
            fault = self.describe(bad[0], f"{column}: no label ({reason}){more}")
            return DataError(f"{fault}. Fix or remove the row.")
        return DataError(
            f"{self.describe(bad[0], f'{column}: unknown label {label!r:.60}')}. Known: {shorten(names)}."
            f"{near_matches(self._unknown_labels(found), names)}{advice}"
        )

    def _unknown_labels(self, found: Collection[str]) -> list[str]:
        """The labels that are neither missing nor among those found to have a name."""
        labels = {label for label in self.labels or () if label is not None and label not in found}
        return sorted(label for label in labels if not is_missing_label(label))

    def hashes(self, *, labels: bool = False) -> Hashes:
        """(n,) 64-bit fingerprints of the texts, with the labels if requested.

        Runs of white space count as one space.
        """
        rows = [(text,) if isinstance(text, str) else tuple(text) for text in self.texts]
        if labels and self.labels is not None:
            rows = [(*row, label or "") for row, label in zip(rows, self.labels, strict=True)]
        contents = ("\x1f".join(" ".join(part.split()) for part in row).encode() for row in rows)
        digests = b"".join(hashlib.blake2b(content, digest_size=8).digest() for content in contents)
        return np.frombuffer(digests, dtype="<u8").astype(np.uint64)

    def sha256(self) -> str:
        """Fingerprint of all texts and labels, in order."""
        digest = hashlib.sha256(self.hashes().tobytes())
        labels = (label or "" for label in self.labels or ())
        digest.update("\x1f".join(labels).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


def load_examples(
    source: DataSource,
    *,
    columns: Columns | None = None,
    labels: bool = True,
    groups: bool = True,
    split: str = "train",
) -> Examples:
    """Read and check examples from files, from memory, or from a data set of the Hugging Face Hub.

    Args:
        source: a file or folder (see docs/data.md); in memory a DataFrame of pandas or polars, a
            `datasets.Dataset`, a `pyarrow.Table`, or a dict of columns; or the name of a data set on the Hub:
            `owner/name`, `owner/name:config`, with `@split` at its end for another split than `split`.
        columns: names of the columns, where they are not the usual ones.
        labels: require a column of labels, which is judged by `match_labels` and `label_names` only.
        groups: require a named group column; otherwise groups are None where it is missing.
        split: default split of a data set from the Hub.

    Raises:
        DataError: with the file, row and column of the first bad cell.
    """
    if isinstance(source, Examples):
        return source
    columns, title = columns or Columns(), str(source) if isinstance(source, (str, Path)) else "data set"
    found: Any = _open(title, columns, split) if isinstance(source, (str, Path)) else source
    if not isinstance(found, (Layout, Table)):
        found = memory_table(found, title)
    roles = _find_roles(found, columns, labels=labels, groups=groups)
    table = found if isinstance(found, Table) else read_rows(found, roles.names)
    if len(table) == 0:
        raise DataError(f"{table.source} is empty: expected at least one row")
    return _examples(table, roles, columns.label_map or {}, labels_required=labels)


@dataclass(frozen=True)
class _Roles:
    """The columns of a table that are read."""

    text: tuple[str, ...]
    label: str | None
    group: str | None

    @property
    def names(self) -> list[str]:
        return [name for name in (*self.text, self.label, self.group) if name is not None]


def _find_roles(found: Layout | Table, columns: Columns, *, labels: bool, groups: bool) -> _Roles:
    """The columns by their roles. Raises DataError if one that is needed is missing."""
    available, source = (
        (found.names, found.name) if isinstance(found, Layout) else (found.columns, found.source)
    )
    if isinstance(found, Layout):
        text = found.find_text_columns(columns)  # also in each of its files
    else:
        text = find_text_columns(available, columns, source, found.repeated)
    label = find_label_column(available, columns, source, found.repeated, required=labels)
    if label is None and columns.label is not None:
        log.warning("%s has no column '%s'; no label is needed here.", source, columns.label)
    group = None
    if columns.group is not None and (groups or match_column(available, columns.group)):
        group = find_column(available, columns.group, source, "--group-column", found.repeated)
    return _Roles(text, label, group)


def _examples(
    table: Table, roles: _Roles, label_map: Mapping[str, str], *, labels_required: bool
) -> Examples:
    """The examples in a table; see `load_examples`."""
    texts, _, faults = check_texts(table, roles.text)
    raise_first(table, faults)
    found = order = keys = None
    if roles.label is not None:
        found = _map(_labels(table, roles.label, required=labels_required), label_map)
        order = table.declared.get(roles.label)
    if order is not None:
        order = tuple(dict.fromkeys(filter(None, _map(order, label_map))))
    if roles.group is not None:
        keys = checked(table, roles.group, check_group)
    label_column = roles.label or USUAL_LABEL_COLUMN
    return Examples(texts, found, keys, table.source, label_column, order, table.places)


def _labels(table: Table, column: str, *, required: bool) -> list[str | None]:
    """The labels in a column as they are written; None where there is none, or no label if not required."""
    labels: list[str | None] = []
    faults: dict[int, str] = {}
    for i, cell in enumerate(table.cells(column)):
        try:
            labels.append(_label(cell))
        except ValueError as error:
            labels.append(None)
            faults[i] = f"column '{column}': {error}"
    if required:
        raise_first(table, faults)
    names: dict[str | None, str | None] = {"-1": None}
    names |= {str(i): name for i, name in enumerate(table.declared.get(column, ()))}
    return [names.get(label, label) for label in labels] if column in table.declared else labels


def _label(cell: Any) -> str | None:
    """The label in a cell as it is written, a whole number by its digits; None if the cell is empty.

    Raises ValueError if it is neither text nor a number.
    """
    if cell is None:
        return None
    if isinstance(cell, str):
        return utf8(str(cell)) if cell.strip() else None
    if isinstance(cell, (bool, np.bool_)):
        return str(cell)
    if not isinstance(cell, NUMBERS):
        raise ValueError(f"expected one label (a string or a number), found {type(cell).__name__}")
    if math.isnan(cell):
        return None
    if math.isfinite(cell) and cell == int(cell):
        return str(int(cell))
    return str(cell if isinstance(cell, Decimal) else float(cell))


def _map(labels: Sequence[str | None], label_map: Mapping[str, str]) -> tuple[str | None, ...]:
    names = map_labels({label for label in labels if label is not None}, label_map)
    return tuple(None if label is None else names[label] for label in labels)


def _open(name: str, columns: Columns, split: str) -> Layout | datasets.Dataset:
    """A file, or the split of a folder of files or of a data set by name."""
    if is_input(name):
        return read_layout(Path(name), columns, split=split, keep=True)
    return _load_hub(name, split)


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
            f"{name}: neither {EXPECTED} nor a data set that can be loaded ({type(error).__name__}: {error})"
        ) from error
