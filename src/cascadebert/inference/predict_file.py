"""Classifies every row of a file of any size with memory for one chunk; resumes after an interruption."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from cascadebert.atomic import WORK_MARKER, work_directory, write_text_atomically
from cascadebert.data.cells import check_texts
from cascadebert.data.columns import Columns, find_text_columns, or_remembered
from cascadebert.data.files import count_parquet_rows, read_chunks
from cascadebert.data.table import Chunk, Table
from cascadebert.data.writers import ensure_writable_file, join_parts, write_table
from cascadebert.errors import CascadeError, DataError
from cascadebert.inference.batch_size import with_tuned_batch_sizes
from cascadebert.inference.cascade import Cascade
from cascadebert.progress import progress_bar

ADDED_COLUMNS = ("label", "confidence", "stage")
CHUNK_ROWS = 16_384
MEASURE_FROM_ROWS = 10_000  # files from this size on are worth the time to measure batch sizes
JOB_FILE = "job.json"
REPORT_VERSION = 2  # of the form of a chunk's report


@dataclass(frozen=True)
class FilePredictions:
    """Summary of the predictions for a file."""

    exit_counts: tuple[int, ...]  # (num_stages,) rows that exited at each stage
    rejected: int  # rows that could not be classified
    truncated: int  # classified rows of which the stage read a part only

    @property
    def n(self) -> int:
        """Rows that were classified."""
        return sum(self.exit_counts)

    @property
    def exit_rates(self) -> tuple[float, ...]:
        """(num_stages,) fraction of the classified rows that exited at each stage."""
        return tuple(count / max(1, self.n) for count in self.exit_counts)


def predict_file(
    cascade: Cascade,
    source: Path,
    output: Path,
    *,
    columns: Columns | None = None,
    rejects: Path | None = None,
    overwrite: bool = False,
) -> FilePredictions:
    """Write the rows of a file with the cascade's `label`, `confidence` and `stage` added.

    `source` is a csv, tsv, jsonl or parquet file or a folder of parquet files. Chunks of 16,384 rows are
    stored in `OUTPUT.work` and concatenated at the end; an interrupted run resumes after the last stored
    chunk and writes the same output. An input column of an added name is written as `input_label` and so on.
    `rejects` receives number and reason of each row that cannot be classified (a text that is absent, empty,
    too long or not UTF-8, a malformed line). Raises DataError with row and column of the first such row if
    `rejects` is not given, and CascadeError if `OUTPUT.work` is unfinished work of another run.
    """
    for file in (output, rejects):
        if file is not None:
            ensure_writable_file(file, overwrite=overwrite)
    if rejects is not None and rejects.absolute() == output.absolute():
        raise DataError(f"{output}: predictions and rejects need two files. Give --rejects another name.")
    chunks = read_chunks(source, rows=CHUNK_ROWS)
    first = next(chunks, None)
    if first is None:
        raise DataError(f"{source.name} is empty: expected a header and rows")
    if not first.numbers:
        number, reason = first.bad[0]
        raise DataError(f"{first.table.source}, row {number}: {reason}. None of the first rows can be read.")
    names = list(first.table.columns)
    columns = or_remembered(columns, cascade.remembered_columns)
    text_columns = find_text_columns(names, columns, first.table.source, first.table.repeated)
    output_names = {name: _output_name(name, names) for name in names}
    layout = _Layout(text_columns, output_names, output.suffix.lower())
    work, total = work_directory(output), _count_rows(source)
    job = _fingerprint(cascade, source, layout)
    cascade = _begin_or_resume(cascade, work, job, measure=total >= MEASURE_FROM_ROWS)
    try:
        _predict_chunks(cascade, chain([first], chunks), layout, work, strict=rejects is None, total=total)
    except DataError:
        if not _reports(work):
            shutil.rmtree(work)
        raise
    return _finish(layout, work, output, rejects)


@dataclass(frozen=True)
class _Layout:
    """Columns that are read and written."""

    text_columns: tuple[str, ...]
    output_names: dict[str, str]  # by name in the input
    suffix: str  # of the output

    def output_table(self, chunk: Chunk, valid: Sequence[int], added: Mapping[str, list[Any]]) -> Table:
        """The valid rows of a chunk. Raises DataError if they have a new column and the format needs all."""
        table, names = chunk.table, dict(self.output_names)
        for name in table.columns:
            if name not in names and self.suffix != ".jsonl":
                raise DataError(
                    f"{table.source}: the column '{name}' first appears after row {chunk.numbers[0] - 1:,}, "
                    f"too late for {self.suffix}. Write jsonl."
                )
            names.setdefault(name, _output_name(name, table.columns))
        absent = [None] * len(table)
        cells = {output: table.columns.get(name, absent) for name, output in names.items()}
        columns = {name: [column[i] for i in valid] for name, column in cells.items()}
        types = {names[name]: arrow_type for name, arrow_type in table.types.items()}
        return Table({**columns, **added}, table.source, types)


def _output_name(name: str, columns: Collection[str]) -> str:
    """An input column's name in the output; prefixed until it is neither an added nor another column."""
    output = name
    while output in ADDED_COLUMNS or (output != name and output in columns):
        output = f"input_{output}"
    return output


def _fingerprint(cascade: Cascade, source: Path, layout: _Layout) -> str:
    # equal for runs that write the same output
    files = sorted(source.glob("*.parquet")) if source.is_dir() else [source]
    inputs = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    stages = None if cascade.spec is None else [(s.sha256, s.temperature) for s in cascade.spec.stages]
    engines = [(stage.engine.name, stage.engine.precision) for stage in cascade.stages]
    thresholds = cascade.operating_point.thresholds
    parts = [
        REPORT_VERSION,
        inputs,
        stages,
        engines,
        thresholds,
        layout.text_columns,
        layout.suffix,
        CHUNK_ROWS,
    ]
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()


def _begin_or_resume(cascade: Cascade, work: Path, job: str, *, measure: bool) -> Cascade:
    # a resumed run keeps the batch sizes that it began with
    file = work / JOB_FILE
    if all(path.name == WORK_MARKER for path in work.iterdir()):
        sizes = [stage.batch_tokens for stage in with_tuned_batch_sizes(cascade, measure=measure).stages]
        write_text_atomically(file, json.dumps({"job": job, "batch_tokens": sizes}))
    state = _read(file) if file.is_file() else {}
    if state.get("job") != job:
        raise CascadeError(
            f"{work} is unfinished work of another run (its input, cascade, options or version of "
            "cascadebert were others). "
            "Remove it to start afresh, or choose another --output."
        )
    stages = zip(cascade.stages, state["batch_tokens"], strict=True)
    return replace(cascade, stages=tuple(replace(stage, batch_tokens=size) for stage, size in stages))


def _predict_chunks(
    cascade: Cascade, chunks: Iterable[Chunk], layout: _Layout, work: Path, *, strict: bool, total: int
) -> None:
    done, exits = 0, np.zeros(len(cascade.stages), dtype=np.int64)
    with progress_bar("predicting", total, "rows") as show:
        for number, chunk in enumerate(chunks):
            report = work / f"{number:08d}.json"
            if not report.is_file():
                _predict_chunk(cascade, chunk, layout, report, strict)
            done += len(chunk.numbers) + len(chunk.bad)
            exits += _read(report)["exits"]
            rates = " / ".join(f"{100 * rate:.0f} %" for rate in exits / max(1, exits.sum()))
            show(min(done, total), f"exits by stage: {rates}")


def _predict_chunk(cascade: Cascade, chunk: Chunk, layout: _Layout, report: Path, strict: bool) -> None:
    # the report is written last: a chunk that has one is complete
    source = chunk.table.source
    texts, valid, invalid = check_texts(chunk.table, layout.text_columns)
    empty = set(cascade.without_tokens(texts))
    invalid |= {valid[i]: "no tokens in its text" for i in empty}
    kept = [i for i in range(len(valid)) if i not in empty]
    good: list[Any] = [texts[i] for i in kept]
    valid = [valid[i] for i in kept]
    rejects = sorted([*chunk.bad, *((chunk.numbers[index], reason) for index, reason in invalid.items())])
    if rejects and strict:
        number, reason = rejects[0]
        raise DataError(
            f"{source}, row {number}, {reason}. Fix or remove the row, or write such rows to a file of their "
            "own with --rejects FILE."
        )
    predictions = cascade.predict(good)
    if valid:
        cells = predictions.labels, np.round(predictions.confidences, 6), predictions.stages
        added = {name: column.tolist() for name, column in zip(ADDED_COLUMNS, cells, strict=True)}
        write_table(layout.output_table(chunk, valid, added), report.with_suffix(layout.suffix))
    counts = {
        "exits": np.bincount(predictions.stages - 1, minlength=len(cascade.stages)).tolist(),
        "truncated": int(predictions.truncated.sum()),
    }
    rejected = [[source, number, reason] for number, reason in rejects]
    write_text_atomically(report, json.dumps(counts | {"rejects": rejected}))


def _finish(layout: _Layout, work: Path, output: Path, rejects: Path | None) -> FilePredictions:
    """Concatenate the chunks and their rejects, and remove the work directory."""
    files = _reports(work)
    reports = [_read(file) for file in files]
    parts = [part for file in files if (part := file.with_suffix(layout.suffix)).is_file()]
    names = [*layout.output_names.values(), *ADDED_COLUMNS]
    if parts:
        join_parts(parts, output, columns=names)
    else:
        write_table(Table({name: [] for name in names}, output.name), output)
    rejected = [row for report in reports for row in report["rejects"]]
    if rejects is not None:
        columns = {name: [row[i] for row in rejected] for i, name in enumerate(("file", "row", "reason"))}
        write_table(Table(columns, rejects.name), rejects)
    shutil.rmtree(work)
    exits = np.sum([report["exits"] for report in reports], axis=0)
    truncated = sum(report["truncated"] for report in reports)
    return FilePredictions(tuple(exits.tolist()), len(rejected), truncated)


def _reports(work: Path) -> list[Path]:
    return sorted(work.glob("[0-9]*.json"))


def _count_rows(source: Path) -> int:
    """Rows of a file: exact for parquet; lines for text formats, of which a quoted cell may hold several."""
    files = sorted(source.glob("*.parquet")) if source.is_dir() else [source]
    if files[0].suffix.lower() == ".parquet":
        return count_parquet_rows(files)
    with source.open("rb") as raw:
        return max(1, sum(block.count(b"\n") for block in iter(lambda: raw.read(1 << 20), b"")))


def _read(file: Path) -> Any:
    return json.loads(file.read_text("utf-8"))
