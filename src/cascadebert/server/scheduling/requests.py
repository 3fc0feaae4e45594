"""Rows on their way through the stages, and the tasks that move them."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cascadebert.inference.batching import TokenizedTexts
from cascadebert.inference.cascade import Cascade
from cascadebert.inference.engines.base import TokenBatch
from cascadebert.server.types import RequestResult, RowResult, StageResult
from cascadebert.thresholds.confidence import Score
from cascadebert.thresholds.routing import decide
from cascadebert.types import Bools, Floats, Logits, Texts


class Tokens(NamedTuple):
    """Token numbers and types of one row, special tokens included, and its padded length."""

    ids: NDArray[np.int32]
    type_ids: NDArray[np.int8]
    length: int


@dataclass(slots=True, eq=False)
class Request:
    """What was asked, and how far the answer is.

    Attributes:
        texts: as they were given.
        characters: of all of them.
        last: the latest stage that may answer, counted from 0.
        arrived: in seconds.
        deadline: in seconds, on the same clock.
        point: place on the ladder when it arrived.
        thresholds: (num_stages - 1,) of that point.
        weight: of its audited rows.
        future: gets the answer.
        rows: one for each text.
        open: rows that have no answer yet.
        outside: why the certificate does not cover the answer, as far as is known at arrival.
        own: seconds that its rows are expected to take by themselves.
    """

    texts: Texts
    characters: int
    last: int
    arrived: float
    deadline: float
    point: int
    thresholds: tuple[float, ...]
    weight: float
    outside: str | None
    own: float
    future: Future[RequestResult] = field(default_factory=Future)
    rows: list[Row] = field(default_factory=list)
    open: int = 0


@dataclass(slots=True, eq=False)
class Row:
    """One text or pair on its way.

    Attributes:
        request: that it belongs to.
        place: in the request.
        audited: drawn for the audit.
        stage: that it waits for or is run by, counted from 0.
        entered: when it came to that stage.
        length: padded tokens; before the text is read, as many as are expected.
        tokens: by the tokenizer's key.
        stage_results: the stages that it went through.
        logits: of the last of these.
        answer: once there is one.
        waiting: it is in its stage's queue.
        over: it is answered, or nobody waits for it any more.
        deaths: worker threads that died while they had it.
    """

    request: Request
    place: int
    audited: bool = False
    stage: int = 0
    entered: float = 0.0
    length: int = 1
    tokens: dict[str, Tokens] = field(default_factory=dict)
    stage_results: list[StageResult] = field(default_factory=list)
    logits: Floats | None = None
    answer: RowResult | None = None
    waiting: bool = False
    over: bool = False
    deaths: int = 0


@dataclass(slots=True, eq=False)
class TokenizeTask:
    """A task: turn rows of one request into the tokens of a stage."""

    request: Request
    stage: int
    rows: list[Row]
    audit: bool
    started: float


@dataclass(slots=True, eq=False)
class BatchTask:
    """A task: run rows of one padded length through a stage.

    Attributes:
        stage: counted from 0.
        rows: of one padded length.
        length: this length.
        size: of the batch; a row is repeated where there are fewer.
        audit: the rows are answered already, and audited.
        started: when a worker took it.
    """

    stage: int
    rows: list[Row]
    length: int
    size: int
    audit: bool
    started: float

    @property
    def tokens(self) -> int:
        """That are computed."""
        return self.length * self.size


Task = TokenizeTask | BatchTask


class StageOutput(NamedTuple):
    """What a stage said to the rows of a batch.

    Attributes:
        logits: (rows, num_labels) before scaling.
        probabilities: (rows, num_labels).
        confidences: (rows,) compared with the thresholds.
        exits: (rows,) sure enough.
    """

    logits: Logits
    probabilities: Floats
    confidences: Floats
    exits: Bools


def read(cascade: Cascade, task: TokenizeTask) -> list[Tokens]:
    """The tokens of each of its rows, at its stage.

    Raises:
        DataError: if a text has none.
    """
    given = task.request.texts
    texts = given if len(task.rows) == len(given) else [given[row.place] for row in task.rows]
    made = cascade.stages[task.stage].encode(texts)  # type: ignore[arg-type]  # all texts, or all pairs
    spans = zip(pairwise(made.starts.tolist()), made.padded_lengths.tolist(), strict=True)
    return [Tokens(made.ids[start:end], made.type_ids[start:end], length) for (start, end), length in spans]


def token_batch(task: BatchTask, key: str, pad_id: int) -> TokenBatch:
    """The rows of a task, laid out for an engine as `TokenizedTexts` does."""
    tokens = [row.tokens[key] for row in task.rows]
    starts = np.zeros(len(tokens) + 1, dtype=np.int64)
    np.cumsum([len(one.ids) for one in tokens], out=starts[1:])
    ids = np.concatenate([one.ids for one in tokens])
    types = np.concatenate([one.type_ids for one in tokens])
    places = np.minimum(np.arange(task.size), len(tokens) - 1)
    return TokenizedTexts(ids, types, starts, pad_id).batch(places, length=task.length)


def judge(cascade: Cascade, task: BatchTask, logits: Logits) -> StageOutput:
    """Route the rows of a batch, each by its own thresholds."""
    stage, rows = task.stage, task.rows
    temperature, last = cascade.temperatures[stage], stage == len(cascade.stages) - 1
    if task.audit:  # the row is answered already; only the last stage's label is wanted
        return StageOutput(logits, *decide(logits, temperature=temperature, score=Score(), threshold=None))
    earlier = range(stage if cascade.score.weights else 0)
    decision = decide(
        logits,
        temperature=temperature,
        score=cascade.score,
        threshold=None if last else np.array([row.request.thresholds[stage] for row in rows]),
        earlier=[np.stack([row.stage_results[i].probabilities for row in rows]) for i in earlier],
    )
    return StageOutput(logits, *decision)
