"""Engines, a clock and a watch of our own, to serve with in tests."""

from __future__ import annotations

from dataclasses import replace
from threading import Event

import numpy as np

from cascadebert.server.config import ServerConfig
from cascadebert.server.scheduling.dispatcher import BatchDispatcher


class TableEngine:
    """Each token adds its scores, row by row: exact, quick, and another answer for almost every text."""

    name, precision, device = "table", "float32", "cpu"

    def __init__(self, seed, *, streams=2):
        self.table = np.random.default_rng(seed).normal(size=(400, 2)).astype(np.float32)
        self.streams, self.seen = streams, []

    def logits(self, batch):
        self.seen.append(batch.input_ids.shape)
        assert (batch.attention_mask.sum(axis=1) > 0).all()
        return (self.table[batch.input_ids] * batch.attention_mask[:, :, None]).sum(axis=1, dtype=np.float32)


class Faulty:
    """An engine that raises, hangs or takes its thread along when told to."""

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


class Notebook:
    """A watch that audits as it is told to and writes down what it hears."""

    def __init__(self, share=1.0):
        self.share, self.safest = share, False
        self.requests, self.audits, self.backlogs = [], [], []

    def sample_arrivals(self, n):
        return np.arange(n) < self.share * n

    def weight(self):
        return 1 / max(self.share, 1e-9)

    def record_exits(self, point, stages, confidences):
        self.requests.append((point, stages.tolist(), confidences.tolist()))

    def record_shadow_result(self, point, agreed, weight):
        self.audits.append((point, agreed, weight))

    def report_backlog(self, waiting):
        self.backlogs.append(waiting)

    def wants_safest_point(self):
        return self.safest


def exact(cascade):
    """The cascade with engines whose answers do not depend on batches, to the last bit."""
    stages = tuple(replace(one, engine=TableEngine(i)) for i, one in enumerate(cascade.stages))
    return replace(cascade, stages=stages)


def faulty(cascade, number):
    """The cascade with one stage that can be broken, and its engine."""
    stages = list(cascade.stages)
    engine = Faulty(stages[number - 1].engine)
    stages[number - 1] = replace(stages[number - 1], engine=engine)
    return replace(cascade, stages=tuple(stages)), engine


def started(cascade, *, monitor=None, **settings):
    """A pool at work; slow enough a target that nothing is refused, unless asked for."""
    pool = BatchDispatcher(cascade, ServerConfig(**{"latency_target": 5.0, **settings}), monitor=monitor)
    pool.start()
    return pool


def until(true, seconds=10.0):
    """Wait for something that another thread brings about."""
    pause = Event()
    for _ in range(int(seconds / 0.01)):
        if true():
            return
        pause.wait(0.01)
    raise AssertionError("it did not come about")
