"""Predicts the rows of an input chunk by chunk, stores each chunk, and writes all of them as one output."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from cascadebert.data.cells import check_texts
from cascadebert.data.readers import Layout, read_chunks
from cascadebert.data.table import Chunk, ColumnType, Fault, Table, describe_fault
from cascadebert.data.writers import join_parts, output_format, write_table
from cascadebert.errors import DataError
from cascadebert.inference.cascade import Cascade
from cascadebert.inference.predict_form import ADDED_COLUMNS, OutputForm
from cascadebert.inference.predict_work import Work, rows_sha256
from cascadebert.inference.shard import Shard
from cascadebert.paths import STANDARD_OUTPUT
from cascadebert.progress import progress_bar
from cascadebert.types import Bools, Floats, Ints, Predictions

log = logging.getLogger("cascadebert")

REJECT_COLUMNS: Mapping[str, ColumnType] = {
    "file": "string",
    "row": "integer",
    "line": "integer",
    "reason": "string",
}
NO_TOKENS = "no tokens in its text"
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


@dataclass(frozen=True)
class ChunkAnswers:
    """Answers to those rows of a chunk that have one, and the problems of the others."""

    rows: Ints  # (n,) positions in the chunk, ascending
    labels: Sequence[str]  # (n,)
    confidences: Floats  # (n,)
    stages: Ints  # (n,) from 1
    truncated: Bools  # (n,)
    problems: Mapping[int, str]  # by position


Answer: TypeAlias = "Callable[[PredictRun, Layout, Chunk], ChunkAnswers]"
"""Answers the chunks of an input, which come in order; those that are done are left out."""


@dataclass(frozen=True)
class PredictRun:
    """A run of `predict_file`: what it predicts with, and where it keeps what is done."""

    cascade: Cascade
    form: OutputForm
    work: Work
    strict: bool  # a bad row ends the run
    truncate: bool  # a text that a stage reads in part is no bad row
    keeps: bool  # the work folder stays if the run ends early

    def done(self, number: int, sha256: str) -> dict[str, Any] | None:
        """The report on a chunk, given the fingerprint of its rows; None if it is still to be predicted."""
        report = self.work.done(number, sha256)
        if report is None:
            self.work.begin_anew()
        return report

    def store(self, number: int, chunk: Chunk, sha256: str, answers: ChunkAnswers) -> dict[str, Any]:
        """Write the answered rows of a chunk, and the report on it.

        Raises DataError with the first bad row if such rows end the run.
        """
        rejects, notes = _all_faults(chunk, answers.problems), Counter[str]()
        if rejects and self.strict:
            advice = MEND.format(kept=KEPT if self.keeps and self.work.is_begun else "")
            raise DataError(f"{describe_fault(chunk.table.source, *rejects[0])}. {advice}")
        if len(answers.rows):
            confidences = np.round(answers.confidences, 6).tolist()
            cells = list(answers.labels), confidences, answers.stages.tolist()
            added = dict(zip(ADDED_COLUMNS, cells, strict=True))
            table = self.form.table(chunk, answers.rows.tolist(), added)
            notes = write_table(table, self.work.part(number, self.form.suffix), self.form.types)
        report = {
            "sha256": sha256,
            "rows": len(answers.rows),
            "exits": np.bincount(answers.stages - 1, minlength=len(self.cascade.stages)).tolist(),
            "truncated": int(answers.truncated.sum()),
            "notes": notes,
            "rejects": [[chunk.table.source, *fault] for fault in rejects],
        }
        self.work.store(number, report)
        return report

    def finish(self, chunks: Sequence[int], output: Path, rejects: Path | None) -> FilePredictions:
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


def predict_chunks(
    run: PredictRun, layout: Layout, shard: Shard, chunk_rows: int, answer: Answer | None = None
) -> range:
    """Predict those chunks of a shard that are not done; returns the numbers of all of its chunks."""
    answer = answer or answer_here
    rows, exits = shard.rows(layout.rows), np.zeros(len(run.cascade.stages), dtype=np.int64)
    first = following = position = 0
    with progress_bar("predicting", len(rows), "rows") as show:
        for number, chunk in enumerate(read_chunks(layout, rows=chunk_rows)):
            start, position = position, position + len(chunk)
            if start < rows.start:
                first = following = number + 1
                continue
            if start >= rows.stop and not shard.is_last:
                break
            following, sha256 = number + 1, rows_sha256(chunk)
            report = run.done(number, sha256) or run.store(number, chunk, sha256, answer(run, layout, chunk))
            exits += report["exits"]
            rates = " / ".join(f"{100 * rate:.0f} %" for rate in exits / max(1, exits.sum()))
            show(min(position - rows.start, len(rows)), f"exits by stage: {rates}")
    if not position:
        raise DataError(f"{layout.name} is empty: expected a header and rows")
    return range(first, following)


def answer_here(run: PredictRun, layout: Layout, chunk: Chunk) -> ChunkAnswers:
    """Answers to a chunk from this process."""
    cascade = run.cascade
    texts, valid, problems = check_texts(chunk.table, run.form.text_columns)
    empty = set(cascade.without_tokens(texts))
    problems |= {valid[i]: NO_TOKENS for i in empty}
    kept = [i for i in range(len(valid)) if i not in empty]
    rows = np.array([valid[i] for i in kept], dtype=np.int64)
    found = _predict_distinct(cascade, [texts[i] for i in kept])
    if not run.truncate:
        problems |= dict.fromkeys(rows[found.truncated].tolist(), TOO_LONG)
        answered = np.flatnonzero(~found.truncated)
        rows, found = rows[answered], found.take(answered)
    return ChunkAnswers(
        rows, found.labels.tolist(), found.confidences, found.stages, found.truncated, problems
    )


def _predict_distinct(cascade: Cascade, texts: list[Any]) -> Predictions:
    """Predictions of texts or pairs, of which equal ones are predicted once."""
    places = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    if len(places) == len(texts):
        return cascade.predict(texts)
    return cascade.predict(list(places)).take(np.array([places[text] for text in texts]))


def _all_faults(chunk: Chunk, problems: Mapping[int, str]) -> list[Fault]:
    """The bad rows of a chunk and those with an invalid text, in order."""
    lines: Sequence[int | None] = chunk.lines or [None] * len(chunk.numbers)
    more = [Fault(chunk.numbers[i], lines[i], reason) for i, reason in problems.items()]
    return sorted([*chunk.bad, *more])
