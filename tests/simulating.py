"""A board under load in a simulated time: no thread, no model, no noise."""

from __future__ import annotations

import heapq
from concurrent.futures import Future

import numpy as np

from cascadebert.server.scheduling.request_tracker import RequestTracker
from cascadebert.server.scheduling.requests import TokenizeTask, Tokens
from cascadebert.server.types import Overloaded, RequestOptions, RequestResult
from cascadebert.thresholds.routing import StageDecision

READING = 5e-5


class Load:
    """Requests that arrive by chance, whatever becomes of those before them.

    Args:
        board: that takes them.
        costs: (num_stages,) seconds of a batch and of each of its tokens.
        leaves: (num_stages,) share of the rows that leave at each stage.
        workers: that run batches.
        rows: of each request.
    """

    def __init__(self, board: RequestTracker, costs, leaves, *, workers=2, rows=8, seed=0):
        self.board, self.costs, self.leaves = board, costs, leaves
        self.workers, self.rows = workers, rows
        self.rng = np.random.default_rng(seed)
        self.arrived: dict[Future[RequestResult], float] = {}
        self.waits, self.refused, self.failed, self.offered = [], 0, 0, 0

    def seconds(self, task):
        """That a task takes."""
        if isinstance(task, TokenizeTask):
            return READING * len(task.rows)
        once, each = self.costs[task.stage]
        return once + each * task.tokens

    def done(self, task, at):
        """A worker is back."""
        if isinstance(task, TokenizeTask):
            lengths = np.clip(self.rng.gamma(2.5, 9.0, len(task.rows)), 3, 64).astype(int)
            ids = np.zeros(64, np.int32)
            wide = (-(-lengths // 2) * 2).tolist()
            made = [Tokens(ids[:n], ids[:n], w) for n, w in zip(lengths.tolist(), wide, strict=True)]
            self.board.tokenized(task, made, at)
            return
        n = len(task.rows)
        said, gone = np.full((n, 2), 0.5), self.rng.random(n) < self.leaves[task.stage]
        self.board.ran(task, said.astype(np.float32), StageDecision(said, said[:, 0], gone), at)

    def arrive(self, at):
        """One request, or none where it is refused."""
        self.offered += 1
        try:
            future = self.board.admit(["x"] * self.rows, RequestOptions(), at, characters=100 * self.rows)
        except Overloaded:
            self.refused += 1
            return
        self.arrived[future] = at

    def run(self, rate, seconds):
        """Offer so many requests a second for so long, and answer all that were let in."""
        arrivals = np.cumsum(self.rng.exponential(1 / rate, int(rate * seconds)))
        events = [(float(at), i, None) for i, at in enumerate(arrivals)]
        heapq.heapify(events)
        free, at, number = self.workers, 0.0, len(events)
        while events:
            at, _, task = heapq.heappop(events)
            if task is None:
                self.arrive(at)
            else:
                self.done(task, at)
                free += 1
            while free and (task := self.board.take(at)) is not None:
                number, free = number + 1, free - 1
                heapq.heappush(events, (at + self.seconds(task), number, task))
            self.settle(at)
        return at

    def settle(self, at):
        """Note how long answers took."""
        for future, outcome in self.board.completed:
            if isinstance(outcome, RequestResult):
                self.waits.append(at - self.arrived[future])
            else:
                self.failed += 1
        self.board.completed.clear()
