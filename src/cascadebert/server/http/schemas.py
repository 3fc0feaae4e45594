"""The forms of requests and answers; they are checked here and described in the OpenAPI document.

`/predict` has the forms of Hugging Face text-embeddings-inference 1.9.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cascadebert.server.http.responses import HTTPError

SHORTEST_DEADLINE, LONGEST_DEADLINE = 0.001, 3_600_000.0
_EXAMPLE = "what a lovely film"
_INPUTS = (
    "inputs: expected a string, a pair [string, string], or a batch of [string] or [string, string] "
    "such as [[string], [string]]"
)

ErrorKind = Literal["Unhealthy", "Backend", "Overloaded", "Validation", "Tokenizer", "Empty"]
Text = Annotated[str, Field(json_schema_extra={"minLength": 1})]
"""Refused by a rule of its own where it is empty, with an error of its own kind."""
OneOrTwo = Annotated[list[Text], Field(min_length=1, max_length=2, fail_fast=True)]
Two = Annotated[list[str], Field(min_length=2, max_length=2, fail_fast=True)]


class PredictRequest(BaseModel):
    """What `/predict` is asked.

    Attributes:
        inputs: one text, one pair (a list of two strings), or a batch of lists of one or two strings.
        raw_scores: give logits instead of probabilities.
        truncate: false refuses what is longer than a stage reads; otherwise it is cut.
        truncation_direction: only "Right": what is too long for a stage cannot be cut at its beginning.
    """

    model_config = ConfigDict(
        strict=True, frozen=True, json_schema_extra={"examples": [{"inputs": _EXAMPLE}]}
    )

    inputs: Text | OneOrTwo | Annotated[list[OneOrTwo], Field(min_length=1, fail_fast=True)]
    raw_scores: bool = False
    truncate: bool | None = None
    truncation_direction: Literal["Right", "Left", "right", "left"] = "Right"


class ClassifyRequest(BaseModel):
    """What `/v1/classify` is asked.

    Attributes:
        texts: texts, or pairs of texts.
        max_stage: answer at this stage, counted from 1, at the latest.
        deadline_ms: milliseconds from which an answer is of no use.
        explain: give each stage that a row went through.
    """

    model_config = ConfigDict(
        strict=True,
        frozen=True,
        extra="forbid",
        json_schema_extra={"examples": [{"texts": [_EXAMPLE, "not worth the ticket"], "explain": True}]},
    )

    texts: (
        Annotated[list[str], Field(min_length=1, fail_fast=True)]
        | Annotated[list[Two], Field(min_length=1, fail_fast=True)]
    )
    max_stage: Annotated[int, Field(ge=1)] | None = None
    deadline_ms: Annotated[float, Field(ge=SHORTEST_DEADLINE, le=LONGEST_DEADLINE)] | None = None
    explain: bool = False


class Prediction(BaseModel):
    """The score of one label."""

    score: float = Field(examples=[0.98])
    label: str = Field(examples=["positive"])


class StageResultSchema(BaseModel):
    """A stage that a row went through; `milliseconds` with the time in its queue."""

    stage: int = Field(examples=[1])
    confidence: float = Field(examples=[0.98])
    milliseconds: float = Field(examples=[0.8])
    probabilities: dict[str, float] = Field(examples=[{"negative": 0.02, "positive": 0.98}])


class ClassifiedRow(BaseModel):
    """The answer to one text or pair; from `stage` on only where `explain` was asked for.

    Attributes:
        label: the answer.
        score: its probability.
        degraded: a later stage was wanted and could not be had.
        known_accuracy: only where degraded: of the stage that answered, on the rows that thresholds were
            picked on; null where that is not known.
        stage: that answered, counted from 1.
        confidence: what was compared with the threshold.
        milliseconds: in all stages.
        stages: that it went through.
    """

    label: str = Field(examples=["positive"])
    score: float = Field(examples=[0.98])
    degraded: bool = Field(examples=[False])
    known_accuracy: float | None = None
    stage: int | None = Field(default=None, examples=[1])
    confidence: float | None = Field(default=None, examples=[0.98])
    milliseconds: float | None = Field(default=None, examples=[0.8])
    stages: list[StageResultSchema] | None = None


class OperatingPointSchema(BaseModel):
    """An operating point: its place on the ladder, 0 the safest, and its thresholds."""

    place: int = Field(examples=[0])
    thresholds: list[float] = Field(examples=[[0.95]])


class ClassifyResponse(BaseModel):
    """What `/v1/classify` answers.

    Attributes:
        rows: in the order of the texts.
        operating_point: that the request was answered at.
        outside_certificate: why what is certified does not cover these answers; null where it does.
        degraded: some row is.
    """

    rows: list[ClassifiedRow]
    operating_point: OperatingPointSchema
    outside_certificate: str | None = Field(examples=[None])
    degraded: bool = Field(examples=[False])


class ErrorResponse(BaseModel):
    """Every answer that is none."""

    error: str = Field(examples=["inputs: expected a string, a pair or a batch"])
    error_type: ErrorKind = Field(examples=["Validation"])


Model = TypeVar("Model", PredictRequest, ClassifyRequest)


def parse(form: type[Model], body: bytes) -> Model:
    """A request of the given form.

    Raises:
        Refusal: 400 if the body is not JSON (of nesting that can be read, in UTF-8), 422 if it has another
            form; nothing of the texts is in the message.
    """
    try:
        return form.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "json_invalid":
        raise HTTPError(400, "Validation", f"the body is no readable JSON: {first['msg']}")
    if form is PredictRequest and where.startswith("inputs") and first["type"] != "missing":
        raise HTTPError(422, "Validation", _INPUTS)
    raise HTTPError(422, "Validation", f"{where or 'the body'}: {first['msg']}"[:300])
