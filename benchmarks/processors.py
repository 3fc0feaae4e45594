"""What to expect of this processor: every engine and precision on a small and a large encoder.

    python benchmarks/processors.py epyc-zen4 --data ../shared/data
    python benchmarks/processors.py epyc-as-avx2 --data ../shared/data --limit AVX2

Five minutes, nothing beside it; a quarter of an hour where classifiers that `benchmarks/build.py` made are at
hand, whose labels are compared then. A killed run goes on after the last model. Times are of models with
random weights. With `--limit`, no library uses newer instructions, so a processor stands in for a lesser one:
oneDNN, MKL and torch are told so, ONNX Runtime is deceived (see mask_cpuid.py).

Results: results/inference/processors/NAME.json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from build_models import BUILD
from cascadebert.data.dataset import load_examples
from cascadebert.environment import instruction_sets, machine
from cascadebert.inference.engines.base import ENGINE_FILE, Engine
from cascadebert.inference.engines.load import engine_options, load_engine
from cascadebert.inference.engines.openvino import precisions as openvino_precisions
from cascadebert.inference.stage import Stage
from cascadebert.timing import interleaved
from cascadebert.training.trainer import use_bf16
from cascadebert.types import Texts
from inference import BATCHES, LENGTH, REPEATS, ROWS, many, neighbours, random_model
from mask_cpuid import masked_environment
from stored import ROOT, current_commit, part, write_result

RESULTS = ROOT / "results" / "inference" / "processors"
MODELS = {"L6-H384": (6, 384), "L12-H768": (12, 768)}
TASKS = ("sst2", "mrpc", "agnews", "clinc150")
TEXTS = 1000  # of each task
LIMITS = {"AVX2": "AVX2", "AVX512_CORE": "AVX512", "AVX512_CORE_VNNI": "AVX512"}  # oneDNN's name, and MKL's


def main() -> None:
    """Measure this processor, or what it is with fewer instructions."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="of the result file")
    parser.add_argument("--data", type=Path, required=True, help="folder of data sets")
    parser.add_argument("--limit", choices=LIMITS, help="the newest instructions to use")
    asked = parser.parse_args()
    if asked.limit and "ONEDNN_MAX_CPU_ISA" not in os.environ:  # libraries read these when they are loaded
        limits = {
            "ONEDNN_MAX_CPU_ISA": asked.limit,
            "MKL_ENABLE_INSTRUCTIONS": LIMITS[asked.limit],
            "ATEN_CPU_CAPABILITY": LIMITS[asked.limit].lower(),
            **masked_environment(ROOT / "build" / "processors" / "masked", asked.limit),
        }
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | limits)
    commit, files = current_commit(), [asked.data / task / "validation.parquet" for task in TASKS]
    rows = []
    for name in MODELS:
        run = partial(measured, name, asked.data, asked.limit)
        rows += part(ROOT / "build" / "processors" / asked.name / f"{name}.json", run)["rows"]
    values = {
        "processor": machine(),
        "isa": instruction_sets(),
        "limited_to": asked.limit,
        "batch": {"rows": ROWS, "length": LENGTH, "at_once": BATCHES},
        "rows": rows,
    }
    write_result(RESULTS / f"{asked.name}.json", values, data=files, commit=commit)


def options(limit: str | None) -> list[tuple[str, str]]:
    """Engines and precisions that are measured, torch in float32 first."""
    if limit is not None:  # under which OpenVINO still says that it has bfloat16
        found = [("openvino", one) for one in openvino_precisions() if one != "bfloat16"]
        return [("torch", "float32"), ("onnxruntime", "float32"), ("onnxruntime", "int8"), *found]
    found = [one for one in engine_options("auto", "auto") if one[0] != "torch"]
    in_torch = [("torch", "float32"), ("torch", "bfloat16")] if use_bf16(None) else [("torch", "float32")]
    return [*in_torch, *found]


def measured(name: str, data: Path, limit: str | None) -> dict[str, Any]:
    """Milliseconds of a batch, labels kept, and the largest change of a logit by other rows in the batch."""
    layers, hidden = MODELS[name]
    folder = random_model(ROOT / "build" / "inference" / name, layers, hidden)
    engines = [
        load_engine(folder, engine=engine, precision=precision) for engine, precision in options(limit)
    ]
    runs: list[Callable[[], object]] = [partial(many, engine) for engine in engines]
    seconds = np.array(interleaved(runs, repeats=REPEATS)) / BATCHES
    kept = {
        task: labels_kept(stage, texts, engines) for task, stage, texts in classifiers(data, layers, hidden)
    }
    rows = []
    for i, engine in enumerate(engines):
        ratios = seconds[0] / seconds[i]
        equal = {task: shares[i] for task, shares in kept.items() if shares[i] is not None}
        rows.append({
            "model": name,
            "engine": engine.name,
            "precision": engine.precision,
            "ms": 1000 * float(np.median(seconds[i])),
            "over_torch_fp32": float(np.median(ratios)),
            "range": [float(ratios.min()), float(ratios.max())],
            "labels_equal": equal or None,
            "neighbour": neighbours(engine),
        })  # fmt: skip
    return {"rows": rows}


def classifiers(data: Path, layers: int, hidden: int) -> list[tuple[str, Stage, Texts]]:
    """The classifiers of this size that a build made or started from, with texts of their tasks."""
    found = []
    for task in TASKS:
        folders = [file.parent for file in sorted((BUILD / task).glob(f"labeled.work/*/*/{ENGINE_FILE}"))]
        for folder in folders:
            config = json.loads((folder / "config.json").read_text("utf-8"))
            if (config.get("num_hidden_layers"), config.get("hidden_size")) == (layers, hidden):
                stage = Stage.from_pretrained(folder, engine="torch", precision="float32")
                found.append((task, stage, texts_of(task, data)))
                break
    return found


def texts_of(task: str, data: Path) -> Texts:
    """A thousand texts of a task, of its validation set first."""
    texts = [*load_examples(data / task / "validation.parquet").texts]
    texts += load_examples(BUILD / task / "data.parquet").texts[: max(0, TEXTS - len(texts))]
    return [texts[i] for i in np.linspace(0, len(texts) - 1, TEXTS).astype(np.int64)]


def labels_kept(stage: Stage, texts: Texts, engines: list[Engine]) -> list[float | None]:
    """For each engine the share of texts with the label of torch in float32; None in float32."""
    tokens = stage.encode(texts)
    expected = stage.logits(tokens).argmax(axis=1)
    kept = list[float | None]()
    for engine in engines:
        if engine.precision == "float32":
            kept.append(None)
            continue
        loaded = load_engine(stage.path, engine=engine.name, precision=engine.precision)
        kept.append(float((replace(stage, engine=loaded).logits(tokens).argmax(axis=1) == expected).mean()))
    return kept


if __name__ == "__main__":
    main()
