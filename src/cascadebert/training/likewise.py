"""A classifier made ready to run as a cascade runs, so that the two can be timed side by side."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cascadebert.cascade import Cascade
from cascadebert.engines.base import ENGINE_FILE
from cascadebert.engines.static import is_static
from cascadebert.folder import SPEC_FILE
from cascadebert.stage import local_folder


@contextmanager
def likewise(path: str | Path, cascade: Cascade) -> Iterator[Path]:
    """The folder of a classifier with the file that the cascade's engine runs.

    Where that is missing it is made in a copy, which is gone afterwards; the folder itself stays as it is.

    Args:
        path: a fine-tuned classifier, or a saved cascade, which has all it needs.
        cascade: to be like.

    Raises:
        StageError: if the classifier cannot be exported.
        MissingExtra: if what exports it is not installed.
    """
    folder, engine = local_folder(path), cascade.stages[-1].engine.name
    ready = any((folder / name).is_file() for name in (SPEC_FILE, ENGINE_FILE)) or is_static(folder)
    if ready or engine == "torch":
        yield folder
        return
    from cascadebert.training.export import write_engine_file

    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / Path(str(path)).name
        shutil.copytree(folder, copy)
        write_engine_file(copy, engine)
        yield copy
