"""A request tracker under simulated load: no threads, no model, no noise."""

from __future__ import annotations

import heapq
from concurrent.futures import Future

import numpy as np

from cascadebert.server.scheduling.request_tracker import RequestTracker
from cascadebert.server.scheduling.requests import TokenizeTask, Tokens
from cascadebert.server.types import Overloaded, RequestOptions, RequestResult
from cascadebert.thresholds.routing import StageDecision

TOKENIZE_SECONDS = 5e-5


class SimulatedLoad:
    """Arrivals of requests: open-loop Poisson ones, or of clients that wait for their answers.

    Args:
        tracker: admits the requests.
        costs: (num_stages,) seconds of a batch and of each of its tokens.
        exit_rates: (num_stages,) fraction of the texts at each stage that exit there.
        workers: number that run batches.
        texts: number per request.
    """

    def __init__(self, tracker: RequestTracker, costs, exit_rates, *, workers=2, texts=8, seed=0):
        self.tracker, self.costs, self.exit_rates = tracker, costs, exit_rates
        self.workers, self.texts = workers, texts
        self.rng = np.random.default_rng(seed)
        self.arrived: dict[Future[RequestResult], float] = {}
        self.latencies, self.rejected, self.failed, self.offered = [], 0, 0, 0

    def seconds(self, task):
        """Duration of a task."""
        if isinstance(task, TokenizeTask):
            return TOKENIZE_SECONDS * len(task.rows)
        per_batch, per_token = self.costs[task.stage]
        return per_batch + per_token * task.tokens

    def complete(self, task, at):
        """Complete a task."""
        if isinstance(task, TokenizeTask):
            lengths = np.clip(self.rng.gamma(2.5, 9.0, len(task.rows)), 3, 64).astype(int)
            ids = np.zeros(64, np.int32)
            padded = (-(-lengths // 2) * 2).tolist()
            tokens = [
                Tokens(ids[:n], ids[:n], w, False) for n, w in zip(lengths.tolist(), padded, strict=True)
            ]
            self.tracker.tokenized(task, tokens, at)
            return
        n = len(task.rows)
        scores, exits = np.full((n, 2), 0.5), self.rng.random(n) < self.exit_rates[task.stage]
        self.tracker.ran(task, scores.astype(np.float32), StageDecision(scores, scores[:, 0], exits), at)

    def arrive(self, at):
        """Submit a request."""
        self.offered += 1
        try:
            future = self.tracker.admit(["x" * 100] * self.texts, RequestOptions(), at)
        except Overloaded:
            self.rejected += 1
            return
        self.arrived[future] = at

    def run(self, rate, seconds):
        """Offer `rate` requests per second for a time, and return the time when all are completed."""
        return self.run_arrivals(np.cumsum(self.rng.exponential(1 / rate, int(rate * seconds))).tolist())

    def run_clients(self, clients, *, requests):
        """Let clients send so many requests each, the next one as soon as one is answered or refused."""
        return self.run_arrivals([0.0] * clients, then=clients * (requests - 1))

    def run_arrivals(self, arrivals, then=0):
        """Offer requests at given times and `then` so many more, one for each that ends."""
        events = [(at, i, None) for i, at in enumerate(arrivals)]
        heapq.heapify(events)
        free, at, number = self.workers, 0.0, len(events)
        while events:
            at, _, task = heapq.heappop(events)
            ended = self.rejected + self.failed + len(self.latencies)
            if task is None:
                self.arrive(at)
            else:
                self.complete(task, at)
                free += 1
            while free and (task := self.tracker.take(at)) is not None:
                number, free = number + 1, free - 1
                heapq.heappush(events, (at + self.seconds(task), number, task))
            self.record(at)
            again = min(then, self.rejected + self.failed + len(self.latencies) - ended)
            for _ in range(again):
                number, then = number + 1, then - 1
                heapq.heappush(events, (at, number, None))
        return at

    def record(self, at):
        """Record the latency of completed requests."""
        for future, result in self.tracker.completed:
            if isinstance(result, RequestResult):
                self.latencies.append(at - self.arrived[future])
            else:
                self.failed += 1
        self.tracker.completed.clear()
