"""Small files of every form, and what the readers say of them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from cascadebert.data.columns import Columns
from cascadebert.data.readers import read_chunks, read_layout

ROWS = {"text": ["one", "two"], "label": ["yes", "no"]}
CSV = "text,label\none,yes\ntwo,no\n"


def put(folder: Path, name: str, content: str | bytes) -> Path:
    """A file with these bytes."""
    path = folder / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def faults(path: Path, columns: Columns | None = None) -> list[tuple[int, int | None]]:
    """Row and line of each bad row."""
    chunks = read_chunks(read_layout(path, columns))
    return [(fault.row, fault.line) for chunk in chunks for fault in chunk.bad]


def zstd(content: bytes) -> bytes:
    """The bytes, compressed."""
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as target:
        target.write(content)
    return sink.getvalue().to_pybytes()
