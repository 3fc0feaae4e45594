"""What can go wrong and is the caller's to mend: one base, few kinds.

Every message says what was given, what was expected and what to do. The command line prints it
without a traceback and exits with 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class CascadeError(Exception):
    """The base of every error that this package raises on purpose."""


class DataError(CascadeError):
    """A file, column, row or label that cannot be used."""


class StageError(CascadeError):
    """A checkpoint that is not one complete classifier, or whose labels differ."""


class FolderError(CascadeError):
    """A saved cascade that is damaged, changed or of another format version."""


class UndefinedMetric(CascadeError):
    """A metric that the given rows leave undefined, such as a share of no pairs."""


class MissingExtra(CascadeError):
    """A part of the package whose libraries are not installed."""


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Turn a failed import of an optional library into the command that installs it.

    Args:
        name: the extra that brings the library, such as `"train"`.

    Raises:
        MissingExtra: if a module imported inside the block is not installed.

    >>> with extra("train"):
    ...     import a_library_nobody_has
    Traceback (most recent call last):
    cascadebert.errors.MissingExtra: a_library_nobody_has is not installed. \
Install it with: pip install 'cascadebert[train]'
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = error.name or "a library"
        if missing.split(".")[0] == "cascadebert":
            raise
        raise MissingExtra(
            f"{missing} is not installed. Install it with: pip install 'cascadebert[{name}]'"
        ) from error
