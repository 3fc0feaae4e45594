"""Exceptions for invalid input; all derive from CascadeError.

Every message contains what was given, what was expected and what to do. The command line prints it
without a traceback and exits with 2.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

_ESCAPE_CODE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_MOST_CHARACTERS = 300
_DISK_FULL = {getattr(errno, name, None) for name in ("ENOSPC", "EDQUOT", "EFBIG")} - {None}
# of libraries that raise errors without a number: safetensors, tokenizers, shutil, torch, numpy
_DISK_FULL_TEXT = re.compile(
    r"No space left|quota exceeded|File too large|StreamWriter failed writing|unexpected pos \d+ vs|"
    r"iostream error|requested and \d+ written"
)
_MESSAGE_CHARACTERS = 599
_REMEDIES: Mapping[int | None, str] = {
    errno.ENAMETOOLONG: "Choose a shorter name: those of unfinished work are some characters longer.",
    errno.EACCES: "Choose a path that you may use, or change its permissions.",
    errno.EPERM: "Choose a path that you may use, or change its permissions.",
    errno.ENOENT: "Check the path.",
}


def printable(text: str, width: int) -> str:
    r"""Text with control characters and the like escaped, and its middle left out if it exceeds a width.

    >>> printable("caf\u00e9\t\x1b[1m", 40), printable("a long name of a column", 12)
    ('café\\t\\x1b[1m', 'a l ... umn')
    """
    ends = text if len(text) <= 2 * width else text[:width] + text[-width:]
    characters = (c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in ends)
    escaped = "".join(characters)
    half = (width - 5) // 2
    return escaped if len(escaped) <= width else f"{escaped[:half]} ... {escaped[-half:]}"


class CascadeError(Exception):
    """Base class of all errors that this package raises on purpose."""


class DataError(CascadeError):
    """A file, column, row or label cannot be used. A message is under 600 characters, whatever it quotes."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message, _MESSAGE_CHARACTERS))


class StageError(CascadeError):
    """A checkpoint is not one complete classifier, or its labels differ."""


class FolderError(CascadeError):
    """A saved cascade is damaged, changed or of another format version."""


class DiskFullError(CascadeError):
    """A file could not be written because its disk is full, or a quota or limit was reached."""


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


@contextmanager
def explain_full_disk(*, keeps: bool = True) -> Iterator[None]:
    """Raise DiskFullError in place of what libraries raise in the block when a disk is full.

    `keeps` is False where finished work is lost, as the output is not a file.

    >>> with explain_full_disk():
    ...     raise RuntimeError("I/O error: No space left on device (os error 28)")
    Traceback (most recent call last):
    cascadebert.errors.DiskFullError: no space left to write to (RuntimeError: I/O error: No space ...
    """
    try:
        yield
    except DiskFullError:
        raise
    except Exception as error:  # each library raises its own
        cause = next(filter(_is_disk_full, _chain(error)), None)
        if cause is None:
            raise
        kept = "finished work is kept in OUTPUT.work, if there is such a folder"
        lost = "all of the work, as none is kept for a pipe, device or standard output"
        raise DiskFullError(
            f"no space left to write to ({reason(cause)}). Free some, on the disk of the output and of "
            f"temporary files, and run the same command again: {kept if keeps else lost}."
        ) from error


def _is_disk_full(error: BaseException) -> bool:
    if isinstance(error, CascadeError):  # may quote data
        return False
    return getattr(error, "errno", None) in _DISK_FULL or _DISK_FULL_TEXT.search(str(error)) is not None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and those that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def reason(error: BaseException) -> str:
    r"""Type and message of another library's error in one line, cut, without terminal escape codes.

    >>> reason(ValueError("\x1b[1mfirst\x1b[0m\n second"))
    'ValueError: first second'
    """
    text = " ".join(_ESCAPE_CODE.sub("", str(error)).split())
    text = text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]} ..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def describe_os_error(error: OSError) -> str:
    """A message for an error of the operating system: the path, what is wrong with it, what to do.

    >>> describe_os_error(PermissionError(errno.EACCES, "Permission denied", "/data/answers.csv"))
    '/data/answers.csv: permission denied. Choose a path that you may use, or change its permissions.'
    """
    if error.strerror is None or not isinstance(error.errno, int):  # of a library: a text alone
        return printable(str(error) or type(error).__name__, _MESSAGE_CHARACTERS)
    problem = error.strerror[:1].lower() + error.strerror[1:]
    path = "" if error.filename is None else f"{printable(str(error.filename), _MOST_CHARACTERS)}: "
    remedy = remedy_for(error, "Check the path, or choose another.")
    return printable(f"{path}{problem}. {remedy}", _MESSAGE_CHARACTERS)


def remedy_for(error: BaseException, otherwise: str) -> str:
    """Advice on an error of the operating system; `otherwise` if there is none of its own."""
    return _REMEDIES.get(getattr(error, "errno", None), otherwise)


@contextmanager
def show_paths_as(names: Mapping[Path, str]) -> Iterator[None]:
    """Replace the paths of copies and downloads in errors of the block by the user's own names.

    >>> with show_paths_as({Path("/tmp/copy"): "my-model"}):
    ...     raise StageError("/tmp/copy: no tokenizer")
    Traceback (most recent call last):
    cascadebert.errors.StageError: my-model: no tokenizer
    """
    try:
        yield
    except CascadeError as error:
        message = str(error)
        copies = [path for path in names if Path(names[path]) != path]  # the others are the user's own
        for path in sorted(copies, key=lambda path: -len(str(path))):
            message = message.replace(str(path), names[path])
        error.args = (message,)
        raise
