"""The work folder of `predict_file`: chunks that are done, and the options that they were done with."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cascadebert.atomic import WORK_MARKER, work_directory, work_directory_path, write_text_atomically
from cascadebert.data.table import Chunk
from cascadebert.errors import CascadeError, extra

log = logging.getLogger("cascadebert")

VERSION = 3  # of the form of a work folder
SHOWN = 40  # characters of an option's value in a message
_JOB, _FINISHING = "job.json", "finishing"


@dataclass(frozen=True)
class Job:
    """All that decides what a run writes, except for the rows."""

    options: Mapping[str, Any]  # by the name that a user knows; work with others is refused
    columns: Mapping[str, Any]  # of the input and the output; work with others begins afresh


class Work:
    """The folder `OUTPUT.work` with a report on each chunk that is done."""

    def __init__(self, output: Path) -> None:
        self.folder = work_directory(output)

    def begin_or_resume(self, job: Job, batch_tokens: Callable[[], list[int]]) -> list[int]:
        """Resume work of the same job, or begin; returns the batch sizes that the work began with.

        Raises CascadeError with the options that differ from those of the work in the folder.
        """
        if self._reports() and not self._file(_JOB).is_file():
            raise self._refusal("of another version of cascadebert")
        state = _read(self._file(_JOB)) if self._file(_JOB).is_file() else {}
        if state and state.get("version") != VERSION:
            raise self._refusal("of another version of cascadebert")
        options, columns = _plain(job.options), _plain(job.columns)
        if state:
            self._check_options(state["options"], options)
        if state and state["columns"] != columns:
            log.warning("%s: the columns of the input have changed: all rows are predicted", self.folder)
            for file in self._reports():
                file.unlink()
            state = {}
        sizes: list[int] = state["batch_tokens"] if state else batch_tokens()
        state = {"version": VERSION, "options": options, "columns": columns, "batch_tokens": sizes}
        write_text_atomically(self._file(_JOB), json.dumps(state))
        return sizes

    def _check_options(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        differing = [name for name in now if before.get(name) != now[name]]
        if before.get("--rejects") is False and "--rejects" in differing:
            differing.remove("--rejects")  # no row was set aside so far, so there is nothing to lose
        if differing:
            changes = [f"{name}{_change(before.get(name), now[name])}" for name in differing]
            raise self._refusal(f"with other options: {'; '.join(changes)}")

    def _refusal(self, of_what: str) -> CascadeError:
        return CascadeError(
            f"{self.folder} is unfinished work of another run, {of_what}. Give the same options to resume "
            "it, remove the folder to start afresh, or choose another --output."
        )

    def part(self, number: int, suffix: str) -> Path:
        """The file for the predictions of a chunk."""
        return self._file(f"{number:08d}{suffix}")

    def done(self, number: int, sha256: str) -> dict[str, Any] | None:
        """The report on a chunk, if it was predicted from the same rows."""
        file = self._file(f"{number:08d}.json")
        report = _read(file) if file.is_file() else {}
        return report if report.get("sha256") == sha256 else None

    def store(self, number: int, report: Mapping[str, Any]) -> None:
        """Write the report on a chunk, which makes it done."""
        write_text_atomically(self._file(f"{number:08d}.json"), json.dumps(report))

    def report(self, number: int) -> dict[str, Any]:
        """The report on a chunk that is done."""
        return _read(self._file(f"{number:08d}.json"))

    def begin_finishing(self) -> None:
        """Note that all chunks are done: outputs from here on are those of this work."""
        self._file(_FINISHING).touch()

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder)

    def remove_if_empty(self) -> None:
        """Remove the folder if no chunk is done."""
        if not self._reports():
            self.remove()

    def _reports(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]*.json"))

    def _file(self, name: str) -> Path:
        return self.folder / name


def is_finishing(output: Path) -> bool:
    """True if a run was interrupted while it wrote its outputs, which it may then write again."""
    folder = work_directory_path(output)
    return (folder / WORK_MARKER).is_file() and (folder / _FINISHING).is_file()


def rows_sha256(chunk: Chunk) -> str:
    """Fingerprint of the rows of a chunk, good and bad."""
    digest = hashlib.sha256(
        repr((chunk.table.source, chunk.numbers, chunk.bad)).encode("utf-8", "surrogatepass")
    )
    for name, column in chunk.table.columns.items():
        digest.update(name.encode("utf-8", "surrogatepass") + b"\0")
        if isinstance(column, list):
            digest.update(repr(column).encode("utf-8", "surrogatepass"))
            continue
        with extra("tune"):
            import pyarrow
        table = pyarrow.table([column], names=["column"])
        with pyarrow.BufferOutputStream() as sink:
            with pyarrow.ipc.new_stream(sink, table.schema) as target:
                target.write_table(table)
            digest.update(sink.getvalue())
    return digest.hexdigest()


def _change(before: Any, now: Any) -> str:
    values = f" (then {before}, now {now})"
    return values if len(values) < SHOWN else ""


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as JSON gives them back."""
    return dict(json.loads(json.dumps(values, default=str)))


def _read(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text("utf-8")))
