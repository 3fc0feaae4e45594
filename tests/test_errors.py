"""Errors name paths as the user gave them."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import pytest

from cascadebert.errors import StageError, describe_os_error, show_paths_as


@pytest.mark.parametrize(
    ("names", "said", "shown"),
    [
        ({"small": "./small", "model": "./model/"}, "model: the model is damaged", None),
        ({"/data/a": "/data/a/", "/tmp/b": "org/b"}, "/data/a or /tmp/b", "/data/a or org/b"),
        ({"/tmp/stage-1": "one", "/tmp/stage-10": "ten"}, "/tmp/stage-10 and /tmp/stage-1", "ten and one"),
    ],
)
def test_copies_and_downloads_have_the_users_names_and_other_words_stay(names, said, shown):
    with pytest.raises(StageError) as caught, show_paths_as({Path(p): name for p, name in names.items()}):
        raise StageError(said)
    assert str(caught.value) == (shown or said)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OSError(errno.ENAMETOOLONG, "File name too long", "n" * 5000),
            r"^n+ \.\.\. n+: file name too long\. Choose a shorter",
        ),
        (
            OSError(errno.EACCES, "Permission denied", "d/a\n.csv"),
            r"^d/a\\n\.csv: permission denied\. Choose a path",
        ),
        (
            OSError(errno.ENOENT, "No such file or directory", b"gone"),
            r"gone'?: no such file or directory\. Check the path\.",
        ),
        (
            OSError(errno.EIO, "Input/output error"),
            r"^input/output error\. Check the path, or choose another\.",
        ),
        (OSError("could not reach the server"), r"^could not reach the server$"),
        (OSError(), r"^OSError$"),
    ],
)
def test_an_error_of_the_operating_system_names_the_path_and_what_to_do(error, said):
    message = describe_os_error(error)
    assert re.search(said, message) and len(message) < 600 and "Errno" not in message
