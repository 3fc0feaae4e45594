"""How fast is a saved cascade, beside its large stage, `transformers` and the machine's own limits?

Steps, from the repository's root, nothing beside them, after `benchmarks/cascades.py`:

    python benchmarks/inference.py engines --data ../shared/data   # random models, every engine
    python benchmarks/inference.py tasks --data ../shared/data     # the cascades beside what they replace
    python benchmarks/inference.py labels --data ../shared/data    # every engine's labels against torch
    python benchmarks/inference.py routing --data ../shared/data   # 20,000 rows of mixed length
    python benchmarks/inference.py files --data ../shared/data     # 2,000,000 rows: memory and time
    python benchmarks/inference.py static --data ../shared/data    # the static stage beside its tokenizer
    python benchmarks/inference.py install --data ../shared/data   # a base install: size, start

Results: results/inference/STEP.json, and what the project promises of them in
results/inference/summary.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from cascadebert import Cascade
from cascadebert.cli.render import configure_logging
from cascadebert.data.dataset import Examples, load_examples
from cascadebert.evaluation.benchmark import benchmark, component_runs
from cascadebert.evaluation.cost_model import measure_latency
from cascadebert.evaluation.metrics import paired_difference
from cascadebert.inference.batch_size import with_tuned_batch_sizes
from cascadebert.inference.batching import Padding, TokenizedTexts
from cascadebert.inference.engines.base import Engine
from cascadebert.inference.engines.load import load_engine
from cascadebert.inference.stage import Stage, run_in_parallel
from cascadebert.thresholds.select import speedup
from cascadebert.timing import interleaved, now
from cascadebert.training.export import export_onnx
from cascadebert.types import Texts
from cascades import BUILD, TASKS
from matrix_ceiling import matrix_ceiling
from stored import ROOT, current_commit, write_result

RESULTS = ROOT / "results" / "inference"
SIZES = {"L2-H128": (2, 128), "L6-H384": (6, 384), "L12-H768": (12, 768)}
ENGINES = (
    ("torch", "float32"), ("torch", "bfloat16"), ("onnxruntime", "float32"),
    ("openvino", "float32"), ("openvino", "bfloat16"),
)  # fmt: skip
ROWS, LENGTH, BATCHES, REPEATS = 32, 32, 4, 7
TIMED_ROWS, MIXED_ROWS = 4000, 20_000
MANY, FEW, EDGE = 2_000_000, 20_000, 200_000


def main() -> None:
    """Run one step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("--data", type=Path, required=True, help="folder of data sets")
    asked = parser.parse_args()
    configure_logging()
    commit = current_commit()
    values = STEPS[asked.step](asked.data)
    files = [asked.data / task / "validation.parquet" for task in TASKS]
    write_result(RESULTS / f"{asked.step}.json", values, data=files, commit=commit)
    write_summary()


def engines(data: Path) -> dict[str, Any]:
    """Seconds of a batch of 32 rows of 32 tokens, four batches at hand; and how fast large products are."""
    found = {}
    for name, (layers, hidden) in SIZES.items():
        folder = random_model(BUILD / name, layers, hidden)
        loaded = [load_engine(folder, engine=engine, precision=p) for engine, p in ENGINES]
        runs: list[Callable[[], object]] = [partial(many, one) for one in loaded]
        seconds = interleaved(runs, repeats=REPEATS)
        ceilings = [matrix_ceiling(one.name, one.precision) for one in loaded]
        operations = ROWS * LENGTH * layers * (24 * hidden**2 + 4 * LENGTH * hidden)
        found[name] = [
            {
                "engine": one.name,
                "precision": one.precision,
                "milliseconds": [1000 * s / BATCHES for s in taken],
                "over_torch_float32": float(np.median(np.divide(seconds[0], taken))),
                "ceiling_share": operations * BATCHES / float(np.median(taken)) / most,
                "ceiling_flops_per_second": most,
                "neighbours": neighbours(one),
            }
            for one, taken, most in zip(loaded, seconds, ceilings, strict=True)
        ]
    return {"rows": ROWS, "length": LENGTH, "batches": BATCHES, "sizes": found}


def rows_of(lengths: NDArray[np.int64], seed: int = 0) -> TokenizedTexts:
    """Rows of random tokens of the given lengths."""
    starts = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.random.default_rng(seed).integers(1000, 30_000, size=int(starts[-1])).astype(np.int32)
    return TokenizedTexts(ids, np.zeros(len(ids), np.int8), starts, Padding())


def many(engine: Engine) -> None:
    """Four full batches, as many at the same time as the engine likes."""
    rows = rows_of(np.full(ROWS * BATCHES, LENGTH))
    component_runs = np.split(np.arange(ROWS * BATCHES), BATCHES)
    run_in_parallel(lambda some: engine.logits(rows.batch(some)), component_runs, engine.streams)


def neighbours(engine: Engine) -> float:
    """The largest change of a logit when a row runs alone instead of with up to 127 others."""
    rows = rows_of(np.full(128, LENGTH))
    alone = np.concatenate([engine.logits(rows.batch(np.array([i]))) for i in range(16)])
    changes = [
        np.abs(engine.logits(rows.batch(np.arange(count)))[:16] - alone[:count]).max()
        for count in (2, 3, 8, 16, 33, 64, 128)
    ]
    return float(max(changes))


def random_model(folder: Path, layers: int, hidden: int) -> Path:
    """A BERT classifier with random weights, exported."""
    if not (folder / "model.onnx").is_file():
        import torch
        from transformers import BertConfig, BertForSequenceClassification

        torch.manual_seed(0)
        config = BertConfig(
            num_hidden_layers=layers,
            hidden_size=hidden,
            intermediate_size=4 * hidden,
            num_attention_heads=hidden // 64,
        )
        BertForSequenceClassification(config).save_pretrained(folder)
        export_onnx(folder)
    return folder


def tasks(data: Path) -> dict[str, Any]:
    """Each cascade beside its last stage, its oracle and the pipeline, on the test rows."""
    found: dict[str, Any] = {}
    for name in TASKS:
        cascade = Cascade.from_pretrained(BUILD / name / "cascade")
        test = load_examples(data / name / "validation.parquet")
        times = max(1, TIMED_ROWS // len(test))
        rows = test.take(np.tile(np.arange(len(test)), times))
        clock = {**asdict(benchmark(cascade, rows)), **limits(cascade, rows.texts)}
        for one in (clock["cascade"], clock["last_stage"], *clock["others"]):
            one.pop("accuracy_drop")  # its interval would take the same row for several
        found[name] = {
            "test_rows": len(test),
            "times": times,
            "stages": [stage.name for stage in cascade.stages],
            "bench": clock,
            "drop_on_test_rows": paired(cascade, test),
            "oracle": oracle(cascade, test),
        }
    return {"tasks": found}


def limits(cascade: Cascade, texts: Texts) -> dict[str, float | None]:
    """Padding of the last stage, its operations per second over the machine's, and the start of a process.

    Padding is tokens computed over tokens there are; a start lasts until the first prediction.
    """
    script = Path(__file__).with_name("start.py")
    command = [sys.executable, str(script), str(cascade.path), json.dumps(texts[0])]
    start = now()
    subprocess.run(command, check=True, capture_output=True)
    start_seconds = now() - start
    last = with_tuned_batch_sizes(cascade, measure=True).stages[-1]
    rows = last.encode(texts)
    (seconds,) = interleaved([partial(last.logits, rows)], repeats=REPEATS)
    ceiling, fraction = matrix_ceiling(last.engine.name, last.engine.precision), None
    if last.flops is not None:
        fraction = float(last.flops.cost_of(rows.padded_lengths).sum() / np.median(seconds) / ceiling)
    return {
        "padding": float(rows.padded_lengths.sum() / rows.lengths.sum()),
        "ceiling": ceiling,
        "ceiling_share": fraction,
        "start_seconds": start_seconds,
    }


def paired(cascade: Cascade, test: Examples) -> dict[str, float]:
    """Accuracy lost against the last stage on the test rows, each counted once."""
    labels = test.label_ids(cascade.label_names)
    last = cascade.stages[-1].predict(test.texts).label_ids == labels
    return asdict(paired_difference(last, cascade.predict(test.texts).label_ids == labels))


def oracle(cascade: Cascade, test: Examples) -> dict[str, float]:
    """Speed-up of the cascade that passes on exactly the rows whose label would change, and ours beside it.

    Both by seconds per row and token of the stages, fitted here.
    """
    encoded = cascade.encode(test.texts)
    costs = measure_latency(cascade.stages, test.texts, encoded).costs(encoded)
    labels = cascade.stage_logits(test.texts).argmax(axis=2)
    perfect = speedup(np.argmax(labels == labels[-1], axis=0), costs.rows, costs.last_stage_cost)
    ours = speedup(cascade.predict(test.texts).stages - 1, costs.rows, costs.last_stage_cost)
    return {"speedup": perfect, "ours": ours, "share": ours / perfect}


def labels(data: Path) -> dict[str, Any]:
    """Per task and stage, the share of rows to which each engine gives the label of torch in float32."""
    found: dict[str, Any] = {}
    for name in TASKS:
        stages = Cascade.from_pretrained(BUILD / name / "cascade").stages
        texts = load_examples(data / name / "validation.parquet").texts
        found[name] = {stage.name: labels_of(stage, texts) for stage in stages if stage.layers}
    return {"equal": found}


def labels_of(stage: Stage, texts: Texts) -> dict[str, float]:
    """The share for each engine and precision."""
    rows = stage.encode(texts)
    wanted: NDArray[np.int64] | None = None
    shares = {}
    for engine, precision in ENGINES:
        other = replace(stage, engine=load_engine(stage.path, engine=engine, precision=precision))
        said = other.logits(rows).argmax(axis=1)
        wanted = said if wanted is None else wanted
        shares[f"{engine} {precision}"] = float((said == wanted).mean())
    return shares


def routing(data: Path) -> dict[str, Any]:
    """Seconds of a cascade over the sum of its parts, on 20,000 rows of mixed length."""
    mixed = [load_examples(data / name / "validation.parquet").texts for name in ("sst2", "agnews", "imdb")]
    every = [str(text) for some in mixed for text in some]
    texts = [every[i] for i in np.random.default_rng(0).integers(len(every), size=MIXED_ROWS)]
    cascade = with_tuned_batch_sizes(Cascade.from_pretrained(BUILD / "agnews" / "cascade"), measure=True)
    answers = cascade.predict(texts)
    runs: list[Callable[[], object]] = [partial(cascade.predict, texts)]
    seconds = interleaved([*runs, *component_runs(cascade, texts, answers.stages)], repeats=REPEATS)
    ratios = np.divide(seconds[0], np.sum(seconds[1:], axis=0)) - 1
    return {
        "rows": MIXED_ROWS,
        "exit_rates": [float((answers.stages == i).mean()) for i in range(1, len(cascade.stages) + 1)],
        "texts_per_second": [MIXED_ROWS / s for s in seconds[0]],
        "overhead": float(np.median(ratios)),
        "range": [float(ratios.min()), float(ratios.max())],
    }


def files(data: Path) -> dict[str, Any]:
    """The static stage alone on 20,000 and on 2,000,000 rows of a csv file, each in a process of its own."""
    texts = load_examples(data / "sst2" / "validation.parquet").texts
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in (FEW, MANY):
            source = Path(folder) / f"{count}.csv"
            with source.open("w", encoding="utf-8") as lines:
                lines.write("text\n")
                for i in range(count):
                    lines.write('"' + str(texts[i % len(texts)]).replace('"', '""') + '"\n')
            script = Path(__file__).with_name("score_static.py")
            command = [sys.executable, script, BUILD / "sst2" / "cascade", source, f"{source}.out.csv"]
            done = subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True)
            found[str(count)] = json.loads(done.stdout.splitlines()[-1])
    few, much = found[str(FEW)], found[str(MANY)]
    clock, ends = np.array(much["seconds"]), np.array(much["rows"])
    rows = np.diff(ends, prepend=0)
    first, last = ends <= EDGE, ends - rows >= MANY - EDGE
    return {
        "rows": MANY,
        "memory_mb": {"few": few["memory_mb"], "many": much["memory_mb"]},
        "memory_ratio": much["memory_mb"] / few["memory_mb"],
        "time_ratio": float(clock[last].sum() / rows[last].sum() / (clock[first].sum() / rows[first].sum())),
        "rows_per_second": MANY / much["whole"],
    }


def static(data: Path) -> dict[str, Any]:
    """The static stage, tokenising included, beside the bare tokenizer, on one core."""
    os.environ["RAYON_NUM_THREADS"] = "1"  # read by the tokenizer when it is first used
    stage = Cascade.from_pretrained(BUILD / "sst2" / "cascade").stages[0]
    texts = [str(text) for text in load_examples(data / "sst2" / "validation.parquet").texts] * 8
    tokenizer = Tokenizer.from_file(str(stage.path / "tokenizer.json"))
    tokenizer.enable_truncation(stage.tokenizer.max_length)
    runs: list[Callable[[], object]] = [
        partial(tokenizer.encode_batch_fast, texts),
        partial(stage.predict, texts),
    ]
    bare, ours = interleaved(runs, repeats=REPEATS)
    ratios = np.divide(bare, ours)
    return {
        "texts_per_second": {
            "tokenizer": [len(texts) / s for s in bare],
            "static": [len(texts) / s for s in ours],
        },
        "ratio": float(np.median(ratios)),
        "range": [float(ratios.min()), float(ratios.max())],
    }


def install(data: Path) -> dict[str, Any]:
    """A base install in a fresh environment: no torch, its size, its start."""
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder) / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pinned = ["--constraint", str(ROOT / "constraints.txt"), str(ROOT)]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *pinned], check=True)
        script = Path(__file__).with_name("start.py")
        command = [str(python), str(script), str(BUILD / "sst2" / "cascade")]
        runs = [json.loads(subprocess.check_output(command, text=True)) for _ in range(5)]
        packages = next((Path(folder) / "lib").glob("python*/site-packages"))
        size = sum(file.stat().st_size for file in packages.rglob("*") if file.is_file())
    return {
        "import_seconds": [one["import_seconds"] for one in runs],
        "ready_seconds": [one["ready_seconds"] for one in runs],
        "torch_loaded": any(one["torch_loaded"] for one in runs),
        "site_packages_mb": size / 2**20,
    }


def write_summary() -> None:
    """What the steps that have run say, in one file."""
    found = {
        step: json.loads((RESULTS / f"{step}.json").read_text("utf-8"))
        for step in STEPS
        if (RESULTS / f"{step}.json").is_file()
    }
    values: dict[str, Any] = {}
    if "engines" in found:
        best = found["engines"]["sizes"]["L12-H768"][-1]
        values |= {
            "engine_vs_torch_fp32": best["over_torch_float32"],
            "ceiling_share": best["ceiling_share"],
        }
    if "tasks" in found:
        per_task = found["tasks"]["tasks"]
        values |= {
            "padding": {task: one["bench"]["padding"] for task, one in per_task.items()},
            "vs_pipeline_b32": {task: over_pipeline(one["bench"]) for task, one in per_task.items()},
            "vs_last_stage": {
                task: {
                    "ratio": one["bench"]["measured_speedup"],
                    "accuracy_drop": one["drop_on_test_rows"]["value"],
                    "drop_ci": [one["drop_on_test_rows"]["low"], one["drop_on_test_rows"]["high"]],
                    "oracle_share": one["oracle"]["share"],
                }
                for task, one in per_task.items()
            },
        }
    if "labels" in found:
        values["agreement"] = {
            task: list(stages.values())[-1]["openvino bfloat16"]
            for task, stages in found["labels"]["equal"].items()
        }
    if "routing" in found:
        values["routing_overhead"] = found["routing"]["overhead"]
    if "static" in found:
        values["static_vs_tokenizer"] = found["static"]["ratio"]
    if "files" in found:
        values |= {name: found["files"][name] for name in ("memory_ratio", "time_ratio")}
    if "install" in found:
        values |= {
            name: float(np.median(found["install"][name])) for name in ("import_seconds", "ready_seconds")
        }
        values["site_packages_mb"] = found["install"]["site_packages_mb"]
    (RESULTS / "summary.json").write_text(json.dumps(values, indent=2) + "\n", "utf-8")


def over_pipeline(result: dict[str, Any]) -> float:
    """The cascade's texts/s over those of the pipeline with batches of 32 in file order."""
    (other,) = (one for one in result["others"] if one["name"] == "transformers pipeline, batch 32")
    return float(result["cascade"]["examples_per_second"] / other["examples_per_second"])


STEPS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "engines": engines,
    "tasks": tasks,
    "labels": labels,
    "routing": routing,
    "files": files,
    "static": static,
    "install": install,
}

if __name__ == "__main__":
    main()
