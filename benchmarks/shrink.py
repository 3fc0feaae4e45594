"""Are complete small models, distilled by `distill`, better first stages than layers cut off a large one?

Four steps, from the repository's root, nothing beside them; each goes on where a kill stopped it:

    python benchmarks/shrink.py objectives --data ../shared/data   # which objective; about 40 minutes
    python benchmarks/shrink.py make --data ../shared/data         # the students; about an hour
    python benchmarks/shrink.py finetune --data ../shared/data     # 10 models x 5 tasks x 3 seeds; 90 minutes
    python benchmarks/shrink.py speed --data ../shared/data        # texts/s, matrix ceiling; minutes

Results: results/shrink/STEP.json, and every fine-tuned model's answers in results/shrink/runs.jsonl;
models are in build/shrink.
"""

from __future__ import annotations

import argparse
import base64
import json
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascadebert.cli.render import configure_logging
from cascadebert.data.columns import Columns
from cascadebert.data.dataset import Examples, load_examples
from cascadebert.data.label_names import label_names
from cascadebert.evaluation.metrics import difficulty_inversion_score
from cascadebert.inference.engines.torch import load_classifier
from cascadebert.inference.stage import Stage
from cascadebert.persistence.folder import atomic_directory
from cascadebert.thresholds.confidence import log_odds
from cascadebert.timing import interleaved, now
from cascadebert.training.checkpoints import checkpoint_fingerprint, count_flops, fingerprint
from cascadebert.training.config import DistillConfig, FitConfig
from cascadebert.training.distillation.distill import DistilledModels, distill
from cascadebert.training.distillation.student import StudentSize, make_student, open_encoder
from cascadebert.training.distillation.trainer import DistillationObjective, HiddenStateObjective
from cascadebert.training.tokenizer_files import copy_tokenizer
from cascadebert.training.train_stage import TrainingData, train_stage
from main import minilm
from matrix_ceiling import matrix_ceiling
from relations import AttentionRelations
from stored import ROOT, current_commit, write_result

BUILD, RESULTS = ROOT / "build" / "shrink", ROOT / "results" / "shrink"
RUNS = RESULTS / "runs.jsonl"
STUDENTS = ((1, 384), (2, 384), (2, 128), (3, 192))
CUTS = {
    "first-1": (0,),
    "last-1": (5,),
    "first-2": (0, 1),
    "spread-2": (0, 5),
    "first-3": (0, 1, 2),
    "spread-3": (0, 2, 5),
}
COMPARED = (("2x384", "first-2"), ("2x384", "spread-2"), ("1x384", "first-1"), ("1x384", "last-1"))
SEEDS, DRAWS = (1, 2, 3), 2000
PILOT_TOKENS = 1_000_000
TIMED_TOKENS, TIMES = 600_000, 7
PILOT_TASKS = ("sst2", "clinc150")
log = logging.getLogger("cascadebert")


@dataclass(frozen=True)
class Task:
    """How a data set is fine-tuned on: chosen beforehand, the same for every model."""

    rows: int
    epochs: float
    learning_rate: float
    batch_size: int
    max_length: int


TASKS = {
    "sst2": Task(8000, 2, 2e-4, 64, 64),
    "mrpc": Task(8000, 4, 2e-4, 32, 128),
    "agnews": Task(4000, 2, 2e-4, 64, 64),
    "clinc150": Task(8000, 6, 5e-4, 64, 48),
    "rte": Task(8000, 4, 2e-4, 32, 128),
}
TEACHER = minilm()


def main() -> None:
    """Run one step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("--data", type=Path, required=True, help="folder of data sets")
    asked = parser.parse_args()
    configure_logging()
    BUILD.mkdir(parents=True, exist_ok=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    commit = current_commit()
    values, files = STEPS[asked.step](asked.data)
    write_result(RESULTS / f"{asked.step}.json", values, data=files, commit=commit)


def make(data: Path) -> tuple[dict[str, Any], list[Path]]:
    """The students, in one run."""
    output = BUILD / "students"
    made = distil(data, output, STUDENTS, DistillConfig(), HiddenStateObjective())
    return made, [data / "corpus" / "unlabelled.parquet"]


def distil(
    data: Path,
    output: Path,
    sizes: tuple[tuple[int, int], ...],
    config: DistillConfig,
    objective: DistillationObjective,
) -> dict[str, Any]:
    """Run `distill`, or read what it said when it ran."""
    said = output.with_name(f"{output.name}.json")
    if not said.is_file():
        start = now()
        made: DistilledModels = distill(
            TEACHER,
            num_layers=[layers for layers, _ in sizes],
            hidden_size=[hidden for _, hidden in sizes],
            corpus=data / "corpus",
            output=output,
            config=config,
            objective=objective,
            overwrite=True,
        )
        values = {**asdict(made), "config": asdict(config), "minutes": (now() - start) / 60}
        for one in values["students"]:
            one["path"] = one["path"].name
        write_aside(said, values)
    found: dict[str, Any] = json.loads(said.read_text("utf-8"))
    return found


def objectives(data: Path) -> tuple[dict[str, Any], list[Path]]:
    """Both objectives on a fourteenth of the text, judged on rows held out of the train sets."""
    sizes, config = ((2, 384), (2, 128)), DistillConfig(max_tokens=PILOT_TOKENS)
    runs = []
    for name, objective in (
        ("hidden states", HiddenStateObjective()),
        ("attention relations", AttentionRelations()),
    ):
        output = BUILD / f"pilot-{type(objective).__name__}"
        made = distil(data, output, sizes, config, objective)
        for layers, hidden in sizes:
            model = output / f"{layers}x{hidden}"
            for task in PILOT_TASKS:
                found = [finetune_one(data, model, task, seed, held_out=True)["accuracy"] for seed in SEEDS]
                runs.append({"objective": name, "model": model.name, "task": task, "accuracy": found})
        runs.append({"objective": name, "tokens_per_second": made["tokens_per_second"]})
    return {"tokens": PILOT_TOKENS, "runs": runs}, files_of(data, PILOT_TASKS)


def finetune(data: Path) -> tuple[dict[str, Any], list[Path]]:
    """Every model on every task with every seed."""
    models = {**{f"{k}x{h}": BUILD / "students" / f"{k}x{h}" for k, h in STUDENTS}, **cuts()}
    runs = [
        {"model": name, "task": task, "seed": seed, **finetune_one(data, model, task, seed)}
        for seed in SEEDS
        for task in TASKS
        for name, model in models.items()
    ]
    flops = {}
    for name, model in models.items():
        one = count_flops(model, num_labels=2)
        flops[name] = float(one.cost_of(np.array([32]))[0])
    flops["large"] = float(count_flops(TEACHER, num_labels=2).cost_of(np.array([32]))[0])
    recipes = {name: asdict(task) for name, task in TASKS.items()}
    gains = [{"model": ours, "over": other, **gain(runs, ours, other)} for ours, other in COMPARED]
    values = {"recipes": recipes, "flops_of_32_tokens": flops, "gains": gains, "runs": runs}
    return values, files_of(data, tuple(TASKS))


def gain(runs: Sequence[dict[str, Any]], ours: str, other: str) -> dict[str, Any]:
    """Accuracy of one model less another's: per task and on the mean, with a 95 % bootstrap interval.

    Seeds and test rows are drawn anew together; a row is drawn for both models and all seeds alike.
    """
    rng = np.random.default_rng(0)
    per_task, drawn = {}, np.zeros(DRAWS)
    for task in TASKS:
        sides = [
            np.stack([unpacked(run) for run in runs if (run["model"], run["task"]) == (name, task)])
            for name in (ours, other)
        ]
        difference = sides[0].astype(np.float64) - sides[1]
        seeds, rows = difference.shape
        per_task[task] = float(difference.mean())
        for i in range(DRAWS):
            some = difference[rng.integers(seeds, size=seeds)][:, rng.integers(rows, size=rows)]
            drawn[i] += some.mean() / len(TASKS)
    low, high = np.quantile(drawn, [0.025, 0.975])
    mean = float(np.mean(list(per_task.values())))
    return {"mean": mean, "interval_95": [float(low), float(high)], "per_task": per_task}


def unpacked(run: dict[str, Any]) -> NDArray[np.uint8]:
    """(n,) 1 where the answer was right."""
    return np.unpackbits(np.frombuffer(base64.b64decode(run["right"]), dtype=np.uint8), count=run["n"])


def cuts() -> dict[str, Path]:
    """Layers of the large model as they are."""
    found = {}
    for name, kept in CUTS.items():
        found[name] = BUILD / name
        if not found[name].is_dir():
            teacher = open_encoder(TEACHER)
            size = StudentSize(len(kept), teacher.config.hidden_size)
            with atomic_directory(found[name], overwrite=False, kind="model") as new:
                make_student(teacher, size, layers=kept).save_pretrained(new)
                copy_tokenizer(TEACHER, new)
    return found


def write_aside(file: Path, values: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    file.parent.mkdir(exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(json.dumps(values), "utf-8")
    part.replace(file)


def finetune_one(data: Path, model: Path, task: str, seed: int, *, held_out: bool = False) -> dict[str, Any]:
    """Accuracy and difficulty inversion of one fine-tuned model, or what was found before."""
    recipe = TASKS[task]
    key = fingerprint(task, checkpoint_fingerprint(model), asdict(recipe), seed, held_out)
    name = f"{model.name}-{task}-{seed}"
    for line in RUNS.read_text("utf-8").splitlines() if RUNS.is_file() else ():
        found: dict[str, Any] = json.loads(line)
        if found["key"] == key:
            return {name: found[name] for name in ("accuracy", "dis", "n", "right")}
    train, test = rows_of(data, task, held_out)
    names = label_names(train)
    config = FitConfig(
        epochs=recipe.epochs,
        learning_rate=recipe.learning_rate,
        batch_size=recipe.batch_size,
        max_length=recipe.max_length,
        warmup_ratio=0.05,
        seed=seed,
    )
    lesson = TrainingData(train.texts, train.label_ids(names), names)
    work = BUILD / "work" / key
    work.mkdir(parents=True, exist_ok=True)
    folder = train_stage(model, lesson, config, work=work, description=name)
    right, dis = judged(folder, recipe.max_length, names, test)
    packed = base64.b64encode(np.packbits(right).tobytes()).decode()
    values = {"accuracy": float(right.mean()), "dis": dis, "n": len(right), "right": packed}
    with RUNS.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"key": key, "run": name, **values}) + "\n")
    shutil.rmtree(work)
    return values


def judged(
    folder: Path, length: int, names: tuple[str, ...], test: Examples
) -> tuple[NDArray[np.bool_], float]:
    """(n,) whether each test row is answered rightly, and the difficulty inversion score."""
    stage = Stage.from_pretrained(folder, max_length=length).with_labels(names)
    logits = stage.logits(stage.encode(test.texts))
    right = logits.argmax(axis=1) == test.label_ids(names)
    return right, difficulty_inversion_score(log_odds(logits), ~right)


def rows_of(data: Path, task: str, held_out: bool) -> tuple[Examples, Examples]:
    """Train rows, cut to the task's size, without those of the test set; and the rows to judge on.

    Args:
        data: folder of data sets.
        task: one of them.
        held_out: judge on a quarter of the train rows instead of the test set.
    """
    files = files_of(data, (task,))
    columns = Columns(group="is_sentence") if task == "sst2" else None
    train, test = load_examples(files[0], columns=columns), load_examples(files[1])
    keep = ~np.isin(train.hashes(), test.hashes())
    if task == "sst2":  # whole sentences, as in the test set; phrases of them are neither new nor like it
        assert train.groups is not None
        keep &= np.array([group == "True" for group in train.groups])
    order = np.random.default_rng(0).permutation(np.flatnonzero(keep))[: TASKS[task].rows]
    if not held_out:
        return train.take(order), test
    quarter = len(order) // 4
    return train.take(order[quarter:]), train.take(order[:quarter])


def files_of(data: Path, tasks: tuple[str, ...]) -> list[Path]:
    """Train and test files of some tasks."""
    return [data / task / f"{part}.parquet" for task in tasks for part in ("train", "validation")]


def speed(data: Path) -> tuple[dict[str, Any], list[Path]]:
    """How fast models answer and students are made, and how fast this machine multiplies; all in turn."""
    files = files_of(data, ("sst2",))
    texts = load_examples(files[1]).texts
    models = {
        **{f"{k}x{h}": BUILD / "students" / f"{k}x{h}" for k, h in STUDENTS},
        **cuts(),
        "large": TEACHER,
    }
    stages = {name: with_head(name, model) for name, model in models.items()}
    seconds = interleaved([partial(stage.predict, texts) for stage in stages.values()], repeats=TIMES)
    rates = {name: [len(texts) / s for s in taken] for name, taken in zip(stages, seconds, strict=True)}
    making = []
    for sizes in ((STUDENTS[1],), STUDENTS):
        before = matrix_ceiling("torch", "bfloat16", repeats=20)
        output = BUILD / f"timed-{len(sizes)}"
        made = distil(data, output, sizes, DistillConfig(max_tokens=TIMED_TOKENS), HiddenStateObjective())
        done = made["tokens_per_second"] * flops_of_making(models, sizes)
        best = [before, matrix_ceiling("torch", "bfloat16", repeats=20)]
        making.append(
            {
                "students": [f"{k}x{h}" for k, h in sizes],
                "tokens_per_second": made["tokens_per_second"],
                "padding": made["padding"],
                "flops_per_second": done,
                "bf16_ceiling_flops_per_second": best,
                "share_of_ceiling": done / float(np.mean(best)),
            }
        )
    return {"texts": len(texts), "texts_per_second": rates, "making": making}, files


def with_head(name: str, model: Path) -> Stage:
    """An encoder with a fresh head of two labels, ready to run."""
    folder = BUILD / "headed" / name
    folder.parent.mkdir(exist_ok=True)
    if not folder.is_dir():
        with atomic_directory(folder, overwrite=False, kind="model") as new:
            load_classifier(model, num_labels=2).save_pretrained(new)
            copy_tokenizer(model, new)
    return Stage.from_pretrained(folder)


def flops_of_making(models: dict[str, Path], sizes: Sequence[tuple[int, int]]) -> float:
    """Operations per token: the large model forwards, each student forwards and (twice that) backwards."""
    length = np.array([32])
    of = {
        name: float(count_flops(model, num_labels=2).cost_of(length)[0]) / 32
        for name, model in models.items()
    }
    return of["large"] + 3 * sum(of[f"{k}x{h}"] for k, h in sizes)


STEPS: dict[str, Callable[[Path], tuple[dict[str, Any], list[Path]]]] = {
    "objectives": objectives,
    "make": make,
    "finetune": finetune,
    "speed": speed,
}

if __name__ == "__main__":
    main()
