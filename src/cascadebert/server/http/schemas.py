"""Schemas of requests and responses.

Those of `/predict` and `/vertex` are the ones of Hugging Face text-embeddings-inference 1.9, and `parameters`
those of the Hugging Face Inference API.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError
from pydantic.config import JsonDict

from cascadebert.server.http.messages import HTTPError

MIN_DEADLINE_MS, MAX_DEADLINE_MS = 0.001, 3_600_000.0
PREDICT: JsonDict = {"examples": [{"inputs": "a lovely film"}]}
CLASSIFY: JsonDict = {"examples": [{"texts": ["a lovely film", "not worth the ticket"], "explain": True}]}
INPUTS = "a string, a pair [string, string], or a batch [[string], ...] or [[string, string], ...]"

Direction = Literal["Right", "Left", "right", "left"]
ErrorType = Literal["Unhealthy", "Backend", "Overloaded", "Validation", "Tokenizer", "Empty"]
Text = Annotated[str, Field(json_schema_extra={"pattern": r"\S"})]  # the handler checks it: error type Empty
OneOrTwo = Annotated[list[Text], Field(min_length=1, max_length=2, fail_fast=True)]
Two = Annotated[list[Text], Field(min_length=2, max_length=2, fail_fast=True)]
Item = TypeVar("Item")
NonEmpty = Annotated[list[Item], Field(min_length=1, fail_fast=True)]


class Parameters(BaseModel, strict=True, frozen=True):
    """Parameters of the Hugging Face Inference API."""

    top_k: int | None = Field(None, ge=1, description="Return only the labels with the highest scores.")
    function_to_apply: Literal["softmax", "none"] | None = Field(None, description='"none" returns logits.')


class PredictRequest(BaseModel, strict=True, frozen=True, json_schema_extra=PREDICT):
    """Body of `POST /predict`."""

    inputs: Text | OneOrTwo | NonEmpty[OneOrTwo] = Field(
        description="One text, one pair (a list of two strings), or a batch of lists of one or two strings."
    )
    raw_scores: bool = Field(False, description="Return logits instead of probabilities.")
    truncate: bool | None = Field(None, description="`false` rejects texts that are too long.")
    truncation_direction: Direction = Field("Right", description='"Left" rejects texts that are too long.')
    parameters: Parameters | None = Field(
        None, description="If present, the response is a list of lists, as of the Hugging Face Inference API."
    )

    @property
    def is_batch(self) -> bool:
        """True if the inputs are a list of texts or pairs."""
        return isinstance(self.inputs, list) and isinstance(self.inputs[0], list)

    @property
    def texts(self) -> list[Any]:
        """The inputs as strings and pairs (tuples)."""
        return [as_text(item) for item in (self.inputs if self.is_batch else [self.inputs])]


class VertexRequest(BaseModel, strict=True, frozen=True):
    """Body of `POST /vertex`."""

    instances: NonEmpty[PredictRequest]


class ClassifyRequest(BaseModel, strict=True, frozen=True, extra="forbid", json_schema_extra=CLASSIFY):
    """Body of `POST /v1/classify`."""

    texts: NonEmpty[Text] | NonEmpty[Two] = Field(description="Texts, or pairs of texts.")
    max_stage: int | None = Field(None, ge=1, description="The last stage that may predict, from 1.")
    deadline_ms: float | None = Field(None, ge=MIN_DEADLINE_MS, le=MAX_DEADLINE_MS)
    explain: bool = Field(False, description="Return the results of every stage that ran.")


class Prediction(BaseModel):
    """Score of one label."""

    score: float = Field(examples=[0.98])
    label: str = Field(examples=["positive"])


PredictResponse = list[Prediction] | list[list[Prediction]]  # of one text, or of a batch


class VertexResponse(BaseModel):
    """Response of `POST /vertex`; one prediction per instance."""

    predictions: list[PredictResponse]


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
    truncated: bool = Field(
        examples=[False], description="The text has more tokens than the stage reads, and was cut."
    )
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


Model = TypeVar("Model", PredictRequest, VertexRequest, ClassifyRequest)


def as_text(item: Any) -> Any:
    """Convert a string, or a list of one or two, to a string or a pair (tuple)."""
    return item if isinstance(item, str) else item[0] if len(item) == 1 else tuple(item)


def parse(model: type[Model], body: bytes) -> Model:
    """Parse a request.

    Raises HTTPError 400 if the body is not JSON (too deep and not UTF-8 included), 422 if it does not match
    the schema; messages never contain the texts.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as validation_error:
        error = validation_error.errors(include_url=False, include_input=False)[0]
    if error["type"] == "json_invalid":
        raise HTTPError(f"the body is not valid JSON: {error['msg']}", 400)
    field, inputs, _ = ".".join(str(part) for part in error["loc"]).partition("inputs")
    if inputs and error["type"] != "missing":
        raise HTTPError(f"{field}inputs: expected {INPUTS}")
    raise HTTPError(f"{field + inputs or 'the body'}: {error['msg']}"[:300])
