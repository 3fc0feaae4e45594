"""Atomic writes, and the directory that holds unfinished work."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from cascadebert.errors import CascadeError

WORK_MARKER = "half-finished-work-of-cascadebert"
MOST_LINKS = 40  # from /dev/stdout to the descriptor that it stands for, or from a link to it


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, with the same suffix, renamed to `path` if the block raises nothing.

    A link stays, and what it leads to is replaced. A pipe or device is written to, never replaced.
    """
    if is_device(path):
        with tempfile.TemporaryDirectory(prefix="cascadebert-") as folder:
            temporary = Path(folder) / path.name
            yield temporary
            _append_to_device(temporary, path)
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
    if open_descriptor(path) is not None:
        return True
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def open_descriptor(path: Path) -> int | None:
    """The descriptor of this process that a path stands for: 1 for /dev/stdout and links to it, or None.

    >>> open_descriptor(Path("/dev/fd/1")), open_descriptor(Path("answers.csv"))
    (1, None)
    """
    try:
        for _ in range(MOST_LINKS):
            if os.path.realpath(path.parent) in ("/dev/fd", f"/proc/{os.getpid()}/fd"):
                return int(path.name) if path.name.isdecimal() else None
            if not path.is_symlink():
                return None
            path = path.parent / path.readlink()
    except (OSError, ValueError):  # no path at all, or one that may not be looked at
        pass
    return None


def _append_to_device(content: Path, device: Path) -> None:
    number, printed = open_descriptor(device), getattr(sys.stdout, "buffer", None)
    if sys.stdout is not None:
        sys.stdout.flush()  # what was printed before comes first
    with content.open("rb") as source, ExitStack() as stack:
        if number == 1 and printed is not None:  # a program may have replaced it
            target: IO[bytes] = printed
        elif number is not None:  # goes on where others write to the same descriptor, also in a file
            target = stack.enter_context(os.fdopen(os.dup(number), "wb"))
        else:
            target = stack.enter_context(device.open("ab"))
        shutil.copyfileobj(source, target)
        target.flush()


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
