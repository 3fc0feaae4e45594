"""The table of all paths, and the OpenAPI document that is made of it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode

from cascadebert import __version__
from cascadebert.server.http.schemas import (
    ClassifyRequest,
    ClassifyResponse,
    ErrorResponse,
    PredictRequest,
    PredictResponse,
    VertexRequest,
    VertexResponse,
)

ERRORS = {
    400: "The body is not valid JSON or gzip, or a text is empty.",
    401: "The token is missing or wrong.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The content type is not JSON, or the content encoding not gzip.",
    422: "The body does not match the schema or exceeds a limit.",
    424: "A stage failed on this request.",
    429: "The queue is full or the expected wait too long; `Retry-After` holds the seconds to wait.",
    503: "The server is not ready, or a required stage is unavailable.",
    504: "The deadline passed before the result was complete.",
}


class Operation(NamedTuple):
    """One path and its method: POST with a body, else GET."""

    path: str
    summary: str
    body: Any = None  # type of the body
    response: Any = None  # type of the response; None if it is not JSON
    errors: Collection[int] = ()

    @property
    def method(self) -> str:
        """The HTTP method."""
        return "GET" if self.body is None else "POST"

    @property
    def public(self) -> bool:
        """True if no token is required, as nothing of the model and of the traffic is shown."""
        return 401 not in self.errors


PREDICT, STATUS = (PredictRequest, PredictResponse, ERRORS), dict[str, str]
OPERATIONS = (
    Operation("/predict", "Predict as text-embeddings-inference does", *PREDICT),
    Operation("/", "The same for `huggingface_hub.InferenceClient`", *PREDICT),
    Operation("/invocations", "The same for Amazon SageMaker", *PREDICT),
    Operation("/vertex", "The same for Google Vertex AI", VertexRequest, VertexResponse, ERRORS),
    Operation(
        "/v1/classify", "Predict with details of the cascade", ClassifyRequest, ClassifyResponse, ERRORS
    ),
    Operation("/", "A page to try texts"),
    Operation("/health", "Liveness of the process", None, STATUS),
    Operation("/ready", "Readiness for requests", None, STATUS, (503,)),
    Operation("/ping", "The same for Amazon SageMaker", None, STATUS, (503,)),
    Operation("/info", "Cascade, operating points, queues and quality monitoring", None, Any, (401,)),
    Operation("/metrics", "Prometheus metrics", None, None, (401,)),
    Operation("/openapi.json", "This document", None, Any),
)
BEARER = {
    "type": "http",
    "scheme": "bearer",
    "description": "Required only if the server was started with a token (`CASCADEBERT_TOKEN`).",
}


def openapi_document(*, token: bool) -> dict[str, Any]:
    """Build the OpenAPI document, of plain JSON values; `token`: the server requires one."""
    types = {ErrorResponse, *(kind for operation in OPERATIONS for kind in operation[2:4])} - {None}
    mode: JsonSchemaMode = "validation"
    adapters = [(kind, mode, TypeAdapter(kind)) for kind in types]
    schemas, components = TypeAdapter.json_schemas(adapters, ref_template="#/components/schemas/{model}")

    def content(kind: Any) -> dict[str, Any]:
        return {"content": {"application/json": {"schema": schemas[kind, mode]}}}

    paths = dict[str, dict[str, Any]]()
    for operation in OPERATIONS:
        response = {} if operation.response is None else content(operation.response)
        failures = {
            str(code): {"description": ERRORS[code]} | content(ErrorResponse) for code in operation.errors
        }
        responses = {"200": {"description": "Success."} | response} | failures
        described: dict[str, Any] = {"summary": operation.summary, "responses": responses}
        if not operation.public:
            described["security"] = [{"bearer": []}] if token else [{}, {"bearer": []}]
        if operation.body is not None:
            described["requestBody"] = {"required": True} | content(operation.body)
        paths.setdefault(operation.path, {})[operation.method.lower()] = described
    description = "Small text classifiers first, large ones only for uncertain texts."
    header = {"title": "cascadebert", "version": __version__, "description": description}
    parts = {"schemas": dict(sorted(components["$defs"].items())), "securitySchemes": {"bearer": BEARER}}
    return {"openapi": "3.1.0", "info": header, "paths": paths, "components": parts}
