"""The two questions a server answers, `/predict` and `/v1/classify`: from a request's body to a reply."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

from cascadebert.errors import DataError
from cascadebert.inference.cascade import Cascade
from cascadebert.server.config import ServerConfig
from cascadebert.server.http.request_body import ClientDisconnected, Receive, Scope, read_json
from cascadebert.server.http.responses import Headers, HTTPError, JSONReply, json_reply
from cascadebert.server.http.schemas import ClassifyRequest, PredictRequest, parse
from cascadebert.server.types import (
    DispatcherState,
    RequestOptions,
    RequestResult,
    RowResult,
    ServerError,
    StageResult,
)
from cascadebert.types import Texts

Answered = Callable[[RequestResult], None]


class Pool(Protocol):
    """What answers texts."""

    def start(self) -> None:
        """Get ready."""
        ...

    def submit(self, texts: Texts, options: RequestOptions = ...) -> Future[RequestResult]:
        """Begin to answer; raises at once what can be said at once."""
        ...

    def drain(self, seconds: float) -> bool:
        """Answer what is in flight and stop; False if there was not time enough."""
        ...

    def state(self) -> DispatcherState:
        """How it is."""
        ...


class Handlers:
    """Answers requests from the pool.

    Args:
        pool: that runs the stages.
        cascade: that the pool runs.
        settings: of the server.
        answered: told of every answer.
    """

    def __init__(self, pool: Pool, cascade: Cascade, settings: ServerConfig, answered: Answered) -> None:
        self._pool, self._cascade, self._settings, self._answered = pool, cascade, settings, answered
        self._names = cascade.label_names
        self._ladder: tuple[tuple[float, ...], ...] = ()
        report = None if cascade.spec is None else cascade.spec.measured
        self._accuracies = () if report is None else tuple(one.accuracy for one in report.stages)

    async def predict(self, scope: Scope, receive: Receive) -> JSONReply:
        """Answer as text-embeddings-inference does; what its form has no place for stands in headers."""
        asked = parse(PredictRequest, await read_json(scope, receive, self._settings.max_bytes))
        batch = isinstance(asked.inputs, list) and isinstance(asked.inputs[0], list)
        texts = self._checked([_text(row) for row in (asked.inputs if batch else [asked.inputs])])
        if any(not any(text) for text in texts):
            raise HTTPError(400, "Empty", "inputs: a text is empty")
        if asked.truncate is False or asked.truncation_direction.lower() == "left":
            await self._refuse_cut(texts, asked.truncate is False)
        answer = await self._answer(texts, RequestOptions(), receive)
        found = [self._scores(row, asked.raw_scores) for row in answer.rows]
        return json_reply(found if batch else found[0], _headers(answer))

    async def classify(self, scope: Scope, receive: Receive) -> JSONReply:
        """Answer in the form of this package."""
        asked = parse(ClassifyRequest, await read_json(scope, receive, self._settings.max_bytes))
        texts = self._checked([_text(row) for row in asked.texts])
        count = len(self._cascade.stages)
        if asked.max_stage is not None and asked.max_stage > count:
            raise HTTPError(422, "Validation", f"max_stage: expected 1 to {count}, the number of stages")
        deadline = None if asked.deadline_ms is None else asked.deadline_ms / 1000
        answer = await self._answer(texts, RequestOptions(asked.max_stage, deadline), receive)
        values = {
            "rows": [self._row(row, asked.explain) for row in answer.rows],
            "operating_point": {"place": answer.operating_point, "thresholds": self._thresholds(answer.operating_point)},
            "outside_certificate": answer.uncertified_reason,
            "degraded": any(row.degraded for row in answer.rows),
        }
        return json_reply(values, _headers(answer))

    def _checked(self, texts: list[Any]) -> Texts:
        """Texts that are within the limits and all of the kind that the cascade reads."""
        limits, spec = self._settings, self._cascade.spec
        if len(texts) > limits.max_client_batch_size:
            message = f"{len(texts):,} texts are more than {limits.max_client_batch_size:,}, the most of one request"
            raise HTTPError(422, "Validation", message)
        pair = isinstance(texts[0], tuple) if spec is None else spec.texts_per_row == 2
        for place, text in enumerate(texts, start=1):
            if isinstance(text, tuple) != pair:
                wanted, given = ("a pair", "a single text") if pair else ("a single text", "a pair")
                raise DataError(f"text {place}: expected {wanted}, as the cascade was made for, got {given}")
            length = sum(map(len, text)) if pair else len(text)
            if length > limits.max_characters:
                limit = f"{limits.max_characters:,}, the most of one"
                raise HTTPError(
                    422, "Validation", f"text {place} has {length:,} characters, more than {limit}"
                )
        return texts

    async def _refuse_cut(self, texts: Texts, wholly: bool) -> None:
        loop = asyncio.get_running_loop()
        for encoder in {stage.tokenizer.key: stage.tokenizer for stage in self._cascade.stages}.values():
            cut = await loop.run_in_executor(None, encoder.cuts, texts)
            if any(cut):
                long = f"text {cut.index(True) + 1} has more than {encoder.max_length} tokens"
                why = "is not to be truncated" if wholly else "cannot be truncated on the left"
                raise HTTPError(422, "Validation", f"{long}, the most that a stage reads, and {why}")

    async def _answer(self, texts: Texts, options: RequestOptions, receive: Receive) -> RequestResult:
        """The pool's answer.

        Raises:
            Gone: if the connection is cut before; the pool is told that nobody waits.
            Refusal: 424 if the pool failed in a way that was not foreseen.
        """
        future = self._pool.submit(texts, options)
        waiting = asyncio.wrap_future(future)
        cut = asyncio.ensure_future(_cut(receive))
        try:
            await asyncio.wait((waiting, cut), return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                raise ClientDisconnected
            answer = _result(waiting)
        finally:
            cut.cancel()
            waiting.cancel()  # and with it the pool's own, if it is not done
        self._answered(answer)
        return answer

    def _thresholds(self, point: int) -> list[float]:
        if not self._ladder:
            self._ladder = self._pool.state().operating_points
        return list(self._ladder[point])

    def _scores(self, row: RowResult, raw: bool) -> list[dict[str, object]]:
        """Scores of all labels, the highest first; of equal ones the later label, as there."""
        given = (row.logits if raw else row.stage_results[-1].probabilities).tolist()
        order, names = sorted(range(len(given)), key=given.__getitem__), self._names
        return [{"score": given[i], "label": names[i]} for i in reversed(order)]

    def _row(self, row: RowResult, explain: bool) -> dict[str, object]:
        last, names = row.stage_results[-1], self._names
        best = int(last.probabilities.argmax())
        values: dict[str, object] = {
            "label": names[best],
            "score": float(last.probabilities[best]),
            "degraded": row.degraded,
        }
        if row.degraded:
            values["known_accuracy"] = self._accuracies[last.stage - 1] if self._accuracies else None
        if explain:
            values["stage"] = last.stage
            values["confidence"] = float(last.confidence)
            values["milliseconds"] = round(1000 * sum(visit.seconds for visit in row.stage_results), 3)
            values["stages"] = [_visit(visit, names) for visit in row.stage_results]
        return values


def _visit(visit: StageResult, names: Sequence[str]) -> dict[str, object]:
    return {
        "stage": visit.stage,
        "confidence": float(visit.confidence),
        "milliseconds": round(1000 * visit.seconds, 3),
        "probabilities": dict(zip(names, visit.probabilities.tolist(), strict=True)),
    }


def _text(row: Any) -> str | tuple[str, str]:
    """A text, or a pair, of what the forms let through: a string, or a list of one or two."""
    if isinstance(row, str):
        return row
    return row[0] if len(row) == 1 else (row[0], row[1])


def _headers(answer: RequestResult) -> Headers:
    """The operating point, and what the reader of an answer must know of it."""
    found = [(b"x-cascade-point", b"%d" % answer.operating_point)]
    if answer.uncertified_reason is not None:
        found.append((b"x-cascade-outside-certificate", b"1"))
    if any(row.degraded for row in answer.rows):
        found.append((b"x-cascade-degraded", b"1"))
    return tuple(found)


async def _cut(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _result(waiting: asyncio.Future[RequestResult]) -> RequestResult:
    if waiting.cancelled():
        raise HTTPError(503, "Unhealthy", "the server stopped before there was an answer")
    error = waiting.exception()
    if error is None or isinstance(error, (ServerError, DataError)):
        return waiting.result()
    raise HTTPError(424, "Backend", "a stage failed on this request") from error
