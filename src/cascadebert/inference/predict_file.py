"""Answer every row of a file of any size, in order, with memory for one chunk; a kill loses one chunk."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from cascadebert.atomic import WORK_MARKER, work_directory
from cascadebert.data.columns import Columns, find_text_columns
from cascadebert.data.dataset import check_texts
from cascadebert.data.readers import Chunk, Table, count_parquet_rows, read_chunks
from cascadebert.data.writers import ensure_writable_file, join_parts, write_table
from cascadebert.errors import CascadeError, DataError
from cascadebert.inference.batch_size import with_tuned_batch_sizes
from cascadebert.inference.cascade import Cascade
from cascadebert.progress import progress_bar

ADDED = ("label", "confidence", "stage")
CHUNK_ROWS = 16_384
MANY_ROWS = 10_000
SIZES = "batch-tokens.json"


@dataclass(frozen=True)
class FilePredictions:
    """What became of a file.

    Attributes:
        n: rows answered.
        exit_counts: (num_stages,) rows answered at each stage.
        bad: rows that could not be answered.
    """

    n: int
    exit_counts: tuple[int, ...]
    bad: int

    @property
    def exit_rates(self) -> tuple[float, ...]:
        """(num_stages,) share of the answered rows that left at each stage."""
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

    Chunks of 16,384 rows are answered one after the other; each is stored in `OUTPUT.work` when it is done,
    and all are laid end to end at the end. Killed and called again, it goes on behind the last stored chunk
    and writes the same output. A column of the input that has one of the added names is kept as
    `input_label` and so on.

    Args:
        cascade: what answers.
        source: csv, tsv, jsonl or parquet, or a folder of parquet files.
        output: csv, tsv, jsonl or parquet.
        columns: names of the text columns, where not the usual ones.
        rejects: a file for the number and fault of each row that cannot be answered (a text that is
            absent, empty, too long or not UTF-8, a broken line); without it the first one ends the run.
        overwrite: replace existing outputs.

    Raises:
        DataError: naming row and column of the first bad cell, where `rejects` is not given.
        CascadeError: if `OUTPUT.work` is half-finished work of another run.
    """
    for file in (output, rejects):
        if file is not None:
            ensure_writable_file(file, overwrite=overwrite)
    if rejects is not None and rejects.absolute() == output.absolute():
        raise DataError(f"{output}: answers and bad rows need two files. Give --rejects another name.")
    chunks = read_chunks(source, rows=CHUNK_ROWS)
    first = next(chunks, None)
    if first is None:
        raise DataError(f"{source.name} is empty: expected a header and rows")
    plan = _FilePlan.make(first, columns or Columns(), output.suffix.lower())
    work, total = work_directory(output), _count(source)
    _claim(work, _job(cascade, source, plan))
    cascade = _sized(cascade, work, measure=total >= MANY_ROWS)
    try:
        _answer(cascade, chain([first], chunks), plan, work, stop=rejects is None, total=total)
    except DataError:
        if not _reports(work):
            shutil.rmtree(work)
        raise
    return _finish(cascade, plan, work, output, rejects)


@dataclass(frozen=True)
class _FilePlan:
    """What is read and what is written.

    Attributes:
        texts: the text columns.
        kept: columns of the input and their names in the output.
        ending: of the output.
    """

    texts: tuple[str, ...]
    kept: dict[str, str]
    ending: str

    @classmethod
    def make(cls, first: Chunk, columns: Columns, ending: str) -> _FilePlan:
        """From the first rows.

        Raises:
            DataError: if a text column is missing, or none of them is well-formed.
        """
        source, found = first.table.source, list(first.table.columns)
        if not first.numbers:
            number, fault = first.bad[0]
            raise DataError(f"{source}, row {number}: {fault}. None of the first rows can be read.")
        kept = {name: _free_name(name, found) for name in found}
        return cls(find_text_columns(found, columns, source), kept, ending)

    def table(self, chunk: Chunk, good: Sequence[int], added: Mapping[str, list[Any]]) -> Table:
        """The output rows of a chunk.

        Raises:
            DataError: if the chunk has a column that the first one had not, and the format needs them all.
        """
        names = dict(self.kept)
        for name in chunk.table.columns:
            if name not in names and self.ending != ".jsonl":
                raise DataError(
                    f"{chunk.table.source}: the column '{name}' first appears behind row "
                    f"{chunk.numbers[0] - 1:,}, too late for {self.ending}. Write jsonl."
                )
            names.setdefault(name, _free_name(name, list(chunk.table.columns)))
        absent = [None] * len(chunk.table)
        cells = {name: chunk.table.columns.get(name, absent) for name in names}
        columns = {names[name]: [column[i] for i in good] for name, column in cells.items()}
        types = {names[name]: kind for name, kind in chunk.table.types.items() if name in names}
        return Table({**columns, **added}, chunk.table.source, types)


def _job(cascade: Cascade, source: Path, plan: _FilePlan) -> dict[str, Any]:
    """What makes two runs the same."""
    files = sorted(source.glob("*.parquet")) if source.is_dir() else [source]
    spec = None if cascade.spec is None else [(s.sha256, s.temperature) for s in cascade.spec.stages]
    engines = [(stage.engine.name, stage.engine.precision) for stage in cascade.stages]
    answers = [spec, engines, cascade.operating_point.thresholds, plan.texts, plan.ending, CHUNK_ROWS]
    return {
        "files": [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files],
        "answers": hashlib.sha256(json.dumps(answers, default=str).encode()).hexdigest(),
    }


def _claim(work: Path, job: dict[str, Any]) -> None:
    """Refuse half-finished work of another run."""
    file = work / "job.json"
    if file.is_file() and _read(file) == job:
        return
    if [path for path in work.iterdir() if path.name != WORK_MARKER]:
        raise CascadeError(
            f"{work} is half-finished work of another run (its input, cascade or options were others). "
            "Remove it to start afresh, or choose another --output."
        )
    _write(file, job)


def _sized(cascade: Cascade, work: Path, *, measure: bool) -> Cascade:
    """The cascade with the batch sizes of this run: a run that goes on keeps those it began with."""
    file = work / SIZES
    if not file.is_file():
        cascade = with_tuned_batch_sizes(cascade, measure=measure)
        _write(file, {"batch_tokens": [stage.batch_tokens for stage in cascade.stages]})
    sizes = _read(file)["batch_tokens"]
    stages = [replace(stage, batch_tokens=n) for stage, n in zip(cascade.stages, sizes, strict=True)]
    return replace(cascade, stages=tuple(stages))


def _answer(
    cascade: Cascade, chunks: Iterable[Chunk], plan: _FilePlan, work: Path, *, stop: bool, total: int
) -> None:
    """Answer each chunk that has no report yet; a report is written when its rows are."""
    done, exits = 0, np.zeros(len(cascade.stages), dtype=np.int64)
    with progress_bar("answering", total, "rows") as show:
        for number, chunk in enumerate(chunks):
            report = work / f"{number:08d}.json"
            if not report.is_file():
                _answer_one(cascade, chunk, plan, report, stop)
            done += len(chunk.numbers) + len(chunk.bad)
            exits += _read(report)["exits"]
            rates = " / ".join(f"{100 * rate:.0f} %" for rate in exits / max(1, exits.sum()))
            show(min(done, total), f"answered by stage: {rates}")


def _answer_one(cascade: Cascade, chunk: Chunk, plan: _FilePlan, report: Path, stop: bool) -> None:
    source = chunk.table.source
    texts, good, unfit = check_texts(chunk.table, plan.texts)
    bad = sorted([*chunk.bad, *((chunk.numbers[place], fault) for place, fault in unfit)])
    if bad and stop:
        number, fault = bad[0]
        raise DataError(
            f"{source}, row {number}, {fault}. Mend or remove the row, or set such rows aside with "
            "--rejects FILE."
        )
    answers = cascade.predict(texts)
    if good:
        added = {
            "label": answers.labels.tolist(),
            "confidence": np.round(answers.confidences, 6).tolist(),
            "stage": answers.stages.tolist(),
        }
        write_table(plan.table(chunk, good, added), report.with_suffix(plan.ending))
    exits = np.bincount(answers.stages - 1, minlength=len(cascade.stages)).tolist()
    _write(report, {"exits": exits, "bad": [[source, number, fault] for number, fault in bad]})


def _finish(
    cascade: Cascade, plan: _FilePlan, work: Path, output: Path, rejects: Path | None
) -> FilePredictions:
    """Lay the parts end to end, and the faults beside them; the work goes."""
    reports = [_read(file) for file in _reports(work)]
    parts = [part for file in _reports(work) if (part := file.with_suffix(plan.ending)).is_file()]
    names = [*plan.kept.values(), *ADDED]
    if parts:
        join_parts(parts, output, columns=names)
    else:
        write_table(Table({name: [] for name in names}, output.name), output)
    faults = [fault for report in reports for fault in report["bad"]]
    if rejects is not None:
        cells = {name: [fault[i] for fault in faults] for i, name in enumerate(("file", "row", "reason"))}
        write_table(Table(cells, rejects.name), rejects)
    shutil.rmtree(work)
    exits = np.sum([report["exits"] for report in reports], axis=0)
    return FilePredictions(int(exits.sum()), tuple(int(count) for count in exits), len(faults))


def _reports(work: Path) -> list[Path]:
    return sorted(file for file in work.glob("*.json") if file.name not in ("job.json", SIZES))


def _count(source: Path) -> int:
    """Rows to come: exact for parquet; for text its lines, of which a quoted cell may hold several."""
    files = sorted(source.glob("*.parquet")) if source.is_dir() else [source]
    if files[0].suffix.lower() == ".parquet":
        return count_parquet_rows(files)
    with source.open("rb") as raw:
        lines = sum(block.count(b"\n") for block in iter(lambda: raw.read(1 << 20), b""))
    return max(1, lines)


def _free_name(name: str, found: Sequence[str]) -> str:
    """The name of an input column in the output, out of the way of what is added."""
    if name not in ADDED:
        return name
    name = f"input_{name}"
    while name in found:
        name = f"input_{name}"
    return name


def _read(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return content


def _write(file: Path, content: dict[str, Any]) -> None:
    part = file.with_suffix(".part")
    part.write_text(json.dumps(content), "utf-8")
    part.replace(file)
