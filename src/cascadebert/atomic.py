"""Atomic writes, and the directory that holds unfinished work."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cascadebert.errors import CascadeError

WORK_MARKER = "half-finished-work-of-cascadebert"
STREAM_FOLDERS = ("/dev", "/dev/fd", "/proc/self/fd")  # of /dev/stdout, which may lead to a regular file


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, with the same suffix, renamed to `path` if the block raises nothing.

    A link stays, and what it leads to is replaced. A pipe or device is written to, never replaced.
    """
    if is_device(path):
        with tempfile.TemporaryDirectory() as folder:
            temporary = Path(folder) / path.name
            yield temporary
            with (
                temporary.open("rb") as content,
                path.open("ab") as device,
            ):  # standard output may be `>> FILE`
                shutil.copyfileobj(content, device)
        return
    path = Path(os.path.realpath(path))
    temporary = temporary_path(path)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_path(path: Path) -> Path:
    """An unused hidden name beside `path`, with the same suffix."""
    return path.with_name(f".{secrets.token_hex(4)}.{path.name}")


def is_device(path: Path) -> bool:
    """True if `path` is there to be written to, not replaced: a pipe, a terminal, /dev/null, /dev/stdout."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    if stat.S_ISREG(mode):
        return str(path.absolute().parent) in STREAM_FOLDERS
    return not stat.S_ISDIR(mode)


def write_text_atomically(path: Path, text: str) -> None:
    """Write UTF-8 text so that `path` holds either its old content or all of the new."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, "utf-8")


def work_directory_path(output: Path) -> Path:
    """`OUTPUT.work`, where unfinished work for `output` is kept."""
    path = output.absolute()
    path = Path(os.path.realpath(path)) if path.name == ".." else path
    return path.parent / f"{path.name}.work"


def check_work_directory(output: Path) -> None:
    """Raise CascadeError if there is an `OUTPUT.work` that is not ours."""
    work = work_directory_path(output)
    if not work.exists() and not work.is_symlink():
        return
    if not work.is_dir() or (any(work.iterdir()) and not (work / WORK_MARKER).is_file()):
        raise CascadeError(
            f"{work} exists and was not created by cascadebert. Move it, or choose another --output."
        )


def work_directory(output: Path) -> Path:
    """Create `OUTPUT.work` if necessary. Raises CascadeError if there is one that is not ours."""
    check_work_directory(output)
    work = work_directory_path(output)
    work.mkdir(exist_ok=True)
    (work / WORK_MARKER).touch()
    return work
