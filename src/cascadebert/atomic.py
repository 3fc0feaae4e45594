"""The folder of half-finished work beside an output."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cascadebert.errors import CascadeError

WORK_MARK = "half-finished-work-of-cascadebert"


def work_directory_path(output: Path) -> Path:
    """Where it is."""
    return output.absolute().with_name(output.name + ".work")


def work_directory(output: Path) -> Path:
    """`OUTPUT.work`, made if need be; never a folder that somebody else made.

    Raises:
        CascadeError: if there is one that does not carry our mark.
    """
    work = work_directory_path(output)
    if work.exists() and not (work / WORK_MARK).is_file():
        raise CascadeError(f"{work} exists and is not ours. Move it away, or choose another --output.")
    work.mkdir(exist_ok=True)
    (work / WORK_MARK).touch()
    return work


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A path beside `path`, of the same ending, that takes its name when the block ends without an error."""
    aside = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
