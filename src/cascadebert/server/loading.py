"""Opening a cascade to serve it, also one whose last stage cannot be had."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from cascadebert.errors import CascadeError, StageError
from cascadebert.inference.cascade import Cascade, load_stages
from cascadebert.inference.engines.base import TokenBatch
from cascadebert.inference.stage import Stage
from cascadebert.persistence.checkpoint_config import resolve_checkpoint
from cascadebert.persistence.folder import read_folder
from cascadebert.server.config import ServerConfig
from cascadebert.types import Logits

log = logging.getLogger("cascadebert")


def open_cascade(
    path_or_repo: str | Path, settings: ServerConfig, *, engine: str = "auto", precision: str = "auto"
) -> Cascade:
    """Open a saved cascade; a last stage that cannot be opened is one that is down, if so set.

    Where `settings.on_last_stage_failure` is "degrade" and only the last stage is missing, changed or cannot be
    loaded, it stays down until the server is started again.

    Args:
        path_or_repo: the folder, or a repository.
        settings: of the server.
        engine: as for `Cascade.from_pretrained`.
        precision: as for `Cascade.from_pretrained`.

    Raises:
        CascadeError: if it cannot be opened; the earlier stages have to be whole in any case.
    """
    try:
        return Cascade.from_pretrained(path_or_repo, engine=engine, precision=precision)
    except CascadeError as error:
        if settings.on_last_stage_failure == "error":
            raise
        found = _but_last(resolve_checkpoint(path_or_repo), str(error), engine, precision)
        if found is None:
            raise
        log.error("serving without the last stage: %s", error)
        return found


class _Absent:
    """In the place of an engine that could not be had."""

    streams = 1

    def __init__(self, stage: Stage, why: str) -> None:
        like = stage.engine
        self.name, self.precision, self.device = like.name, like.precision, like.device
        self._why = why

    def logits(self, batch: TokenBatch) -> Logits:
        raise StageError(self._why)


def _but_last(path: Path, why: str, engine: str, precision: str) -> Cascade | None:
    """The cascade with a last stage that always fails; None where an earlier one cannot be opened either."""
    try:
        spec = read_folder(path, but_last=True)
        stages = load_stages(path, spec, spec.stages[:-1], engine, precision)
    except CascadeError:
        return None
    if not stages:
        return None
    entry, before = spec.stages[-1], stages[-1]
    last = replace(
        before,
        name=entry.name,
        path=path / entry.path,
        layers=entry.layers,
        hidden=entry.hidden,
        engine=_Absent(before, why),
        flops=entry.flops,
    )
    return Cascade.of_stages((*stages, last), spec, path)
