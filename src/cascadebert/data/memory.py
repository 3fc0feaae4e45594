"""Data in memory as a table: pandas, polars, datasets, Arrow, or a dict of columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from cascadebert.data.cells import as_list
from cascadebert.data.labels import declared_names, shorten
from cascadebert.data.table import Table, repeated_names, unique_names
from cascadebert.errors import DataError

_EXPECTED = (
    "a file, a data set of the Hub, a DataFrame of pandas or polars, a datasets.Dataset, a pyarrow.Table, or "
    "a dict of columns"
)


class TableLike(Protocol):
    """A DataFrame of pandas or polars, an Arrow table and the like."""

    @property
    def columns(self) -> Any:
        """Names of the columns, or the columns."""
        ...

    def __len__(self) -> int:
        """Number of rows."""
        ...


@dataclass(frozen=True)
class MemoryColumn:
    """A column that is converted to Python values when these are needed."""

    values: Any

    def __len__(self) -> int:
        return len(self.values)

    def to_pylist(self) -> list[Any]:
        """The cells, NumPy's scalars as Python's; None where a value is missing."""
        return [None if _is_missing(cell) else _plain(cell) for cell in as_list(self.values)]


def _plain(cell: Any) -> Any:
    return cell.item() if isinstance(cell, np.generic) else cell


def _is_missing(cell: Any) -> bool:
    """True for None, and for values that do not equal themselves: NaN, and pandas' NA and NaT."""
    try:
        return cell is None or bool(cell != cell)
    except TypeError:  # pandas.NA has no truth value
        return True
    except ValueError:  # nor has an array
        return False


def memory_table(data: Any, title: str) -> Table:
    """A table of a library's table or data set, or of a dict of columns; `title` names it in errors.

    Names of columns become strings; a second column of a name is kept as `name.1`. Raises DataError if `data`
    is something else, has several splits, or columns of different lengths.
    """
    pairs = list(_columns(data))
    names = [str(name) for name, _ in pairs]
    found = zip(unique_names(names), pairs, strict=True)
    columns = {name: MemoryColumn(values) for name, (_, values) in found}
    if len(sizes := {len(column): name for name, column in columns.items()}) > 1:
        each = shorten([f"{name!r} has {size:,}" for size, name in sizes.items()], most=4)
        raise DataError(f"{title}: columns with different numbers of rows: {each}")
    return Table(columns, title, repeated_names(names), _declared(data))


def _declared(data: Any) -> dict[str, tuple[str, ...]]:
    """Names of labels that are given as ids, by column: ClassLabel of `datasets`, also in an Arrow schema."""
    features = getattr(data, "features", None)  # of a DataFrame it may be a column
    if isinstance(features, dict):
        names = {column: getattr(feature, "names", None) for column, feature in features.items()}
        return {column: tuple(given) for column, given in names.items() if given}
    return dict(declared_names(getattr(getattr(data, "schema", None), "metadata", None)))


def _columns(data: Any) -> Iterable[tuple[Any, Any]]:
    """Name and values of each column; no library is imported, its tables are known by their methods."""
    if isinstance(getattr(data, "column_names", None), dict):
        splits = shorten(list(data.column_names))
        raise DataError(
            f"a data set of several splits ({splits}): choose one, such as data[{next(iter(data))!r}]"
        )
    if hasattr(data, "iloc") and hasattr(data, "columns"):  # pandas
        return [(name, data.iloc[:, i]) for i, name in enumerate(data.columns)]
    if hasattr(data, "get_columns"):  # polars
        return [(column.name, column) for column in data.get_columns()]
    if hasattr(data, "with_format") and hasattr(data, "__len__"):  # datasets
        data = data.with_format(None)
        return [(name, data[name]) for name in data.column_names]
    if hasattr(data, "column_names") and hasattr(data, "itercolumns"):  # Arrow
        return zip(data.column_names, data.itercolumns(), strict=True)
    if isinstance(data, Mapping) and all(map(_is_column, data.values())):
        return data.items()
    raise DataError(f"expected {_EXPECTED}; got {type(data).__name__} {data!r:.40}")


def _is_column(values: Any) -> bool:
    return hasattr(values, "__len__") and not isinstance(values, (str, bytes, Mapping, set))
