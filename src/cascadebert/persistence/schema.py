"""The schema of cascade.json, validated on reading and on writing."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Self

from cascadebert.data.columns import ColumnNames
from cascadebert.thresholds.confidence import Score
from cascadebert.thresholds.operating_point import OperatingPoint
from cascadebert.types import Flops, Histogram, LinearLatency, PaddingSide, Report

SCHEMA_VERSION = 3


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class StageSpec(_Strict):
    """One stage of a saved cascade."""

    path: str  # its sub-folder
    name: str  # the checkpoint it was made from
    layers: int
    hidden: int
    max_length: int  # longest text in tokens
    padding_side: PaddingSide  # "none": batches of texts of one exact length
    temperature: float = Field(gt=0)  # its logits are divided by this
    flops: Flops | None  # of one text
    sha256: dict[str, str]  # of every file of the sub-folder


class TunedOn(_Strict):
    """The engine and the examples that the operating point was selected on."""

    engine: str
    precision: str  # of its matrix products
    device: str  # "cpu" or "cuda"
    source: str  # file name, or "train" for examples split off the training set
    data_sha256: str


class MeasuredTiming(_Strict):
    """Seconds measured where the cascade was made; they do not carry over to other machines."""

    machine: str
    stages: tuple[LinearLatency, ...]  # of each stage's model alone, by padded tokens
    tokenizing: tuple[LinearLatency, ...]  # of each stage's tokenizer, by tokens
    expected_speedup: float  # over the last stage alone, from these seconds and the exit rates


class TimedEngine(_Strict):
    """The last stage on one engine in one precision, where a cascade's were chosen."""

    engine: str
    precision: str
    texts_per_second: float
    compared: int  # texts
    changed: int | None  # labels of these texts that are not those of float32; None: it was not counted

    @property
    def description(self) -> str:
        """Engine, precision and both figures."""
        share = (
            "" if self.changed is None else f", {100 * self.changed / self.compared:.1f} % of labels changed"
        )
        return f"{self.engine} {self.precision}: {self.texts_per_second:,.0f} texts/s{share}"


class CascadeSpec(_Strict):
    """The content of cascade.json; the fields are explained in docs/folder.md."""

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
    columns: ColumnNames | None = None  # named when the cascade was made
    engines: tuple[TimedEngine, ...] = ()  # that were tried, the fastest first; none if both were given
    provenance: dict[str, Any]

    @property
    def stages_sha256(self) -> str:
        """Fingerprint of all files of all stages."""
        return hashlib.sha256(json.dumps([stage.sha256 for stage in self.stages]).encode()).hexdigest()

    @property
    def known_thresholds(self) -> set[tuple[float, ...]]:
        """Thresholds that were measured or certified."""
        certificate = self.operating_point.certificate
        points = () if certificate is None else certificate.points
        return {self.operating_point.thresholds, *(point.thresholds for point in points)}

    def with_operating_point(self, point: OperatingPoint) -> CascadeSpec:
        """This description with another operating point, without the measurements at the old one."""
        if point == self.operating_point:
            return self
        measurements = ("tuned_on", "measured", "timing", "calibration")
        return self.model_copy(update={"operating_point": point, **dict.fromkeys(measurements)})

    @model_validator(mode="after")
    def _check(self) -> Self:
        point, bins, tuned = self.operating_point, self.calibration, self.tuned_on
        if len(point.thresholds) != len(self.stages) - 1:
            raise ValueError("a cascade has one threshold less than stages")
        sizes = [4 * number for number in range(1, len(self.stages))] if self.score.name == "learned" else []
        if [len(weights) for weights in self.score.weights] != sizes:
            raise ValueError(f"a {self.score.name} score has weights in rows of {sizes}")
        if bins is not None and (
            len(bins.counts) != len(bins.edges) + 1
            or list(bins.edges) != sorted(set(bins.edges))
            or min(bins.counts) < 0
            or not sum(bins.counts)
        ):
            raise ValueError("a histogram has rising edges and one count more than edges")
        certificate = point.certificate
        if certificate is not None and not (
            tuned is not None
            and (certificate.engine, certificate.precision, certificate.device)
            == (tuned.engine, tuned.precision, tuned.device)
            and certificate.stages_sha256 == self.stages_sha256
            and certificate.temperatures == tuple(stage.temperature for stage in self.stages)
            and certificate.points[-1].thresholds == point.thresholds
        ):
            raise ValueError(
                "the certificate belongs to other stages, temperatures, thresholds or another engine; "
                "certify again with `cascadebert tune --confidence-level`, on new examples"
            )
        return self
