"""Atomic writes, and the directory that holds unfinished work."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cascadebert.errors import CascadeError

WORK_MARKER = "half-finished-work-of-cascadebert"


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, with the same suffix, renamed to `path` if the block raises nothing."""
    temporary = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text_atomically(path: Path, text: str) -> None:
    """Write UTF-8 text so that `path` holds either its old content or all of the new."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, "utf-8")


def work_directory_path(output: Path) -> Path:
    """`OUTPUT.work`, where unfinished work for `output` is kept."""
    return output.absolute().with_name(output.name + ".work")


def work_directory(output: Path) -> Path:
    """Create `OUTPUT.work` if necessary. Raises CascadeError if a directory of that name is not ours."""
    work = work_directory_path(output)
    if work.exists() and not (work / WORK_MARKER).is_file():
        raise CascadeError(
            f"{work} exists and was not created by cascadebert. Move it, or choose another --output."
        )
    work.mkdir(exist_ok=True)
    (work / WORK_MARKER).touch()
    return work
