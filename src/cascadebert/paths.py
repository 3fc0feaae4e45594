"""Checks of paths before anything costly: no file in two roles, and outputs that can be written."""

from __future__ import annotations

import fnmatch
import glob
import os
import stat
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, product, takewhile
from pathlib import Path
from typing import TypeAlias

from cascadebert.atomic import is_device, open_descriptor, temporary_path
from cascadebert.errors import DataError, remedy_for
from cascadebert.remote_files import is_file, remote_url

WORK = "the work folder"  # as a role
STANDARD_STREAM = Path("-")  # as an input or an output
STANDARD_OUTPUT = Path("/dev/fd/1")
MAX_SHOWN = 120

_Identity: TypeAlias = tuple[int | str, ...]


def check_roles(outputs: Mapping[str, object], inputs: Mapping[str, object]) -> None:
    """Check that no output is another output or an input, lies in one, or holds one.

    Paths are compared by what they lead to: links, hard links, case and form of Unicode make no difference.
    Pipes and devices may have several roles, but a pipe is not both read and written.

    Args:
        outputs: A path, several, or None for every role, by the name of the role, such as "--output".
        inputs: The same; patterns such as `data/*.csv` and `FOLDER@SPLIT` count as the files that they name.
            What lies in memory or on the Hub is left out.

    Raises:
        DataError: With both roles and paths.
    """
    written = [_Place.of(role, path, 1) for role, value in outputs.items() for path in _paths(value)]
    read = [_Place.of(role, path, 0) for role, value in inputs.items() for path in _existing(value)]
    for one, other in combinations(written, 2):
        if one.role != other.role and not (one.is_device or other.is_device):
            advice = f"Choose another {(one if other.role == WORK else other).choice}."
            _compare(one, other, "written too", advice)
    for output, source in product(written, read):
        _compare(output, source, "read", f"Choose another {output.choice}: no command replaces its input.")
    for role, value in inputs.items():
        for pattern, output in product(_patterns(value), written):
            if _would_match(output.path, pattern):
                matched = f"{output} matches {role} {shown(pattern)}: the next run would read it."
                raise DataError(f"{matched} Choose another {output.choice}.")


def _compare(output: _Place, other: _Place, used: str, advice: str) -> None:
    if output.is_in(other) and other.is_in(output):
        raise DataError(f"{output} is also {other}. {advice}")
    if output.is_in(other):
        raise DataError(f"{output} lies in {other}, which is {used}. {advice}")
    if other.is_in(output):
        raise DataError(f"{other} lies in {output}, which is written. {advice}")


def ensure_writable_file(path: Path, *, overwrite: bool) -> None:
    """Check an output file before any costly work, also for its temporary and its work folder.

    Raises DataError if it is a folder, exists and `overwrite` is false, or cannot be created.
    """
    if is_device(path):
        if not _is_writable(path):
            name = "standard output" if open_descriptor(path) == 1 else shown(path)
            raise DataError(f"{name} may not be written to. Choose another output.")
        return
    url = remote_url(path)
    if url is None:
        ensure_creatable(path)
    if path.is_dir():
        raise DataError(f"{shown(path)} is a folder; expected a file to write")
    if (path.exists() if url is None else is_file(url)) and not overwrite:
        raise DataError(
            f"{shown(path)} exists already. Choose another output, or replace it with --overwrite."
        )


def ensure_creatable(path: Path) -> None:
    """Create and remove what will be the temporary of an output. Raises DataError if that is not possible."""
    try:
        real = Path(os.path.realpath(path))
        if not real.parent.is_dir():
            problem = "is not a folder" if real.parent.exists() else "does not exist. Create it first"
            raise DataError(f"{shown(path)}: the folder {shown(real.parent)} {problem}.")
        probe = temporary_path(real)
        probe.mkdir()
        probe.rmdir()
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", None) or str(error)
        remedy = remedy_for(error, "Choose another output.")
        raise DataError(f"{shown(path)} cannot be written ({problem}). {remedy}") from error


def _is_writable(device: Path) -> bool:
    number = open_descriptor(device)
    if number is None:
        return os.access(device, os.W_OK)
    try:
        os.write(number, b"")
    except OSError:  # it is not open, or only to read
        return False
    return True


def is_standard_output(path: Path) -> bool:
    """True if what is written to an output goes where the process prints: "-", /dev/stdout, the same pipe."""
    if path == STANDARD_STREAM or open_descriptor(path) == 1:
        return True
    try:
        status, standard = path.stat(), os.fstat(1)
    except (OSError, ValueError):
        return False
    return is_device(path) and not stat.S_ISCHR(status.st_mode) and os.path.samestat(status, standard)


def shown(path: Path) -> str:
    """A path for a message, shortened in the middle if it is long."""
    text = remote_url(path) or str(path)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN // 2]}...{text[-MAX_SHOWN // 2 :]}"


@dataclass(frozen=True)
class _Place:
    """A path in a role, and what it leads to."""

    role: str
    path: Path
    identities: tuple[_Identity, ...]  # of the file itself and of all folders above; none for a device
    is_device: bool

    @classmethod
    def of(cls, role: str, path: Path, stream: int) -> _Place:
        """The place of a path; `stream` is the descriptor that "-" stands for."""
        is_stream = path == STANDARD_STREAM
        try:
            status = os.fstat(stream) if is_stream else path.stat()
        except (OSError, ValueError):
            return cls(role, path, () if is_stream else _identities(path), is_stream)
        if stat.S_ISFIFO(status.st_mode) or (is_stream and stat.S_ISREG(status.st_mode)):
            identity = status.st_dev, status.st_ino
            return cls(role, path, (identity,), True)
        if is_stream or not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            return cls(role, path, (), True)
        return cls(role, path, _identities(path), False)

    @property
    def choice(self) -> str:
        """The option to give another value."""
        return "--output" if self.role == WORK else self.role

    def is_in(self, other: _Place) -> bool:
        """True if this is the other place, or lies in it."""
        return bool(other.identities) and other.identities[0] in self.identities

    def __str__(self) -> str:
        return f"{self.role} {shown(self.path)}"


def _identities(path: Path) -> tuple[_Identity, ...]:
    """Device and inode of a path and of every folder above it.

    What does not exist is identified by the folder that does and the names below it, without case and form of
    Unicode, which not every file system distinguishes.
    """
    try:
        real = Path(os.path.realpath(path))
    except ValueError:  # no path at all
        return ()
    identities: list[_Identity] = []
    for place in reversed((real, *real.parents)):
        try:
            status = place.stat()
            identities.append((status.st_dev, status.st_ino))
        except OSError:
            above = identities[-1] if identities else ()
            identities.append((*above, unicodedata.normalize("NFC", place.name.casefold())))
    return tuple(reversed(identities))


def _paths(value: object) -> Iterator[Path]:
    """The paths in a value that is one or several."""
    if isinstance(value, (str, Path)):
        yield Path(value)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _paths(item)


def _patterns(value: object) -> Iterator[Path]:
    return (path for path in _paths(value) if glob.has_magic(str(path)) and not os.path.lexists(path))


def _would_match(path: Path, pattern: Path) -> bool:
    """True if a pattern finds a path, or something with its name deeper in the same folder."""
    fixed = tuple(takewhile(lambda part: not glob.has_magic(part), pattern.parts))
    root = Path(os.path.realpath(Path(*fixed)))
    real = Path(os.path.realpath(path.parent)) / path.name
    if not real.is_relative_to(root) or not fnmatch.fnmatchcase(path.name, pattern.name):
        return False
    depth = len(pattern.parts) - len(fixed)
    return "**" in pattern.parts or len(real.relative_to(root).parts) == depth


def _existing(value: object) -> Iterator[Path]:
    """The paths that are there, with what links inside of folders lead to."""
    for path in _paths(value):
        name = str(path)
        if path == STANDARD_STREAM or os.path.lexists(name) or remote_url(path):
            found = [path]
        elif "@" in name and os.path.lexists(name.rpartition("@")[0]):
            found = [Path(name.rpartition("@")[0])]
        else:
            matches = glob.glob(name, recursive=True) if glob.has_magic(name) else []  # noqa: PTH207
            found = [Path(match) for match in matches]
        for place in found:
            yield place
            if os.path.isdir(place):  # noqa: PTH112  (False for one that may not be looked at)
                yield from (entry for entry in place.rglob("*") if entry.is_symlink())
