"""Engines and a monitor for tests of the dispatcher, and functions that start and await."""

from __future__ import annotations

from dataclasses import replace
from threading import Event

import numpy as np

from cascadebert.server.config import ServerConfig
from cascadebert.server.scheduling.dispatcher import BatchDispatcher


class TableEngine:
    """Sums a score per token: exact, fast, and a different output for almost every text."""

    name, precision, device = "table", "float32", "cpu"

    def __init__(self, seed, *, streams=2):
        self.table = np.random.default_rng(seed).normal(size=(400, 2)).astype(np.float32)
        self.streams, self.seen = streams, []

    def logits(self, batch):
        self.seen.append(batch.input_ids.shape)
        assert (batch.attention_mask.sum(axis=1) > 0).all()
        return (self.table[batch.input_ids] * batch.attention_mask[:, :, None]).sum(axis=1, dtype=np.float32)


class FaultyEngine:
    """Raises `error`, hangs until `open` is set, or ends its thread (`error` is SystemExit)."""

    def __init__(self, engine):
        self.engine, self.error, self.open = engine, None, Event()
        self.name, self.precision, self.device = engine.name, engine.precision, engine.device
        self.streams = engine.streams
        self.open.set()
        self.entered = Event()

    def logits(self, batch):
        self.entered.set()
        assert self.open.wait(20)
        if self.error is not None:
            error = self.error
            self.error = None if isinstance(error, SystemExit) else error
            raise error
        return self.engine.logits(batch)


class RecordingMonitor:
    """Selects a fraction of the texts for shadow evaluation, and records all calls."""

    def __init__(self, fraction=1.0):
        self.fraction, self.safest = fraction, False
        self.requests, self.results, self.backlogs = [], [], []

    def sample_arrivals(self, n):
        return np.arange(n) < self.fraction * n, 1 / max(self.fraction, 1e-9)

    def record_exits(self, point, stages, confidences):
        self.requests.append((point, stages.tolist(), confidences.tolist()))

    def record_shadow_result(self, point, agreed, weight):
        self.results.append((point, agreed, weight))

    def report_backlog(self, size):
        self.backlogs.append(size)

    def wants_safest_point(self):
        return self.safest


def with_exact_engines(cascade):
    """The cascade with engines whose outputs do not depend on the batch, bit by bit."""
    stages = tuple(replace(stage, engine=TableEngine(i)) for i, stage in enumerate(cascade.stages))
    return replace(cascade, stages=stages)


def with_faulty_stage(cascade, number):
    """The cascade with a FaultyEngine at a stage (from 1), and that engine."""
    stages = list(cascade.stages)
    engine = FaultyEngine(stages[number - 1].engine)
    stages[number - 1] = replace(stages[number - 1], engine=engine)
    return replace(cascade, stages=tuple(stages)), engine


def start_dispatcher(cascade, *, monitor=None, **options):
    """A started dispatcher, by default with a latency target at which nothing is rejected."""
    dispatcher = BatchDispatcher(cascade, ServerConfig(**{"latency_target": 5.0, **options}), monitor=monitor)
    dispatcher.start()
    return dispatcher


def wait_until(condition, seconds=10.0):
    """Wait until a condition that another thread brings about is true."""
    pause = Event()
    for _ in range(int(seconds / 0.01)):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError(f"the condition did not become true within {seconds:g} seconds")


def same(answer, wanted):
    """True if an answer is a prediction, to the last bit."""
    last = [row.stage_results[-1] for row in answer.rows]
    return (
        [one.stage for one in last] == wanted.stages.tolist()
        and np.array([one.probabilities for one in last]).tobytes() == wanted.probabilities.tobytes()
        and np.array([one.confidence for one in last]).tobytes() == wanted.confidences.tobytes()
    )
