"""The OpenAPI document."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from cascadebert import __version__
from cascadebert.server.http.schemas import (
    ClassifyRequest,
    ClassifyResponse,
    ErrorResponse,
    Prediction,
    PredictRequest,
)

ERRORS = {
    400: "The body is not valid JSON, or a text is empty.",
    401: "The token is missing or wrong.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The content type is not JSON.",
    422: "The body does not match the schema or exceeds a limit.",
    424: "A stage failed on this request.",
    429: "The queues are full; `Retry-After` holds the seconds to wait.",
    503: "The server is not ready, or a required stage is unavailable.",
    504: "The deadline passed before the result was complete.",
}
MODELS = (PredictRequest, Prediction, ClassifyRequest, ClassifyResponse, ErrorResponse)
REFERENCE = "#/components/schemas/{model}"


def openapi_document() -> dict[str, Any]:
    """Build the document from the pydantic models; plain JSON values."""
    schemas = models_json_schema([(model, "validation") for model in MODELS], ref_template=REFERENCE)[1]
    predictions = {"type": "array", "items": _reference(Prediction)}
    batch = {"type": "array", "items": predictions}
    status = {"type": "object", "additionalProperties": {"type": "string"}}
    predict = _operation(
        "Predict as text-embeddings-inference does", {"anyOf": [predictions, batch]}, *ERRORS
    )
    classify = _operation("Predict with details of the cascade", _reference(ClassifyResponse), *ERRORS)
    info = "Cascade, operating points, queues and quality monitoring"
    paths = {
        "/predict": {"post": predict | _request_body(PredictRequest)},
        "/v1/classify": {"post": classify | _request_body(ClassifyRequest)},
        "/health": {"get": _operation("Liveness of the process", status)},
        "/ready": {"get": _operation("Readiness for requests", status, 503)},
        "/info": {"get": _operation(info, {}, 401)},
        "/metrics": {"get": _operation("Prometheus metrics", None, 401)},
    }
    description = "Small text classifiers first, large ones only for uncertain texts."
    header = {"title": "cascadebert", "version": __version__, "description": description}
    components = {"schemas": schemas["$defs"]}
    return {"openapi": "3.1.0", "info": header, "paths": paths, "components": components}


def _operation(summary: str, schema: dict[str, Any] | None, *errors: int) -> dict[str, Any]:
    responses = {
        str(error): {"description": ERRORS[error]} | _content(_reference(ErrorResponse)) for error in errors
    }
    success = {"description": "Success."} | ({} if schema is None else _content(schema))
    return {"summary": summary, "responses": {"200": success} | responses}


def _request_body(model: type[BaseModel]) -> dict[str, Any]:
    return {"requestBody": {"required": True} | _content(_reference(model))}


def _content(schema: dict[str, Any]) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": schema}}}


def _reference(model: type[BaseModel]) -> dict[str, Any]:
    return {"$ref": REFERENCE.format(model=model.__name__)}
