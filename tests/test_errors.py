"""Errors name paths as the user gave them."""

from __future__ import annotations

from pathlib import Path

import pytest

from cascadebert.errors import StageError, show_paths_as


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
