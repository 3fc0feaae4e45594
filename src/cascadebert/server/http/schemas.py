"""Schemas of requests and responses, and the OpenAPI document that is made of them.

Those of `/predict` are the ones of Hugging Face text-embeddings-inference 1.9.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from pydantic.config import JsonDict
from pydantic.json_schema import JsonSchemaMode

from cascadebert import __version__
from cascadebert.server.http.messages import HTTPError

MIN_DEADLINE_MS, MAX_DEADLINE_MS = 0.001, 3_600_000.0
PREDICT: JsonDict = {"examples": [{"inputs": "a lovely film"}]}
CLASSIFY: JsonDict = {"examples": [{"texts": ["a lovely film", "not worth the ticket"], "explain": True}]}
INPUTS = "a string, a pair [string, string], or a batch [[string], ...] or [[string, string], ...]"

Direction = Literal["Right", "Left", "right", "left"]
ErrorType = Literal["Unhealthy", "Backend", "Overloaded", "Validation", "Tokenizer", "Empty"]
Text = Annotated[str, Field(json_schema_extra={"minLength": 1})]  # the handler checks it: error type Empty
OneOrTwo = Annotated[list[Text], Field(min_length=1, max_length=2, fail_fast=True)]
Two = Annotated[list[str], Field(min_length=2, max_length=2, fail_fast=True)]
Item = TypeVar("Item")
NonEmpty = Annotated[list[Item], Field(min_length=1, fail_fast=True)]


class PredictRequest(BaseModel, strict=True, frozen=True, json_schema_extra=PREDICT):
    """Body of `POST /predict`."""

    inputs: Text | OneOrTwo | NonEmpty[OneOrTwo] = Field(
        description="One text, one pair (a list of two strings), or a batch of lists of one or two strings."
    )
    raw_scores: bool = Field(False, description="Return logits instead of probabilities.")
    truncate: bool | None = Field(None, description="`false` rejects texts that are too long.")
    truncation_direction: Direction = Field("Right", description='"Left" rejects texts that are too long.')


class ClassifyRequest(BaseModel, strict=True, frozen=True, extra="forbid", json_schema_extra=CLASSIFY):
    """Body of `POST /v1/classify`."""

    texts: NonEmpty[str] | NonEmpty[Two] = Field(description="Texts, or pairs of texts.")
    max_stage: int | None = Field(None, ge=1, description="The last stage that may predict, from 1.")
    deadline_ms: float | None = Field(None, ge=MIN_DEADLINE_MS, le=MAX_DEADLINE_MS)
    explain: bool = Field(False, description="Return the results of every stage that ran.")


class Prediction(BaseModel):
    """Score of one label."""

    score: float = Field(examples=[0.98])
    label: str = Field(examples=["positive"])


PredictResponse = list[Prediction] | list[list[Prediction]]  # of one text, or of a batch


class StageResultSchema(BaseModel):
    """Results of one stage for one text; `milliseconds` include the time in its queue."""

    stage: int = Field(examples=[1])
    confidence: float = Field(examples=[0.98])
    milliseconds: float = Field(examples=[0.8])
    probabilities: dict[str, float] = Field(examples=[{"negative": 0.02, "positive": 0.98}])


class ClassifiedRow(BaseModel):
    """Prediction for one text or pair; the fields from `stage` on are present with `explain`."""

    label: str = Field(examples=["positive"])
    score: float = Field(examples=[0.98], description="Probability of the label.")
    degraded: bool = Field(examples=[False], description="A later stage was required but unavailable.")
    known_accuracy: float | None = Field(
        None, description="Of the stage of a degraded row, on the tuning set; null if unknown."
    )
    stage: int | None = Field(None, examples=[1], description="Stage of the exit, counted from 1.")
    confidence: float | None = Field(None, examples=[0.98], description="Compared with the threshold.")
    milliseconds: float | None = Field(None, examples=[0.8], description="In all stages.")
    stages: list[StageResultSchema] | None = None


class OperatingPointSchema(BaseModel):
    """Operating point of a request; index 0 is the most conservative."""

    index: int = Field(examples=[0])
    thresholds: list[float] = Field(examples=[[0.95]])


class ClassifyResponse(BaseModel):
    """Response of `POST /v1/classify`; `rows` are in the order of the texts."""

    rows: list[ClassifiedRow]
    operating_point: OperatingPointSchema
    uncertified_reason: str | None = Field(examples=[None], description="null if the certificate holds.")
    degraded: bool = Field(examples=[False], description="True if any row is degraded.")


class ErrorResponse(BaseModel):
    """Body of every error."""

    error: str = Field(examples=["inputs: expected a string, a pair or a batch"])
    error_type: ErrorType = Field(examples=["Validation"])


Model = TypeVar("Model", PredictRequest, ClassifyRequest)


def parse(model: type[Model], body: bytes) -> Model:
    """Parse a request.

    Raises HTTPError 400 if the body is not JSON (too deep and not UTF-8 included), 422 if it does not match
    the schema; messages never contain the texts.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as validation_error:
        error = validation_error.errors(include_url=False, include_input=False)[0]
    field = ".".join(str(part) for part in error["loc"])
    if error["type"] == "json_invalid":
        raise HTTPError(f"the body is not valid JSON: {error['msg']}", 400)
    if model is PredictRequest and field.startswith("inputs") and error["type"] != "missing":
        raise HTTPError(f"inputs: expected {INPUTS}")
    raise HTTPError(f"{field or 'the body'}: {error['msg']}"[:300])


ERRORS = {
    400: "The body is not valid JSON, or a text is empty.",
    401: "The token is missing or wrong.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The content type is not JSON.",
    422: "The body does not match the schema or exceeds a limit.",
    424: "A stage failed on this request.",
    429: "The queue is full or the expected wait too long; `Retry-After` holds the seconds to wait.",
    503: "The server is not ready, or a required stage is unavailable.",
    504: "The deadline passed before the result was complete.",
}
# Path, summary, type of the body (None for GET), type of the response (None if it is not JSON), errors.
OPERATIONS: tuple[tuple[str, str, Any, Any, Iterable[int]], ...] = (
    ("/predict", "Predict as text-embeddings-inference does", PredictRequest, PredictResponse, ERRORS),
    ("/v1/classify", "Predict with details of the cascade", ClassifyRequest, ClassifyResponse, ERRORS),
    ("/health", "Liveness of the process", None, dict[str, str], ()),
    ("/ready", "Readiness for requests", None, dict[str, str], (503,)),
    ("/info", "Cascade, operating points, queues and quality monitoring", None, Any, (401,)),
    ("/metrics", "Prometheus metrics", None, None, (401,)),
)


def openapi_document() -> dict[str, Any]:
    """Build the OpenAPI document; plain JSON values."""
    types = {ErrorResponse, *(kind for operation in OPERATIONS for kind in operation[2:4])} - {None}
    mode: JsonSchemaMode = "validation"
    adapters = [(kind, mode, TypeAdapter(kind)) for kind in types]
    schemas, components = TypeAdapter.json_schemas(adapters, ref_template="#/components/schemas/{model}")

    def content(kind: Any) -> dict[str, Any]:
        return {"content": {"application/json": {"schema": schemas[kind, mode]}}}

    paths = {}
    for path, summary, body, response, errors in OPERATIONS:
        success = {"description": "Success."} | ({} if response is None else content(response))
        failures = {str(error): {"description": ERRORS[error]} | content(ErrorResponse) for error in errors}
        operation = {"summary": summary, "responses": {"200": success} | failures}
        if body is not None:
            operation["requestBody"] = {"required": True} | content(body)
        paths[path] = {"get" if body is None else "post": operation}
    description = "Small text classifiers first, large ones only for uncertain texts."
    header = {"title": "cascadebert", "version": __version__, "description": description}
    components = {"schemas": dict(sorted(components["$defs"].items()))}
    return {"openapi": "3.1.0", "info": header, "paths": paths, "components": components}
