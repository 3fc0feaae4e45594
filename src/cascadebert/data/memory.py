"""Data in memory as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cascadebert.data.table import Table
from cascadebert.errors import DataError

if TYPE_CHECKING:
    import datasets


def dataset_table(
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
