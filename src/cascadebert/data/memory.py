"""Data in memory as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cascadebert.data.table import Table
from cascadebert.errors import DataError

if TYPE_CHECKING:
    import datasets


def dataset_table(dataset: datasets.Dataset, title: str) -> Table:
    """A data set as a table."""
    if isinstance(dataset.column_names, dict):
        raise DataError(
            f"a data set of several splits ({', '.join(dataset.column_names)}): choose one, such as "
            f"data[{next(iter(dataset.column_names), 'train')!r}]"
        )
    dataset = dataset.with_format(None)
    columns = {name: list(dataset[name]) for name in dataset.column_names}
    names = {name: getattr(feature, "names", None) for name, feature in dataset.features.items()}
    return Table(columns, title, declared={name: tuple(given) for name, given in names.items() if given})
