"""Files at the URL of a storage service, such as s3://bucket/key, through fsspec and its libraries."""

from __future__ import annotations

import glob
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascadebert.errors import DataError, MissingExtra, reason

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_URL = re.compile(r"([a-z][a-z0-9+]+):/+(.+)")


def remote_url(path: str | Path) -> str | None:
    """The URL that a path was made from, of whose two slashes it keeps one; None for a file of this machine.

    >>> remote_url(Path("s3://bucket/rows.csv")), remote_url(Path("rows.csv"))
    ('s3://bucket/rows.csv', None)
    """
    match = _URL.fullmatch(str(path))
    return None if match is None or os.path.lexists(path) else f"{match[1]}://{match[2]}"


def list_files(url: str) -> dict[str, str]:
    """The file at a URL, those in a folder at any depth, or those that match a pattern, in order.

    Returns their URLs by their paths below the folder, or below the last one that is no pattern.
    Raises DataError if the service cannot be asked, MissingExtra if its library is not installed.
    """
    system, path = _open_system(url)
    with _failures_as_data_errors(url):
        matches = system.glob(path) if glob.has_magic(path) else [path]
        found = sorted({file for match in matches for file in _files_in(system, match)})
    if found == [path]:
        return {path.rpartition("/")[2]: url}
    folder, root = _without_pattern(path), _without_pattern(url)
    names = [file.removeprefix(folder).strip("/") for file in found]
    return {name: f"{root}/{name}" for name in names}


def _files_in(system: Any, path: str) -> list[str]:
    if system.isdir(path):
        return list(system.find(path))
    return [path] if system.exists(path) else []


def _without_pattern(path: str) -> str:
    """The part of a path before the first name with a wildcard.

    >>> _without_pattern("s3://bucket/day=*/rows.csv")
    's3://bucket'
    """
    return "/".join(takewhile(lambda part: not glob.has_magic(part), path.rstrip("/").split("/")))


def open_file(url: str) -> io.BufferedReader:
    """Open a file to read; it raises OSError for whatever the service's library raises."""
    return io.BufferedReader(_RemoteFile(url), 1 << 20)


def is_file(url: str) -> bool:
    """True if there is a file. Raises as `list_files`."""
    system, path = _open_system(url)
    with _failures_as_data_errors(url):
        return bool(system.isfile(path))


def upload(file: Path, url: str) -> None:
    """Write a file, replacing one that is there. Raises as `list_files`."""
    system, path = _open_system(url)
    with _failures_as_data_errors(url):
        if parent := path.rpartition("/")[0]:
            system.makedirs(parent, exist_ok=True)
        system.put_file(str(file), path)


def download(url: str, file: Path) -> None:
    """Copy a file to this machine. Raises as `list_files`."""
    system, path = _open_system(url)
    with _failures_as_data_errors(url):
        system.get_file(path, str(file))


def remove(url: str) -> None:
    """Remove a file or a folder with all that is in it, if it is there. Raises as `list_files`."""
    system, path = _open_system(url)
    with _failures_as_data_errors(url):
        if system.exists(path):
            system.rm(path, recursive=True)


class _RemoteFile(io.RawIOBase):
    """The bytes of a file, with errors as those of files of this machine."""

    def __init__(self, url: str) -> None:
        self._url = url
        system, path = _open_system(url)
        with self._failures_as_os_errors():
            self._file = system.open(path, "rb")

    @contextmanager
    def _failures_as_os_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            raise
        except Exception as error:  # each library raises its own
            raise OSError(reason(error)) from error

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        with self._failures_as_os_errors():
            content = self._file.read(len(view))
        view[: len(content)] = content
        return len(content)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with self._failures_as_os_errors():
            return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def _open_system(url: str) -> tuple[Any, str]:
    """The file system of a URL, without remembered listings, and the path in it."""
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        raise MissingExtra(f"{url}: {error}. Or: pip install 'cascadebert[remote-files]'") from error
    except ValueError as error:
        raise DataError(f"{url}: no such file, and no URL of a storage service ({reason(error)})") from error
    return system, path


@contextmanager
def _failures_as_data_errors(url: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # each library raises its own
        advice = "Check the URL and your credentials for it."
        raise DataError(f"{url} cannot be used ({reason(error)}). {advice}") from error
