"""The work folder of `predict_file`: chunks that are done, and the options that they were done with."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cascadebert.atomic import (
    WORK_MARKER,
    atomic_file,
    is_device,
    temporary_path,
    work_directory,
    work_directory_path,
    write_text_atomically,
)
from cascadebert.data.table import Chunk
from cascadebert.errors import CascadeError, extra
from cascadebert.paths import ensure_writable_file
from cascadebert.remote_files import download, list_files, remote_url, remove, upload

log = logging.getLogger("cascadebert")

VERSION = 5  # of the form of a work folder
SHOWN = 40  # characters of an option's value in a message
_JOB, _WRITTEN = "job.json", "written.json"


@dataclass(frozen=True)
class Job:
    """All that decides what a run writes, except for the rows."""

    options: Mapping[str, Any]  # by the name that a user knows; work with others is refused
    columns: Mapping[str, Any]  # of the input and the output; work with others begins afresh
    delimiters: tuple[str, ...] = ()  # that were used; another --delimiter that changes none is accepted
    resumable: bool = True  # False if it cannot be told from another one; its work always begins afresh


class Work:
    """The folder `OUTPUT.work`: a report on each chunk that is done, and what was written from all of them.

    `reserved` are existing outputs that may be replaced only by the same, see `written_outputs`. With `url`,
    that folder has a copy of the work from which another machine can go on.
    """

    def __init__(self, output: Path, reserved: Collection[Path] = (), url: str | None = None) -> None:
        self.folder = work_directory(output)
        self._reserved = reserved
        self._url = url
        self._fetch()

    @property
    def _place(self) -> str:
        """Where the user finds it."""
        return self._url or str(self.folder)

    def _fetch(self) -> None:
        """Copy work from the URL. Raises CascadeError if something else lies there."""
        found = {} if self._url is None else list_files(self._url)
        if found and WORK_MARKER not in found:
            raise CascadeError(
                f"{self._url} exists and was not created by cascadebert. Move it, or choose another --output."
            )
        for name, url in found.items():
            download(url, self._file(name))

    def _copy(self, *files: Path) -> None:
        """Copy files to the URL, if there is one."""
        for file in files if self._url is not None else ():
            upload(file, f"{self._url}/{file.name}")

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
            self._check_options(state, options, job.delimiters)
        if state and (state["columns"] != columns or not job.resumable):
            what = "the columns of the input have changed" if job.resumable else "its model may be another"
            self.begin_anew()
            log.warning("%s: %s: all rows are predicted", self._place, what)
            for file in self._reports():
                file.unlink()
            self._remove_copy()
            state = {}
        sizes: list[int] = state["batch_tokens"] if state else batch_tokens()
        state = {"version": VERSION, "options": options, "columns": columns, "batch_tokens": sizes}
        write_text_atomically(self._file(_JOB), json.dumps({**state, "delimiters": job.delimiters}))
        self._copy(self._file(WORK_MARKER), self._file(_JOB))
        return sizes

    def _check_options(
        self, state: Mapping[str, Any], now: Mapping[str, Any], delimiters: Collection[str]
    ) -> None:
        before, harmless = state["options"], set[str]()
        if before.get("--rejects") is None:
            harmless.add("--rejects")  # no row was set aside so far, so there is nothing to lose
        if state["delimiters"] == list(delimiters):
            harmless.add("--delimiter")  # what was typed is what was found, or the other way around
        differing = [name for name in now if before.get(name) != now[name] and name not in harmless]
        if differing:
            changes = [f"{name}{_change(before.get(name), now[name])}" for name in differing]
            raise self._refusal(f"with other options: {'; '.join(changes)}")

    def _refusal(self, of_what: str) -> CascadeError:
        return CascadeError(
            f"{self._place} is unfinished work of another run, {of_what}. Give the same options to resume "
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
        file = self._file(f"{number:08d}.json")
        write_text_atomically(file, json.dumps(report))
        self._copy(*(part for part in self.folder.glob(f"{number:08d}.*") if part != file), file)

    def report(self, number: int) -> dict[str, Any]:
        """The report on a chunk that is done."""
        return _read(self._file(f"{number:08d}.json"))

    def begin_anew(self) -> None:
        """Give up what was written: other rows come now. Raises DataError if they may not replace it."""
        for path in self._reserved:
            ensure_writable_file(path, overwrite=False)
        self._file(_WRITTEN).unlink(missing_ok=True)

    def write_output(self, path: Path, name: str, chunks: int, write: Callable[[Path], object]) -> None:
        """Write an output of all chunks so that a later run knows it as that of this work.

        `write` is given a file in this folder; `name` ends in the suffixes of the format.
        """
        written = _read_written(self.folder)
        if written.get("chunks", chunks) != chunks:
            self.begin_anew()
            written = {}
        whole = self._file(name)
        write(whole)
        if url := remote_url(path):
            upload(whole, url)
            return
        with atomic_file(path) as temporary:
            shutil.move(whole, temporary)
            if not is_device(path):
                files = {**written.get("files", {}), str(path.absolute()): _identity(temporary)}
                write_text_atomically(self._file(_WRITTEN), json.dumps({"chunks": chunks, "files": files}))

    @property
    def is_begun(self) -> bool:
        """True if a chunk is done."""
        return bool(self._reports())

    def remove(self) -> None:
        """Remove the folder, first from its name: a kill leaves no part of it to be taken for work.

        The other name is a short one, as that of the output may be as long as a name can be.
        """
        removed = temporary_path(self.folder.with_name("work"))
        self.folder.rename(removed)
        shutil.rmtree(removed)
        self._remove_copy()

    def _remove_copy(self) -> None:
        if self._url is not None:
            remove(self._url)

    def remove_if_empty(self) -> None:
        """Remove the folder if no chunk is done."""
        if not self.is_begun:
            self.remove()

    def _reports(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]*.json"))

    def _file(self, name: str) -> Path:
        return self.folder / name


def written_outputs(output: Path, paths: Collection[Path]) -> list[Path]:
    """Those of the paths that an interrupted run with the work folder of `output` wrote, and nobody since."""
    files = _read_written(work_directory_path(output)).get("files", {})
    return [path for path in paths if files.get(str(path.absolute()), []) == _identity(path)]


def _identity(file: Path) -> list[int] | None:
    """Properties that stay when a file is renamed and differ for any other file; None without a file."""
    try:
        status = file.stat()
    except (OSError, ValueError):
        return None
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns]


def _read_written(folder: Path) -> dict[str, Any]:
    names = (folder / WORK_MARKER, folder / _WRITTEN)
    return _read(names[1]) if all(map(os.path.isfile, names)) else {}


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
    then_and_now = ("not given" if value is None else value for value in (before, now))
    values = " (then {}, now {})".format(*then_and_now)
    return values if len(values) < SHOWN else ""


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as JSON gives them back."""
    return dict(json.loads(json.dumps(values, default=str)))


def _read(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text("utf-8")))
