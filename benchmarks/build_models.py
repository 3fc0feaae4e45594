"""The large models that `build` is measured on: all-mpnet-base-v2, fine-tuned by plain transformers.

A task's train set, less what is in its validation set, is divided at random (SST-2's phrases by groups): the
model learns one part; the other, `data.parquet`, stands for traffic and is what `build` is given; `texts.parquet`
holds texts without labels, those that the model learned among them. The validation sets are not looked at.

    python benchmarks/build_models.py MPNET --data ../shared/data     # half an hour of two cores

MPNET is the folder of the encoder. Models and data lie in build/cascade/TASK.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

from cascadebert.data.dataset import Examples, load_examples
from cascadebert.data.label_names import label_names
from cascadebert.training.trainer import retain_malloc_arena, use_bf16
from stored import ROOT

BUILD = ROOT / "build" / "cascade"


@dataclass(frozen=True)
class Task:
    """Rows and recipe of a task."""

    traffic: int  # rows for `build`
    rows: int  # that the model learns, at most
    epochs: float
    learning_rate: float
    max_length: int
    batch_size: int = 32


TASKS = {
    "mrpc": Task(1_600, 4_000, 3, 5e-5, 128),
    "clinc150": Task(6_000, 9_000, 5, 1.5e-4, 48, 64),
    "sst2": Task(3_000, 16_000, 2, 4e-5, 64),
    "agnews": Task(4_000, 5_500, 2, 5e-5, 64),
    "imdb": Task(6_000, 2_500, 2, 4e-5, 128),
}


def main() -> None:
    """Divide the data and train the model of each task that has none yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("encoder", type=Path, help="folder of all-mpnet-base-v2")
    parser.add_argument("--data", type=Path, required=True, help="folder of data sets")
    asked = parser.parse_args()
    for name, task in TASKS.items():
        if not (BUILD / name / "model" / "config.json").is_file():
            finetune(asked.encoder, *divide(name, task, asked.data), task, BUILD / name)


def divide(name: str, task: Task, data: Path) -> tuple[Examples, tuple[str, ...]]:
    """Write the traffic and the texts without labels; return what the model learns, and the labels."""
    file = data / name / "train.parquet"
    table, rows = pq.read_table(file), load_examples(file)
    unseen = ~np.isin(rows.hashes(), load_examples(data / name / "validation.parquet").hashes())
    table, rows = table.filter(pa.array(unseen)), rows.take(np.flatnonzero(unseen))
    rng = np.random.default_rng(0)
    order = rng.permutation(len(table))
    groups = np.arange(len(table))
    if name == "sst2":
        groups = table["group"].to_numpy()
        order = order[table["is_sentence"].to_numpy()[order]]
    traffic = np.sort(order[: task.traffic])
    rest = np.flatnonzero(
        ~np.isin(groups, groups[traffic]) & ~np.isin(rows.hashes(), rows.hashes()[traffic])
    )
    folder = BUILD / name
    folder.mkdir(parents=True, exist_ok=True)
    columns = [column for column in table.column_names if column not in ("group", "is_sentence")]
    table = table.select(columns)
    pq.write_table(table.take(pa.array(traffic)), folder / "data.parquet")
    texts = [column for column in columns if column not in ("label", "id", "idx")]
    pq.write_table(table.take(pa.array(rest)).select(texts), folder / "texts.parquet")
    names = label_names(rows)
    return rows.take(np.sort(rng.permutation(rest)[: task.rows])), names


def finetune(encoder: Path, rows: Examples, names: tuple[str, ...], task: Task, folder: Path) -> None:
    """Train with the Hugging Face Trainer, as its tutorials do."""
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(
        encoder,
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
        attn_implementation="eager",
    )
    dataset = Dataset.from_generator(lambda: encoded(tokenizer, rows, names, task.max_length))
    arguments = TrainingArguments(
        output_dir=str(folder / "checkpoints"),
        num_train_epochs=task.epochs,
        per_device_train_batch_size=task.batch_size,
        learning_rate=task.learning_rate,
        warmup_steps=0.1,
        bf16=use_bf16(None),
        train_sampling_strategy="group_by_length",
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        logging_steps=50,
        report_to="none",
        seed=0,
    )
    trainer = Trainer(
        model=model, args=arguments, train_dataset=dataset, data_collator=DataCollatorWithPadding(tokenizer)
    )
    with retain_malloc_arena():
        trainer.train()
    trainer.save_model(str(folder / "new"))
    tokenizer.save_pretrained(folder / "new")
    (folder / "new").replace(folder / "model")


def encoded(
    tokenizer: Any, rows: Examples, names: tuple[str, ...], max_length: int
) -> Iterator[dict[str, Any]]:
    """Tokens and label of each row."""
    for text, label in zip(rows.texts, rows.label_ids(names).tolist(), strict=True):
        parts = (text,) if isinstance(text, str) else text
        yield {**tokenizer(*parts, truncation=True, max_length=max_length), "labels": label}


if __name__ == "__main__":
    main()
