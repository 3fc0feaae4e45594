"""Opens a cascade for serving, if allowed without its last stage."""

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
    path_or_repo: str | Path, config: ServerConfig, *, engine: str = "auto", precision: str = "auto"
) -> Cascade:
    """Open a saved cascade; the other arguments are those of `Cascade.from_pretrained`.

    Where `config.on_last_stage_failure` is "degrade" and only the last stage is missing, changed or fails to
    load, it stays down until the server is restarted. Raises CascadeError if an earlier stage fails to load.
    """
    try:
        return Cascade.from_pretrained(path_or_repo, engine=engine, precision=precision)
    except CascadeError as error:
        if config.on_last_stage_failure == "error":
            raise
        cascade = _without_last_stage(resolve_checkpoint(path_or_repo), str(error), engine, precision)
        if cascade is None:
            raise
        log.error("serving without the last stage: %s", error)
        return cascade


class _UnavailableEngine:
    """Stands in for the engine of a stage that failed to load; always raises StageError."""

    streams = 1
    max_length: int | None = None

    def __init__(self, stage: Stage, reason: str) -> None:
        self.name, self.precision = stage.engine.name, stage.engine.precision
        self.device, self._reason = stage.engine.device, reason

    def logits(self, batch: TokenBatch) -> Logits:
        raise StageError(self._reason)


def _without_last_stage(path: Path, reason: str, engine: str, precision: str) -> Cascade | None:
    """The cascade with a last stage that always fails; None if an earlier stage does not open either."""
    try:
        spec = read_folder(path, skip_last_stage=True)
        stages = load_stages(path, spec, spec.stages[:-1], engine, precision)
    except CascadeError:
        return None
    if not stages:
        return None
    entry, previous = spec.stages[-1], stages[-1]
    last = replace(
        previous,
        name=entry.name,
        path=path / entry.path,
        layers=entry.layers,
        hidden=entry.hidden,
        engine=_UnavailableEngine(previous, reason),
        flops=entry.flops,
    )
    return Cascade.from_stages((*stages, last), spec, path)
