"""What cascade.json holds; checked on the way in and on the way out."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Self

from cascadebert.thresholds.confidence import Score
from cascadebert.thresholds.operating_point import OperatingPoint
from cascadebert.types import Flops, Histogram, LinearLatency, Report

SCHEMA_VERSION = 1
_STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class StageSpec(BaseModel):
    """One stage of a saved cascade.

    Attributes:
        path: its sub-folder.
        name: what it was made from.
        layers: number of transformer layers.
        hidden: width of a layer.
        max_length: longest row in tokens.
        temperature: its logits are divided by this.
        flops: of one row.
        sha256: of every file of the sub-folder.
    """

    model_config = _STRICT

    path: str
    name: str
    layers: int
    hidden: int
    max_length: int
    temperature: float = Field(gt=0)
    flops: Flops | None
    sha256: dict[str, str]


class TunedOn(BaseModel):
    """Where the operating point was picked.

    Attributes:
        engine: that ran the stages.
        precision: of its matrix products.
        device: "cpu" or "cuda".
        source: file name or "train" for carved rows.
        data_sha256: fingerprint of the rows.
    """

    model_config = _STRICT

    engine: str
    precision: str
    device: str
    source: str
    data_sha256: str


class MeasuredTiming(BaseModel):
    """Seconds measured where the cascade was made; they do not carry over to other machines.

    Attributes:
        machine: in words.
        stages: of each stage's model alone, by padded tokens.
        tokenising: of each stage's tokenizer, by tokens.
        expected_speedup: of the cascade over the last stage alone, from those seconds and the exits.
    """

    model_config = _STRICT

    machine: str
    stages: tuple[LinearLatency, ...]
    tokenising: tuple[LinearLatency, ...]
    expected_speedup: float


class CascadeSpec(BaseModel):
    """The whole of cascade.json; the fields are explained in docs/folder.md."""

    model_config = _STRICT

    format: Literal["cascadebert"]
    schema_version: int
    label_names: tuple[str, ...] = Field(min_length=2)
    texts_per_row: Literal[1, 2]
    score: Score
    stages: tuple[StageSpec, ...] = Field(min_length=1)
    operating_point: OperatingPoint
    tuned_on: TunedOn | None
    measured: Report | None
    timing: MeasuredTiming | None
    calibration: Histogram | None = None
    provenance: dict[str, Any]

    @property
    def known_points(self) -> set[tuple[float, ...]]:
        """Thresholds that something was measured or promised of."""
        certificate = self.operating_point.certificate
        ladder = () if certificate is None else certificate.points
        return {self.operating_point.thresholds, *(point.thresholds for point in ladder)}

    @model_validator(mode="after")
    def _one_threshold_less_than_stages(self) -> Self:
        if len(self.operating_point.thresholds) != len(self.stages) - 1:
            raise ValueError("a cascade has one threshold less than stages")
        wanted = [4 * number for number in range(1, len(self.stages))] if self.score.name == "learned" else []
        if [len(row) for row in self.score.weights] != wanted:
            raise ValueError(f"a {self.score.name} score has weights in rows of {wanted}")
        bins = self.calibration
        if bins is not None and (
            len(bins.counts) != len(bins.edges) + 1
            or list(bins.edges) != sorted(set(bins.edges))
            or min(bins.counts) < 0
            or not sum(bins.counts)
        ):
            raise ValueError("a histogram has rising edges and one count more than edges")
        return self
