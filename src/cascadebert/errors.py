"""Exceptions for invalid input; all derive from CascadeError.

Every message contains what was given, what was expected and what to do. The command line prints it
without a traceback and exits with 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class CascadeError(Exception):
    """Base class of all errors that this package raises on purpose."""


class DataError(CascadeError):
    """A file, column, row or label cannot be used."""


class StageError(CascadeError):
    """A checkpoint is not one complete classifier, or its labels differ."""


class FolderError(CascadeError):
    """A saved cascade is damaged, changed or of another format version."""


class UndefinedMetric(CascadeError):
    """A metric is undefined for these examples, such as a fraction of no pairs."""


class MissingExtra(CascadeError):
    """An optional library is not installed."""


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Raise MissingExtra with the command that installs the extra, if an import in the block fails.

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
