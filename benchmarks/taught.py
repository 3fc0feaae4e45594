"""SST-2 with all its train phrases and the large model's logits: a complete student against the first layers.

The large model is fine-tuned once; each small one learns labels and its logits, with one recipe and three
seeds. Beside accuracy and difficulty inversion: what a cascade of the two loses where 90 % of the test rows
leave early (a quantile of their confidences: no label is looked at). Run from the repository's root after
`benchmarks/shrink.py finetune`, nothing beside it; a killed run goes on where it was:

    python benchmarks/taught.py --data ../shared/data

Results: results/shrink/taught.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from cascadebert.cli.render import configure_logging
from cascadebert.data.dataset import load_examples
from cascadebert.data.label_names import label_names
from cascadebert.evaluation.metrics import difficulty_inversion_score
from cascadebert.inference.stage import Stage
from cascadebert.thresholds.confidence import log_odds, max_probability, softmax
from cascadebert.training.config import FitConfig
from cascadebert.training.train_stage import TrainingData, train_stage
from cascadebert.types import Ints, Logits
from shrink import BUILD, RESULTS, SEEDS, TEACHER, files_of, write_aside
from stored import current_commit, write_result

MODELS = ("2x384", "first-2", "1x384", "first-1")
LEAVING = 0.9
LENGTH = 64
LARGE = FitConfig(epochs=2, learning_rate=8e-5, batch_size=64, max_length=LENGTH, warmup_ratio=0.05, seed=1)
SMALL = {"epochs": 2, "learning_rate": 2e-4, "batch_size": 64, "max_length": LENGTH, "warmup_ratio": 0.05}


def main() -> None:
    """The large model, then every small one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of data sets")
    asked = parser.parse_args()
    configure_logging()
    commit, files = current_commit(), files_of(asked.data, ("sst2",))
    train, test = (load_examples(file) for file in files)
    train = train.take(np.flatnonzero(~np.isin(train.hashes(), test.hashes())))
    names, work = label_names(train), BUILD / "taught"
    work.mkdir(parents=True, exist_ok=True)
    ids, labels = train.label_ids(names), test.label_ids(names)
    large = train_stage(TEACHER, TrainingData(train.texts, ids, names), LARGE, work=work, description="large")
    last, logits = answers(large, test.texts, LENGTH), answers(large, train.texts, LENGTH)
    lesson = TrainingData(train.texts, ids, names, teacher=logits)
    runs = []
    for seed in SEEDS:
        for model in MODELS:
            said = work / f"{model}-{seed}.json"
            if not said.is_file():
                source = BUILD / "students" / model if "x" in model else BUILD / model
                config = FitConfig(**SMALL, seed=seed, distill_weight=1.0)  # type: ignore[arg-type]
                folder = train_stage(source, lesson, config, work=work, description=f"{model}, seed {seed}")
                write_aside(said, judged(answers(folder, test.texts, LENGTH), last, labels))
            runs.append({"model": model, "seed": seed, **json.loads(said.read_text("utf-8"))})
    values: dict[str, Any] = {
        "rows": len(train),
        "leaving": LEAVING,
        "large_accuracy": float((last.argmax(axis=1) == labels).mean()),
        "runs": runs,
    }
    write_result(RESULTS / "taught.json", values, data=files, commit=commit)


def answers(folder: Path, texts: Any, max_length: int) -> Logits:
    """(n, num_labels) logits of a fine-tuned model."""
    stage = Stage.from_pretrained(folder, engine="torch", max_length=max_length)
    return stage.logits(stage.encode(texts))


def judged(first: Logits, last: Logits, labels: Ints) -> dict[str, float]:
    """A small model alone, and in a cascade where 90 % of the rows leave at it."""
    right, large_right = first.argmax(axis=1) == labels, last.argmax(axis=1) == labels
    confidences = max_probability(softmax(first))
    leave = confidences > np.quantile(confidences, 1 - LEAVING)
    return {
        "accuracy": float(right.mean()),
        "dis": difficulty_inversion_score(log_odds(first), ~right),
        "leaving": float(leave.mean()),
        "cascade_loss": float(large_right.mean() - np.where(leave, right, large_right).mean()),
    }


if __name__ == "__main__":
    main()
