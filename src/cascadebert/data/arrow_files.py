"""Parquet files and the Arrow files of `datasets`: columns as Arrow arrays, with their types."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cascadebert.data.files import DataFile
from cascadebert.data.labels import declared_names
from cascadebert.data.table import Chunk, ColumnType, Table, repeated_names, unique_names
from cascadebert.errors import DataError, extra, reason

if TYPE_CHECKING:
    import pyarrow


_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"  # of Arrow's stream form


@dataclass(frozen=True)
class ArrowLayout:
    """The columns of a parquet or Arrow file, from its schema."""

    types: Mapping[str, ColumnType]  # by name; a repeated one gets a number
    repeated: frozenset[str]
    declared: Mapping[str, tuple[str, ...]]  # names of labels given as ids
    rows: int


def read_arrow_layout(file: DataFile) -> ArrowLayout:
    """Read the schema of a file. Raises DataError if it is damaged."""
    with _damage_reported(file):
        if file.format == "parquet":
            with _open_parquet(file) as source:
                return _layout(source.schema_arrow, source.metadata.num_rows)
        schema, batches = _ipc_batches(file)
        return _layout(schema, sum(batch.num_rows for batch in batches))


def _layout(schema: pyarrow.Schema, rows: int) -> ArrowLayout:
    types = dict(zip(unique_names(schema.names), schema.types, strict=True))
    return ArrowLayout(types, repeated_names(schema.names), declared_names(schema.metadata), rows)


def read_arrow(
    file: DataFile, layout: ArrowLayout, *, rows: int, needed: Collection[str] | None = None
) -> Iterator[Chunk]:
    """Read all columns, or those needed, in chunks of `rows` rows. Raises DataError for a damaged file."""
    names = list(layout.types)
    wanted = [i for i, name in enumerate(names) if needed is None or name in needed]
    first = 1
    with _damage_reported(file):
        for part in _sized(_batches(file, layout, wanted, rows), rows):
            columns = {names[i]: part.column(place) for place, i in enumerate(wanted)}
            table = Table(columns, file.name, layout.repeated, layout.declared)
            yield Chunk(table, list(range(first, first + part.num_rows)), [])
            first += part.num_rows


def _batches(
    file: DataFile, layout: ArrowLayout, wanted: list[int], rows: int
) -> Iterator[pyarrow.RecordBatch]:
    if file.format == "arrow":
        yield from (_validated(batch.select(wanted)) for batch in _ipc_batches(file)[1])
        return
    names = list(layout.types)
    # by name, pyarrow would read every column of a repeated name, and a dot means a field of a struct
    select = len(wanted) < len(names) and not layout.repeated and not any("." in name for name in names)
    with _open_parquet(file) as source:
        for batch in source.iter_batches(rows, columns=[names[i] for i in wanted] if select else None):
            yield batch if select else batch.select(wanted)


def _open_parquet(file: DataFile) -> pyarrow.parquet.ParquetFile:
    import pyarrow.parquet

    return pyarrow.parquet.ParquetFile(file.path if file.url is None else file.open())


def _validated(batch: pyarrow.RecordBatch) -> pyarrow.RecordBatch:
    """The batch. Raises ArrowInvalid if it points outside of its memory, as in a damaged file."""
    import pyarrow

    for column in batch.columns:
        try:
            column.validate(full=True)
        except pyarrow.ArrowInvalid as error:
            if "UTF8" not in str(error):  # such texts are bad rows only
                raise
    return batch


def _ipc_batches(file: DataFile) -> tuple[pyarrow.Schema, Iterable[pyarrow.RecordBatch]]:
    """Schema and batches of an Arrow file in the stream form, which `datasets` writes, or the file form."""
    import pyarrow

    memory = pyarrow.memory_map(str(file.path)) if file.url is None else pyarrow.PythonFile(file.open())
    try:
        stream = pyarrow.ipc.open_stream(memory)
        place = memory.tell()
        if memory.size() and not memory.read_at(8, memory.size() - 8).endswith(_END_OF_STREAM):
            raise OSError("it breaks off before its end")
        memory.seek(place)  # a file at a URL is where it was read last
        return stream.schema, stream
    except pyarrow.ArrowInvalid:
        memory.seek(0)
        source = pyarrow.ipc.open_file(memory)
        return source.schema, (source.get_batch(i) for i in range(source.num_record_batches))


def _sized(batches: Iterable[pyarrow.RecordBatch], rows: int) -> Iterator[pyarrow.Table]:
    """The same rows in tables of `rows` rows, the last of which may be shorter."""
    import pyarrow

    pending: list[pyarrow.RecordBatch] = []
    for batch in batches:
        pending.append(batch)
        while sum(part.num_rows for part in pending) >= rows:
            table = pyarrow.Table.from_batches(pending)
            yield table.slice(0, rows)
            pending = table.slice(rows).to_batches()
    if any(part.num_rows for part in pending):
        yield pyarrow.Table.from_batches(pending)


@contextmanager
def _damage_reported(file: DataFile) -> Iterator[None]:
    with extra("tune"):
        import pyarrow
    try:
        yield
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        kind = "parquet" if file.format == "parquet" else "Arrow"
        raise DataError(f"{file.name}: not a readable {kind} file ({reason(error)})") from error
