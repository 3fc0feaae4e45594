"""Classifies every row of an input of any size with memory for one chunk; resumes after an interruption."""

from __future__ import annotations

import codecs
import gc
import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from cascadebert.atomic import is_device, work_directory_path
from cascadebert.data.columns import Columns, or_remembered
from cascadebert.data.readers import CHUNK_ROWS, Layout, read_layout
from cascadebert.data.writers import OUTPUT_FORMATS, output_format
from cascadebert.errors import DataError, explain_full_disk
from cascadebert.inference.batch_size import with_tuned_batch_sizes
from cascadebert.inference.cascade import Cascade
from cascadebert.inference.predict_chunks import Answer, FilePredictions, PredictRun, predict_chunks
from cascadebert.inference.predict_form import OutputForm, output_form
from cascadebert.inference.predict_work import Job, Work, written_outputs
from cascadebert.inference.shard import Shard
from cascadebert.paths import STANDARD_OUTPUT, STANDARD_STREAM, WORK, check_roles, ensure_writable_file
from cascadebert.persistence.folder import file_hashes
from cascadebert.remote_files import remote_url

log = logging.getLogger("cascadebert")

OBJECTS_PER_COLLECTION = 200_000  # more than a chunk of rows makes
MEASURE_FROM_ROWS = 10_000  # files from this size on are worth the time to measure batch sizes


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
    answer: Answer | None = None,
) -> FilePredictions:
    """Write the rows of a file with the cascade's `label`, `confidence` and `stage` added.

    `source` is a file, a folder of files or a pattern (see docs/data.md); "-" is standard input, and as
    `output` standard output, in the format of the input. All may be URLs such as s3://bucket/key. Chunks of
    16,384 rows are stored in `OUTPUT.work` and concatenated at the end; an interrupted run resumes after the
    last stored chunk and writes the same. An input column of an added name is written as `input_label` and so
    on.
    With `shard`, only that part of the rows is predicted and written; all parts in turn are the whole.
    `rejects` receives number and reason of each row that cannot be classified (a text that is absent, empty
    or not UTF-8, a malformed line; without `truncate`, a text of more tokens than the stage reads).
    `answer` computes the answers elsewhere than in this process.

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
        return _predict(
            cascade, source, output, rejects, columns, reserved, truncate=truncate, shard=shard, answer=answer
        )


@contextmanager
def _frozen_heap() -> Iterator[None]:
    """Leave what is in memory, such as libraries, out of collections of garbage, and let these be rare.

    Rows by the million cause so many of them that they would take longer than reading and writing.
    """
    thresholds = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(OBJECTS_PER_COLLECTION, *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
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
    answer: Answer | None,
) -> FilePredictions:
    layout = read_layout(source, columns)
    form = output_form(layout, columns, *_suffixes(output, layout))
    job = _job(cascade, form, columns, truncate=truncate, rejects=rejects is not None, shard=shard)
    with _open_work(output, reserved) as work:
        measure = layout.rows >= MEASURE_FROM_ROWS
        sizes = work.begin_or_resume(job, lambda: _batch_tokens(cascade, measure=measure))
        pairs = zip(cascade.stages, sizes, strict=True)
        stages = tuple(replace(stage, batch_tokens=size) for stage, size in pairs)
        settings = {"strict": rejects is None, "truncate": truncate, "keeps": not is_device(output)}
        run = PredictRun(replace(cascade, stages=stages), form, work, **settings)
        try:
            chunks = predict_chunks(run, layout, shard or Shard(1, 1), CHUNK_ROWS, answer)
        except DataError:
            work.remove_if_empty()
            raise
        return run.finish(chunks, output, rejects)


@contextmanager
def _open_work(output: Path, reserved: Sequence[Path]) -> Iterator[Work]:
    """The work beside the output; for a device in a temporary folder, for a URL with a copy beside it."""
    url = remote_url(output)
    if url is None and not is_device(output):
        yield Work(output, reserved)
        return
    with explain_full_disk(keeps=url is not None), TemporaryDirectory(prefix="cascadebert-") as folder:
        yield Work(Path(folder) / "output", url=None if url is None else f"{url}.work")


def _suffixes(output: Path, layout: Layout) -> tuple[str, str]:
    """Format and compression of the output: by its name, or for a device without one those of the input."""
    try:
        return output_format(output)
    except DataError:
        suffix = f".{layout.files[0].file.format}"
        return suffix if suffix in OUTPUT_FORMATS else ".jsonl", ""


def _job(
    cascade: Cascade,
    form: OutputForm,
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
