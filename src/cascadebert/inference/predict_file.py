"""Classifies every row of an input of any size with memory for one chunk; resumes after an interruption."""

from __future__ import annotations

import codecs
import gc
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from cascadebert.atomic import is_device, work_directory_path
from cascadebert.data.arrow_cells import take_rows
from cascadebert.data.cells import check_texts
from cascadebert.data.column_types import check_holds, unify_types
from cascadebert.data.columns import Columns, or_remembered
from cascadebert.data.csv_files import CsvLayout
from cascadebert.data.readers import CHUNK_ROWS, Layout, read_chunks, read_layout
from cascadebert.data.table import MISSING, Chunk, ColumnType, Fault, Table, describe_fault
from cascadebert.data.writers import OUTPUT_FORMATS, join_parts, output_format, write_table
from cascadebert.errors import DataError, explain_full_disk
from cascadebert.inference.batch_size import with_tuned_batch_sizes
from cascadebert.inference.cascade import Cascade
from cascadebert.inference.predict_work import Job, Work, rows_sha256, written_outputs
from cascadebert.inference.shard import Shard
from cascadebert.paths import STANDARD_OUTPUT, STANDARD_STREAM, WORK, check_roles, ensure_writable_file
from cascadebert.persistence.folder import file_hashes
from cascadebert.progress import progress_bar
from cascadebert.types import Predictions

log = logging.getLogger("cascadebert")

ADDED_COLUMNS: Mapping[str, ColumnType] = {"label": "string", "confidence": "number", "stage": "integer"}
REJECT_COLUMNS: Mapping[str, ColumnType] = {
    "file": "string",
    "row": "integer",
    "line": "integer",
    "reason": "string",
}
MEASURE_FROM_ROWS = 10_000  # files from this size on are worth the time to measure batch sizes
TOO_LONG = "more tokens in its text than the stage that answers reads"
MEND = (
    "Mend the row and run the same command again{kept}, or write such rows to a file of their own with "
    "--rejects FILE."
)
KEPT = " (rows that are done are kept)"


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
    truncate: bool = True,
    shard: Shard | None = None,
    overwrite: bool = False,
) -> FilePredictions:
    """Write the rows of a file with the cascade's `label`, `confidence` and `stage` added.

    `source` is a file, a folder of files or a pattern (see docs/data.md); "-" is standard input, and as
    `output` standard output, in the format of the input. Chunks of 16,384 rows are stored in `OUTPUT.work`
    and concatenated at the end; an interrupted run resumes after the last stored chunk and writes the same.
    An input column of an added name is written as `input_label` and so on.
    With `shard`, only that part of the rows is predicted and written; all parts in turn are the whole.
    `rejects` receives number and reason of each row that cannot be classified (a text that is absent, empty
    or not UTF-8, a malformed line; without `truncate`, a text of more tokens than the stage reads).

    Raises DataError with row and column of the first such row if `rejects` is not given, if the output's
    format cannot hold a column or a file has two roles, and CascadeError if `OUTPUT.work` is unfinished
    work of a run with other options.
    """
    outputs = {"--output": output, "--rejects": rejects, WORK: work_directory_path(output)}
    check_roles(outputs, {"IN": source, "DIR": cascade.path})
    output = STANDARD_OUTPUT if output == STANDARD_STREAM else output
    files = [output] if rejects is None else [output, rejects]
    reserved = [] if overwrite else written_outputs(output, files)
    for file in files:
        if file != output or not is_device(output):
            output_format(file)
        ensure_writable_file(file, overwrite=overwrite or file in reserved)
    columns = or_remembered(columns, cascade.remembered_columns)
    with _frozen_heap():
        return _predict(cascade, source, output, rejects, columns, reserved, truncate=truncate, shard=shard)


@contextmanager
def _frozen_heap() -> Iterator[None]:
    """Leave what is in memory, such as libraries, out of collections of garbage.

    Rows by the million cause so many of them that they would take longer than reading and writing.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _predict(
    cascade: Cascade,
    source: Path,
    output: Path,
    rejects: Path | None,
    columns: Columns,
    reserved: Sequence[Path],
    *,
    truncate: bool,
    shard: Shard | None,
) -> FilePredictions:
    layout = read_layout(source, columns)
    form = _output_form(layout, columns, *_suffixes(output, layout))
    job = _job(cascade, form, columns, truncate=truncate, rejects=rejects is not None, shard=shard)
    with _work_place(output) as place:
        work = Work(place, reserved)
        measure = layout.rows >= MEASURE_FROM_ROWS
        sizes = work.begin_or_resume(job, lambda: _batch_tokens(cascade, measure=measure))
        pairs = zip(cascade.stages, sizes, strict=True)
        stages = tuple(replace(stage, batch_tokens=size) for stage, size in pairs)
        settings = {"strict": rejects is None, "truncate": truncate, "keeps": place == output}
        run = _Run(replace(cascade, stages=stages), form, work, **settings)
        try:
            chunks = run.predict(layout, shard or Shard(1, 1))
        except DataError:
            work.remove_if_empty()
            raise
        return run.finish(chunks, output, rejects)


@contextmanager
def _work_place(output: Path) -> Iterator[Path]:
    """The path beside which the work folder lies: the output, or for a device a temporary one."""
    if not is_device(output):
        yield output
        return
    with explain_full_disk(keeps=False), TemporaryDirectory(prefix="cascadebert-") as folder:
        yield Path(folder) / "output"


def _suffixes(output: Path, layout: Layout) -> tuple[str, str]:
    """Format and compression of the output: by its name, or for a device without one those of the input."""
    try:
        return output_format(output)
    except DataError:
        suffix = f".{layout.files[0].file.format}"
        return suffix if suffix in OUTPUT_FORMATS else ".jsonl", ""


@dataclass(frozen=True)
class _OutputForm:
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


def _output_form(layout: Layout, columns: Columns, suffix: str, compression: str) -> _OutputForm:
    text_columns = layout.find_text_columns(columns)
    names = {name: _output_name(name, layout.names) for name in layout.names}
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
    return _OutputForm(text_columns, names, {**types, **ADDED_COLUMNS}, suffix, compression, delimiters)


def _output_name(name: str, columns: Collection[str]) -> str:
    """An input column's name in the output; prefixed until it is neither an added nor another column."""
    output = name
    while output in ADDED_COLUMNS or (output != name and output in columns):
        output = f"input_{output}"
    return output


def _job(
    cascade: Cascade,
    form: _OutputForm,
    columns: Columns,
    *,
    truncate: bool,
    rejects: bool,
    shard: Shard | None,
) -> Job:
    models = _models(cascade)
    stages = [(stage.tokenizer.key, stage.columns) for stage in cascade.stages]
    decision = cascade.temperatures, asdict(cascade.score), cascade.operating_point.thresholds
    content = json.dumps([models, stages, cascade.label_names, decision], default=str)
    options = {
        "the cascade": hashlib.sha256(content.encode()).hexdigest(),
        "--engine and --precision": [(stage.engine.name, stage.engine.precision) for stage in cascade.stages],
        "--text-column": form.text_columns,
        "--delimiter": columns.delimiter,
        "--encoding": codecs.lookup(columns.encoding or "utf-8").name,
        "--truncate": "on" if truncate else "off",
        "--rejects": "given" if rejects else None,
        "--shard": None if shard is None else str(shard),
        "format of --output": form.suffix,
        "rows per chunk": CHUNK_ROWS,
    }
    return Job(
        options,
        {"names": form.names, "types": form.types},
        delimiters=form.delimiters,
        resumable=models is not None,
    )


def _models(cascade: Cascade) -> list[dict[str, str]] | None:
    """Hashes of the files of each stage; None if they are gone, so that nothing identifies the models."""
    if cascade.spec is not None:
        return [stage.sha256 for stage in cascade.spec.stages]
    try:
        hashes = [file_hashes(stage.path, Path.is_file) for stage in cascade.stages]
    except OSError:
        return None
    return hashes if all(hashes) else None


def _batch_tokens(cascade: Cascade, *, measure: bool) -> list[int]:
    return [stage.batch_tokens for stage in with_tuned_batch_sizes(cascade, measure=measure).stages]


@dataclass(frozen=True)
class _Run:
    """Predicts chunks and stores them."""

    cascade: Cascade
    form: _OutputForm
    work: Work
    strict: bool  # a bad row ends the run
    truncate: bool  # a text that a stage reads in part is no bad row
    keeps: bool  # the work folder stays if the run ends early

    def predict(self, layout: Layout, shard: Shard) -> range:
        """Predict the chunks of a shard that are not done yet. Returns the numbers of all of its chunks."""
        rows, exits = shard.rows(layout.rows), np.zeros(len(self.cascade.stages), dtype=np.int64)
        first = following = position = 0
        with progress_bar("predicting", len(rows), "rows") as show:
            for number, chunk in enumerate(read_chunks(layout, rows=CHUNK_ROWS)):
                start, position = position, position + len(chunk)
                if start < rows.start:
                    first = following = number + 1
                    continue
                if start >= rows.stop and not shard.is_last:
                    break
                following = number + 1
                exits += self._done(number, chunk)["exits"]
                rates = " / ".join(f"{100 * rate:.0f} %" for rate in exits / max(1, exits.sum()))
                show(min(position - rows.start, len(rows)), f"exits by stage: {rates}")
        if not position:
            raise DataError(f"{layout.name} is empty: expected a header and rows")
        return range(first, following)

    def _done(self, number: int, chunk: Chunk) -> dict[str, Any]:
        """The report on a chunk, which is predicted unless it was before."""
        sha256 = rows_sha256(chunk)
        report = self.work.done(number, sha256)
        if report is None:
            self.work.begin_anew()
            report = self._predict_chunk(number, chunk, sha256)
        return report

    def _predict_chunk(self, number: int, chunk: Chunk, sha256: str) -> dict[str, Any]:
        texts, valid, invalid = check_texts(chunk.table, self.form.text_columns)
        empty = set(self.cascade.without_tokens(texts))
        invalid |= {valid[i]: "no tokens in its text" for i in empty}
        kept = [i for i in range(len(valid)) if i not in empty]
        predictions = _predict_distinct(self.cascade, [texts[i] for i in kept])
        answered = np.arange(len(kept))
        if not self.truncate:
            invalid |= {valid[kept[i]]: TOO_LONG for i in np.flatnonzero(predictions.truncated).tolist()}
            answered = np.flatnonzero(~predictions.truncated)
        rejects, notes = _all_faults(chunk, invalid), Counter[str]()
        if rejects and self.strict:
            advice = MEND.format(kept=KEPT if self.keeps and self.work.is_begun else "")
            raise DataError(f"{describe_fault(chunk.table.source, *rejects[0])}. {advice}")
        if len(answered):
            cells = predictions.labels, np.round(predictions.confidences, 6), predictions.stages
            added = {n: column[answered].tolist() for n, column in zip(ADDED_COLUMNS, cells, strict=True)}
            rows = [valid[kept[i]] for i in answered]
            table = self.form.table(chunk, rows, added)
            notes = write_table(table, self.work.part(number, self.form.suffix), self.form.types)
        exits = np.bincount(predictions.stages[answered] - 1, minlength=len(self.cascade.stages))
        report = {
            "sha256": sha256,
            "rows": len(answered),
            "exits": exits.tolist(),
            "truncated": int(predictions.truncated[answered].sum()),
            "notes": notes,
            "rejects": [[chunk.table.source, *fault] for fault in rejects],
        }
        self.work.store(number, report)
        return report

    def finish(self, chunks: range, output: Path, rejects: Path | None) -> FilePredictions:
        """Write the concatenated chunks and their rejects, and remove the work folder."""
        reports = {number: self.work.report(number) for number in chunks}
        parts = [self.work.part(n, self.form.suffix) for n, report in reports.items() if report["rows"]]
        name = f"output{self.form.suffix}{self.form.compression}"
        # before the rejects: if a pipe or device does not take it, the same command is to work again
        self.work.write_output(output, name, len(chunks), lambda file: self._join(parts, file))
        rejected = [row for report in reports.values() for row in report["rejects"]]
        if rejects is not None:
            columns = {name: [row[i] for row in rejected] for i, name in enumerate(REJECT_COLUMNS)}
            table, name = Table(columns, rejects.name), f"rejects{''.join(output_format(rejects))}"
            self.work.write_output(
                rejects, name, len(chunks), lambda file: write_table(table, file, REJECT_COLUMNS)
            )
        self.work.remove()
        shown = "standard output" if output == STANDARD_OUTPUT else output.name
        for note, count in sum((Counter(report["notes"]) for report in reports.values()), Counter()).items():
            log.warning("%s: %s (%s)", shown, note, f"{count:,} cell{'s' if count > 1 else ''}")
        exits = np.zeros(len(self.cascade.stages), dtype=np.int64)
        exits += np.sum([report["exits"] for report in reports.values()], axis=0, dtype=np.int64)
        truncated = sum(report["truncated"] for report in reports.values())
        return FilePredictions(tuple(exits.tolist()), len(rejected), truncated)

    def _join(self, parts: Sequence[Path], file: Path) -> None:
        if parts:
            join_parts(parts, file, columns=list(self.form.types))
        else:
            write_table(Table({name: [] for name in self.form.types}, file.name), file, self.form.types)


def _predict_distinct(cascade: Cascade, texts: list[Any]) -> Predictions:
    """Predictions of texts or pairs, of which equal ones are predicted once."""
    places = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    if len(places) == len(texts):
        return cascade.predict(texts)
    return cascade.predict(list(places)).take(np.array([places[text] for text in texts]))


def _all_faults(chunk: Chunk, invalid: Mapping[int, str]) -> list[Fault]:
    """The bad rows of a chunk and those with an invalid text, in order."""
    lines: Sequence[int | None] = chunk.lines or [None] * len(chunk.numbers)
    more = [Fault(chunk.numbers[i], lines[i], reason) for i, reason in invalid.items()]
    return sorted([*chunk.bad, *more])
