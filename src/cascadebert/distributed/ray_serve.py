"""The HTTP API of `serve` on Ray Serve.

Each replica of the ingress is a server with the early stages; its batches for the last stage go to a
deployment of its own, which has as many replicas as the load asks for.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from cascadebert.errors import CascadeError, StageError, extra
from cascadebert.inference.cascade import Cascade, load_stages
from cascadebert.inference.engines.base import Engine, TokenBatch
from cascadebert.inference.stage import Stage
from cascadebert.inference.tokenizer import StageTokenizer
from cascadebert.persistence.checkpoint_config import config_label_names, read_config, resolve_checkpoint
from cascadebert.persistence.folder import read_folder
from cascadebert.persistence.schema import CascadeSpec
from cascadebert.server.config import ServerConfig, environment_token
from cascadebert.server.monitoring.monitor import QualityMonitor, Reference
from cascadebert.server.scheduling.dispatcher import BatchDispatcher
from cascadebert.types import Logits

with extra("ray-serve"):
    from ray import serve
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException
    from ray.serve.handle import DeploymentHandle

    from cascadebert.server.http.app import make_app
    from cascadebert.server.http.middleware import ServerMiddleware

LAST = "last-stage"  # name of the deployment
TOKENS = 8192  # padded ones that the last stage computes together
WAIT_SECONDS = 0.002  # for batches of other replicas
CONCURRENT = 2  # computations of a replica of the last stage
IN_FLIGHT = 4  # batches that a replica of the ingress has at the last stage
SMALLEST = 512  # tokens of a batch, usually
MAX_ONGOING = CONCURRENT * TOKENS // SMALLEST  # batches that a replica of the last stage is given
ATTEMPTS = 2  # of a batch, as a replica may die
TIMEOUT_SECONDS = 10.0
MAX_REPLICAS = 8
QUEUED = 2.0  # batches for each replica of the last stage, above which there are more of them
SETTINGS = {"folder", "engine", "precision", "last_stage", "ingress"}
Tokens = tuple[Any, Any, Any]  # ids, mask and types of a padded batch, as arrays


def application(settings: dict[str, Any]) -> Any:
    """The application for `serve run` and for the `import_path` of a configuration file.

    Args:
        settings: `folder`, a saved cascade at a path that all nodes have or a repository of the Hub; and, if
            wanted, `engine` and `precision`, fields of `ServerConfig`, and options of Ray's deployments under
            `ingress` and `last_stage`.

    Raises:
        CascadeError: if a setting is unknown or missing, or the cascade has one stage only.
    """
    settings = dict(settings)
    known = {field.name for field in fields(ServerConfig)}
    unknown = sorted(set(settings) - known - SETTINGS)
    if unknown or "folder" not in settings:
        problem = f"unknown: {', '.join(unknown)}" if unknown else "folder is missing"
        expected = ", ".join(sorted(known | SETTINGS))
        raise CascadeError(f"settings of the application: {problem}. Expected: {expected}")
    options = {name: settings.pop(name, {}) for name in ("ingress", "last_stage")}
    where = settings.pop("folder"), settings.pop("engine", "auto"), settings.pop("precision", "auto")
    if len(read_folder(resolve_checkpoint(where[0])).stages) < 2:
        raise CascadeError(f"{where[0]} has one stage, and nothing to divide: use `cascadebert serve`")
    config = ServerConfig(**settings, token=environment_token())
    scaling = {"min_replicas": 1, "max_replicas": MAX_REPLICAS, "target_ongoing_requests": QUEUED}
    last = {"name": LAST, "max_ongoing_requests": MAX_ONGOING, "autoscaling_config": scaling}
    last_stage = serve.deployment(LastStage).options(**{**last, **options["last_stage"]}).bind(*where)
    ingress = {"name": "ingress", "max_ongoing_requests": config.max_queue_size, **options["ingress"]}
    return serve.deployment(Ingress).options(**ingress).bind(last_stage, where, config)


class LastStage:
    """The model of the last stage; computes batches of all replicas of the ingress together."""

    def __init__(self, folder: str, engine: str, precision: str) -> None:
        path = resolve_checkpoint(folder)
        spec = read_folder(path)
        (self._stage,) = load_stages(path, spec, spec.stages[-1:], engine, precision)

    async def describe(self) -> tuple[str, str, str]:
        """Name, precision and device of its engine."""
        engine = self._stage.engine
        return engine.name, engine.precision, engine.device

    @serve.batch(  # type: ignore[untyped-decorator]
        max_batch_size=TOKENS,
        batch_wait_timeout_s=WAIT_SECONDS,
        max_concurrent_batches=CONCURRENT,
        batch_size_fn=lambda batches: sum(batch[0].size for batch in batches),
    )
    async def logits(self, batches: list[Tokens]) -> list[Logits]:
        """(rows, num_labels) of each batch."""
        return await asyncio.to_thread(run_together, self._stage, batches)


def run_together(stage: Stage, batches: Sequence[Tokens]) -> list[Logits]:
    """The engine's logits of each batch, from one call for all that are padded to one length."""
    by_length = defaultdict[int, list[int]](list)
    for place, (ids, _, _) in enumerate(batches):
        by_length[ids.shape[1]].append(place)
    found: dict[int, Logits] = {}
    for places in by_length.values():
        joined = TokenBatch(*(np.concatenate([batches[place][i] for place in places]) for i in range(3)))
        ends = np.cumsum([len(batches[place][0]) for place in places])[:-1]
        found |= dict(zip(places, np.split(stage.engine.logits(joined), ends), strict=True))
    return [found[place] for place in range(len(batches))]


class RemoteEngine:
    """The engine of a stage whose model is a deployment."""

    max_length: int | None = None
    streams = IN_FLIGHT

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle
        self.name, self.precision, self.device = self._ask("describe")

    def logits(self, batch: TokenBatch) -> Logits:
        """(rows, num_labels) in float32. Raises StageError if no replica gives them."""
        arrays = batch.input_ids, batch.attention_mask, batch.token_type_ids
        return np.asarray(self._ask("logits", arrays))

    def _ask(self, method: str, *arguments: object) -> Any:
        error: Exception | None = None
        for _ in range(ATTEMPTS):
            try:
                return getattr(self._handle, method).remote(*arguments).result(timeout_s=TIMEOUT_SECONDS)
            except (RayError, RayServeException, TimeoutError) as failure:
                error = failure
        raise StageError(f"the last stage does not answer: {type(error).__name__}") from error


@serve.ingress()
class Ingress:
    """A server whose last stage is a deployment."""

    def __init__(self, last: DeploymentHandle, where: tuple[str, str, str], config: ServerConfig) -> None:
        folder, engine, precision = where
        path = resolve_checkpoint(folder)
        spec = read_folder(path)
        early = load_stages(path, spec, spec.stages[:-1], engine, precision)
        with ThreadPoolExecutor(1) as threads:  # a handle cannot be waited for in the loop of the replica
            remote = threads.submit(RemoteEngine, last).result()
        cascade = Cascade.from_stages((*early, remote_stage(path, spec, remote)), spec, path)
        monitor = QualityMonitor(Reference.from_cascade(cascade), config) if config.shadow_rate else None
        dispatcher = BatchDispatcher(cascade, config, monitor=monitor)
        replica = serve.get_replica_context().replica_id.unique_id
        self._app = make_app(dispatcher, cascade, config, monitor, replica=replica)

    def __serve_build_asgi_app__(self) -> ServerMiddleware:
        return self._app


def remote_stage(path: Path, spec: CascadeSpec, engine: Engine) -> Stage:
    """The last stage of a saved cascade on an engine elsewhere; its tokenizer is here."""
    entry = spec.stages[-1]
    folder = path / entry.path
    names = config_label_names(read_config(folder), folder)
    tokenizer = StageTokenizer(folder, max_length=entry.max_length, padding_side=entry.padding_side)
    stage = Stage(entry.name, folder, names, entry.layers, entry.hidden, tokenizer, engine, entry.flops)
    return stage.with_labels(spec.label_names)
