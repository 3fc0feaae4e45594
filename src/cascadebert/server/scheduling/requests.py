"""Requests, their texts on the way through the stages, and the tasks that workers run."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cascadebert.inference.batching import Padding, TokenizedTexts
from cascadebert.inference.cascade import Cascade
from cascadebert.inference.engines.base import TokenBatch
from cascadebert.server.scheduling.ordered_reporter import PendingResult
from cascadebert.server.types import RequestResult, RowResult, StageResult
from cascadebert.thresholds.confidence import Score
from cascadebert.thresholds.routing import StageDecision, decide
from cascadebert.types import Floats, Logits, Texts


class Tokens(NamedTuple):
    """Tokens of one text, special tokens included."""

    ids: NDArray[np.int32]
    type_ids: NDArray[np.int8]
    length: int  # padded
    truncated: bool


@dataclass(slots=True, eq=False)
class Request:
    """A request in flight; times are in seconds on the dispatcher's clock."""

    texts: Texts
    last: int  # latest stage that may predict, counted from 0
    arrived: float
    deadline: float
    operating_point: int
    thresholds: tuple[float, ...]  # (num_stages - 1,) of that point
    cost: float  # seconds that its texts are expected to take by themselves
    delay: float  # seconds of queueing that were expected on arrival
    weight: float = 1.0  # of its shadow results
    future: Future[RequestResult] = field(default_factory=Future)
    rows: list[Row] = field(default_factory=list)  # one per text
    unfinished: int = 0  # rows without a result


@dataclass(slots=True, eq=False)
class Row:
    """One text or pair in flight."""

    request: Request
    index: int  # in the request
    shadowed: bool = False  # selected for shadow evaluation
    stage: int = 0  # that it waits for or runs at, counted from 0
    entered: float = 0.0  # arrival at that stage
    length: int = 1  # padded tokens; expected ones before tokenization
    tokens: dict[str, Tokens] = field(default_factory=dict)  # by the tokenizer's key
    stage_results: list[StageResult] = field(default_factory=list)
    logits: Floats | None = None  # of the last of these
    result: RowResult | None = None
    queued: bool = False
    done: bool = False  # it has a result, or its request failed
    worker_deaths: int = 0  # threads that died while they ran it
    pending: PendingResult | None = None  # only of a shadow row, which waits for the last stage alone


@dataclass(slots=True, eq=False)
class _RowTask:
    """Work on rows that are at one stage."""

    rows: list[Row]
    started: float  # when a worker took it, in seconds

    @property
    def stage(self) -> int:
        """The stage of all rows, counted from 0."""
        return self.rows[0].stage

    @property
    def shadow(self) -> bool:
        """True if the rows are shadow rows."""
        return self.rows[0].pending is not None


@dataclass(slots=True, eq=False)
class TokenizeTask(_RowTask):
    """Tokenize rows of one request for their stage."""

    @property
    def request(self) -> Request:
        """The request of all rows."""
        return self.rows[0].request


@dataclass(slots=True, eq=False)
class BatchTask(_RowTask):
    """Run rows through their stage."""

    length: int  # to which all are padded
    size: int  # of the batch; a row is repeated where there are fewer rows

    @property
    def tokens(self) -> int:
        """Number of tokens computed."""
        return self.length * self.size


Task = TokenizeTask | BatchTask


def tokenize(cascade: Cascade, task: TokenizeTask) -> list[Tokens]:
    """Tokens of each row at its stage. Raises DataError if a text has none."""
    texts = task.request.texts
    selected = texts if len(task.rows) == len(texts) else [texts[row.index] for row in task.rows]
    tokenizer, places = cascade.stages[task.stage].tokenizer, [row.index for row in task.rows]
    encoded = tokenizer.encode(selected, places)  # type: ignore[arg-type]  # all texts, or all pairs
    rows = zip(
        pairwise(encoded.starts.tolist()),
        encoded.padded_lengths.tolist(),
        encoded.truncated.tolist(),
        strict=True,
    )
    return [
        Tokens(encoded.ids[start:end], encoded.type_ids[start:end], length, truncated)
        for (start, end), length, truncated in rows
    ]


def token_batch(task: BatchTask, key: str, padding: Padding) -> TokenBatch:
    """The batch of a task; `key` is that of the stage's tokenizer."""
    tokens = [row.tokens[key] for row in task.rows]
    starts = np.zeros(len(tokens) + 1, dtype=np.int64)
    np.cumsum([len(row_tokens.ids) for row_tokens in tokens], out=starts[1:])
    ids = np.concatenate([row_tokens.ids for row_tokens in tokens])
    types = np.concatenate([row_tokens.type_ids for row_tokens in tokens])
    indices = np.minimum(np.arange(task.size), len(tokens) - 1)
    return TokenizedTexts(ids, types, starts, padding).batch(indices, length=task.length)


def run_batch(cascade: Cascade, task: BatchTask) -> tuple[Logits, StageDecision]:
    """(n, num_labels) unscaled logits, and the routing decision of each row by its own threshold."""
    number, rows, threshold, earlier = task.stage, task.rows, None, list[Floats]()
    stage = cascade.stages[number]
    logits = stage.run(token_batch(task, stage.tokenizer.key, stage.tokenizer.padding))[: len(rows)]
    score = Score() if task.shadow else cascade.score  # of a shadow row only the predicted label is needed
    if not task.shadow and number < len(cascade.stages) - 1:
        threshold = np.array([row.request.thresholds[number] for row in rows])
    if score.weights:
        earlier = [np.stack([row.stage_results[i].probabilities for row in rows]) for i in range(number)]
    temperature = cascade.temperatures[number]
    return logits, decide(logits, temperature=temperature, score=score, threshold=threshold, earlier=earlier)
