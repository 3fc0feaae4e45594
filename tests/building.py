"""Builds of tiny models, with seconds that follow from operations instead of a clock."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from cascadebert import Target
from cascadebert.evaluation.cost_model import LatencyModel
from cascadebert.inference.stage import Stage
from cascadebert.persistence.folder import file_hashes
from cascadebert.training.cascade_builder.build import build
from cascadebert.training.cascade_builder.result import BuildResult
from cascadebert.training.config import FitConfig
from cascadebert.training.train_stage import TrainingData, train_stage
from cascadebert.types import LinearLatency
from samples import reviews

NAMES = ("positive", "negative")  # not in alphabetical order
TIMED = ("training.cascade_builder.choose", "tuning.tune", "evaluation.benchmark")


def count_time(monkeypatch) -> None:
    """Make every measured speed a function of the models, so that two builds measure the same."""
    for module in TIMED:
        monkeypatch.setattr(f"cascadebert.{module}.measure_latency", _latency)
    fixed = lambda runs, *, repeats: [[1.0] * repeats, *[[10.0] * repeats] * (len(runs) - 1)]  # noqa: E731
    monkeypatch.setattr("cascadebert.evaluation.benchmark.interleaved", fixed)
    monkeypatch.setattr(
        "cascadebert.training.cascade_builder.search.interleaved", lambda runs, *, repeats: [[0.1]]
    )


def _latency(stages, texts, encoded) -> LatencyModel:
    seconds = [LinearLatency(1e-6, stage.flops.token / 1e9) for stage in stages]
    tokenizing = [LinearLatency(1e-6, 0.0)] * len(stages)
    return LatencyModel(tuple(seconds), tuple(tokenizing), tuple(stage.tokenizer.key for stage in stages))


def train_classifier(base: Path, work: Path) -> Path:
    """A tiny classifier that has learned the reviews, some of them with a wrong label."""
    texts, labels = reviews(500, seed=9)
    labels[::20] = ["positive"] * 25
    data = TrainingData(texts, np.array([NAMES.index(label) for label in labels]), NAMES)
    config = FitConfig(
        max_length=32, epochs=4, learning_rate=1e-3, dar_weight=0.0, distill_weight=0.0, bf16=False
    )
    work.mkdir()
    return train_stage(base, data, config, work=work, description="classifier")


def predicted(model: Path, texts) -> list[str]:
    """The labels that transformers itself gives."""
    stage = Stage.from_pretrained(model, engine="torch", precision="float32")
    return stage.predict(texts).labels.tolist()


def build_quickly(model: Path, data: Any, output: Path, **options: Any) -> BuildResult:
    """A build in torch, of 0.9 agreement unless something else is asked for."""
    defaults = {"target": Target(min_agreement=0.9), "minutes": 5.0}
    return build(model, data=data, output=output, engine="torch", precision="float32", **defaults | options)


def cascade_of(output: Path) -> dict[str, Any]:
    """All that decides what a saved cascade answers."""
    spec = json.loads((output / "cascade.json").read_text("utf-8"))
    point = spec["operating_point"]
    return {
        "stages": {path.name: file_hashes(path) for path in sorted(output.glob("stage-*"))},
        "temperatures": [stage["temperature"] for stage in spec["stages"]],
        "thresholds": point["thresholds"],
        "score": spec["score"],
        "certificate": point["certificate"],
    }


def all_files(folder: Path) -> dict[str, bytes]:
    """The content of every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def copied(output: Path, target: Path) -> Path:
    """A finished build, with its work directory, under another name."""
    for old, new in ((output, target), (Path(f"{output}.work"), Path(f"{target}.work"))):
        if old.is_dir():
            shutil.copytree(old, new)
    return target
