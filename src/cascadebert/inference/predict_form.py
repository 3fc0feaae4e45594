"""The columns that `predict_file` reads and writes, settled over all files of the input."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cascadebert.data.arrow_cells import take_rows
from cascadebert.data.column_types import check_holds, unify_types
from cascadebert.data.columns import Columns
from cascadebert.data.csv_files import CsvLayout
from cascadebert.data.readers import Layout
from cascadebert.data.table import MISSING, Chunk, ColumnType, Table
from cascadebert.errors import DataError

ADDED_COLUMNS: Mapping[str, ColumnType] = {"label": "string", "confidence": "number", "stage": "integer"}


@dataclass(frozen=True)
class OutputForm:
    """Columns that are read and written, settled over all files of the input."""

    text_columns: tuple[str, ...]
    names: dict[str, str]  # in the output, by name in the input
    types: dict[str, ColumnType]  # by name in the output, with the added columns
    suffix: str
    compression: str  # of the output
    delimiters: tuple[str, ...]  # of the files of csv that are read

    def table(self, chunk: Chunk, valid: Sequence[int], added: Mapping[str, list[Any]]) -> Table:
        """The valid rows of a chunk with the added columns."""
        columns: dict[str, Any] = {}
        for name, output_name in self.names.items():
            cells = chunk.table.columns.get(name, [MISSING] * len(chunk.table))
            if len(valid) < len(chunk.table):
                cells = [cells[i] for i in valid] if isinstance(cells, list) else take_rows(cells, valid)
            columns[output_name] = cells
        return Table({**columns, **added}, chunk.table.source)


def output_form(layout: Layout, columns: Columns, suffix: str, compression: str) -> OutputForm:
    """The columns of an input and of an output of a format.

    Raises DataError if the input has no texts, or the format cannot hold a column.
    """
    text_columns = layout.find_text_columns(columns)
    names = {name: output_name(name, layout.names) for name in layout.names}
    types = dict[str, ColumnType]()
    for file in layout.files:
        check_holds({names[name]: kind for name, kind in file.types.items()}, suffix, file.file.name)
        for name, kind in file.types.items():
            common = unify_types(types.get(names[name], kind), kind)
            if common is None and suffix == ".parquet":
                raise DataError(
                    f"{file.file.name}: the column '{name}' has the type {kind} here and "
                    f"{types[names[name]]} in another file, which no type of parquet unites. Write jsonl."
                )
            types[names[name]] = common or "json"
    found = {file.form.delimiter for file in layout.files if isinstance(file.form, CsvLayout)}
    delimiters = tuple(sorted(found))
    return OutputForm(text_columns, names, {**types, **ADDED_COLUMNS}, suffix, compression, delimiters)


def output_name(name: str, columns: Collection[str], added: Collection[str] = tuple(ADDED_COLUMNS)) -> str:
    """An input column's name in the output; prefixed until it is neither an added nor another column."""
    output = name
    while output in added or (output != name and output in columns):
        output = f"input_{output}"
    return output
