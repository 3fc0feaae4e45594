"""The OpenAPI document."""

from __future__ import annotations

from functools import cache
from typing import Any

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


@cache
def openapi_document() -> dict[str, Any]:
    """Build the document from the pydantic models; plain JSON values."""
    schemas = models_json_schema([(model, "validation") for model in MODELS], ref_template=REFERENCE)[1]
    predictions = {"type": "array", "items": _reference("Prediction")}
    batch = {"type": "array", "items": predictions}
    status = {"type": "object", "additionalProperties": {"type": "string"}}
    predict = _operation(
        "Predict as text-embeddings-inference does", {"anyOf": [predictions, batch]}, *ERRORS
    )
    classify = _operation("Predict with details of the cascade", _reference("ClassifyResponse"), *ERRORS)
    paths = {
        "/predict": {"post": predict | _request("PredictRequest")},
        "/v1/classify": {"post": classify | _request("ClassifyRequest")},
        "/health": {"get": _operation("Liveness", status)},
        "/ready": {"get": _operation("Readiness: requests are accepted", status, 503)},
        "/info": {"get": _operation("Cascade, operating points, queues and monitoring", {}, 401)},
        "/metrics": {"get": _operation("Prometheus metrics", None, 401)},
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "cascadebert",
            "version": __version__,
            "description": "Small text classifiers first, large ones only for uncertain texts.",
        },
        "paths": paths,
        "components": {"schemas": schemas["$defs"]},
    }


def _operation(summary: str, schema: dict[str, Any] | None, *errors: int) -> dict[str, Any]:
    success = {"description": "Success."} | ({} if schema is None else _content(schema))
    failures = {
        str(code): {"description": ERRORS[code]} | _content(_reference("ErrorResponse")) for code in errors
    }
    return {"summary": summary, "responses": {"200": success} | failures}


def _request(model: str) -> dict[str, Any]:
    return {"requestBody": {"required": True} | _content(_reference(model))}


def _content(schema: dict[str, Any]) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": schema}}}


def _reference(model: str) -> dict[str, str]:
    return {"$ref": REFERENCE.format(model=model)}
