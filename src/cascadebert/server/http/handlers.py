"""Handlers of the prediction requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from itertools import islice
from typing import Any

from starlette.types import Receive, Scope, Send

from cascadebert.errors import DataError
from cascadebert.inference.cascade import Cascade
from cascadebert.inference.stage import truncation_notices
from cascadebert.server.config import ServerConfig
from cascadebert.server.http.messages import ClientDisconnected, HTTPError, encode_json, read_body, send_json
from cascadebert.server.http.schemas import ClassifyRequest, PredictRequest, VertexRequest, as_text, parse
from cascadebert.server.monitoring.metrics import Metrics
from cascadebert.server.scheduling.dispatcher import BatchDispatcher
from cascadebert.server.types import RequestOptions, RequestResult, RowResult, ServerError, StageResult
from cascadebert.types import Texts

log = logging.getLogger(__name__)


class Handlers:
    """ASGI application of the paths that predict; Starlette's requests and responses cost more."""

    def __init__(
        self, dispatcher: BatchDispatcher, cascade: Cascade, config: ServerConfig, metrics: Metrics
    ) -> None:
        self._dispatcher, self._cascade, self._config, self._metrics = dispatcher, cascade, config, metrics
        self._labels, self._operating_points = cascade.label_names, dispatcher.state().operating_points
        report = None if cascade.spec is None else cascade.spec.measured
        self._accuracies = () if report is None else tuple(stage.accuracy for stage in report.stages)
        self._texts = self._truncated = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request whose path the router has checked."""
        body = await read_body(scope, receive, self._config.max_bytes)
        handler = {"/v1/classify": self._classify, "/vertex": self._vertex}.get(scope["path"], self._predict)
        content, result = await handler(body, receive)
        headers = [(b"x-cascade-operating-point", b"%d" % result.operating_point)]
        if result.uncertified_reason is not None:
            headers.append((b"x-cascade-uncertified", b"1"))
        if any(row.degraded for row in result.rows):
            headers.append((b"x-cascade-degraded", b"1"))
        await send_json(send, encode_json(content), headers=tuple(headers))

    async def _predict(self, body: bytes, receive: Receive) -> tuple[object, RequestResult]:
        contents, result = await self._predict_all([parse(PredictRequest, body)], receive)
        return contents[0], result

    async def _vertex(self, body: bytes, receive: Receive) -> tuple[object, RequestResult]:
        contents, result = await self._predict_all(parse(VertexRequest, body).instances, receive)
        return {"predictions": contents}, result

    async def _predict_all(
        self, requests: Sequence[PredictRequest], receive: Receive
    ) -> tuple[list[object], RequestResult]:
        texts = [text for request in requests for text in request.texts]
        self._check_texts(texts, two_texts='[["a"], ["b"]]')
        first = 1
        for request in requests:
            left = request.truncate is not False
            if request.truncate is False or request.truncation_direction.lower() == "left":
                await self._check_lengths(request.texts, first, left=left)
            first += len(request.texts)
        result = await self._run(texts, RequestOptions(), receive)
        rows = iter(result.rows)
        return [
            self._content(request, list(islice(rows, len(request.texts)))) for request in requests
        ], result

    def _content(self, request: PredictRequest, rows: Sequence[RowResult]) -> object:
        parameters = request.parameters
        raw = request.raw_scores or (parameters is not None and parameters.function_to_apply == "none")
        top_k = None if parameters is None else parameters.top_k
        predictions = [self._scores(row, raw)[:top_k] for row in rows]
        return predictions if request.is_batch or parameters is not None else predictions[0]

    async def _classify(self, body: bytes, receive: Receive) -> tuple[object, RequestResult]:
        request = parse(ClassifyRequest, body)
        texts = [as_text(item) for item in request.texts]
        self._check_texts(texts, two_texts='["a", "b"]')
        num_stages = len(self._cascade.stages)
        if request.max_stage is not None and request.max_stage > num_stages:
            raise HTTPError(f"max_stage: expected 1 to {num_stages}, the number of stages")
        deadline = None if request.deadline_ms is None else request.deadline_ms / 1000
        result = await self._run(texts, RequestOptions(request.max_stage, deadline), receive)
        index = result.operating_point
        content = {
            "rows": [self._row(row, request.explain) for row in result.rows],
            "operating_point": {"index": index, "thresholds": list(self._operating_points[index])},
            "uncertified_reason": result.uncertified_reason,
            "degraded": any(row.degraded for row in result.rows),
        }
        return content, result

    def _check_texts(self, texts: list[Any], *, two_texts: str) -> None:
        # `two_texts`: how two texts are written in such a request
        config, spec = self._config, self._cascade.spec
        if len(texts) > config.max_client_batch_size:
            limit = f"the maximum of {config.max_client_batch_size:,} per request"
            raise HTTPError(f"{len(texts):,} texts exceed {limit}")
        pair = isinstance(texts[0], tuple) if spec is None else spec.texts_per_row == 2
        for number, text in enumerate(texts, start=1):
            if isinstance(text, tuple) != pair:
                expected, actual = ("a pair", "a single text") if pair else ("a single text", "a pair")
                hint = "" if pair else f"; two texts are {two_texts}"
                raise DataError(f"text {number}: the cascade expects {expected}, got {actual}{hint}")
            parts = text if pair else (text,)
            if not all(map(str.strip, parts)):
                raise HTTPError(f"text {number} is empty", 400, "Empty")
            length = sum(map(len, parts))
            if length > config.max_characters:
                limit = f"the maximum of {config.max_characters:,}"
                raise HTTPError(f"text {number}: {length:,} characters exceed {limit}")

    async def _check_lengths(self, texts: Texts, first: int, *, left: bool) -> None:
        # `first` is the number of the first of the texts in the request
        loop = asyncio.get_running_loop()
        for tokenizer in {stage.tokenizer.key: stage.tokenizer for stage in self._cascade.stages}.values():
            truncated = await loop.run_in_executor(None, tokenizer.truncates, texts)
            if any(truncated):
                reason = "it cannot be truncated on the left" if left else "`truncate` is false"
                length = f"text {truncated.index(True) + first} has more than {tokenizer.max_length} tokens"
                raise HTTPError(f"{length}, the maximum of a stage, and {reason}")

    async def _run(self, texts: Texts, options: RequestOptions, receive: Receive) -> RequestResult:
        # Raises ClientDisconnected if the client leaves first, and then cancels the request.
        future = asyncio.wrap_future(self._dispatcher.submit(texts, options))
        disconnect = asyncio.ensure_future(_wait_for_disconnect(receive))
        try:
            await asyncio.wait((future, disconnect), return_when=asyncio.FIRST_COMPLETED)
            if not future.done():
                raise ClientDisconnected
            error = future.exception()  # raises CancelledError if the server has stopped
            if error is not None and not isinstance(error, (ServerError, DataError)):
                raise HTTPError("a stage failed on this request", 424, "Backend") from error
            result = future.result()
        finally:
            disconnect.cancel()
            future.cancel()  # and with it the dispatcher's, if it is not done
        self._metrics.count_result(result)
        self._count_truncated(result)
        return result

    def _count_truncated(self, result: RequestResult) -> None:
        known = self._truncated
        self._texts += len(result.rows)
        self._truncated += sum(row.truncated for row in result.rows)
        if self._truncated and not known:
            self.log_truncation()

    def log_truncation(self) -> None:
        """Log the share of texts that were cut, if any, and what the maximum length could be."""
        for notice in truncation_notices(self._cascade.stages, self._truncated, self._texts):
            log.warning("%s", notice)

    def _scores(self, row: RowResult, raw: bool) -> list[dict[str, object]]:
        # Highest first; of equal ones the later label, as text-embeddings-inference has it.
        scores = (row.logits if raw else row.stage_results[-1].probabilities).tolist()
        order = sorted(range(len(scores)), key=scores.__getitem__)
        return [{"score": scores[i], "label": self._labels[i]} for i in reversed(order)]

    def _row(self, row: RowResult, explain: bool) -> dict[str, object]:
        last, seconds = row.stage_results[-1], sum(result.seconds for result in row.stage_results)
        best = int(last.probabilities.argmax())
        score = float(last.probabilities[best])
        values: dict[str, object] = {"label": self._labels[best], "score": score, "degraded": row.degraded}
        values["truncated"] = row.truncated
        if row.degraded:
            values["known_accuracy"] = self._accuracies[last.stage - 1] if self._accuracies else None
        if explain:
            values |= _timing(last, seconds)
            values["stages"] = [
                _timing(result, result.seconds)
                | {"probabilities": dict(zip(self._labels, result.probabilities.tolist(), strict=True))}
                for result in row.stage_results
            ]
        return values


def _timing(result: StageResult, seconds: float) -> dict[str, object]:
    milliseconds = round(1000 * seconds, 3)
    return {"stage": result.stage, "confidence": float(result.confidence), "milliseconds": milliseconds}


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
