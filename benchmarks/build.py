"""`build` on five real tasks: the fastest cascade before a fine-tuned all-mpnet-base-v2.

Each task is built with labels for half a point of accuracy, without any label for agreement of 0.98, and with
labels but without a small model given. `make` makes the candidates of all, `measure` chooses, certifies and
times them (nothing beside it). Runs after `build_models.py`; a killed one goes on where it was:

    python benchmarks/build.py make --data ../shared/data
    python benchmarks/build.py measure --data ../shared/data

Results: results/build/TASK.json and summary.json. Validation sets are read by `measure` alone, after all
choices; cascades lie in build/cascade/TASK.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from build_models import BUILD, TASKS
from cascadebert import Cascade, Target, build
from cascadebert.cli.render import configure_logging
from cascadebert.data.dataset import load_examples
from cascadebert.training.build.finish import measure
from cascadebert.training.build.result import BuildResult
from main import minilm
from stored import ROOT, current_commit, part, write_result

MINUTES = 60.0
RESULTS = ROOT / "results" / "build"
LABELED, UNLABELED = Target(max_accuracy_drop=0.005), Target(min_agreement=0.98)
VARIANTS = {"labeled": (LABELED, True), "unlabeled": (UNLABELED, True), "without_small": (LABELED, False)}


def main() -> None:
    """Run one step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=("make", "measure"))
    parser.add_argument("--data", type=Path, required=True, help="folder of data sets")
    parser.add_argument("--task", choices=tuple(TASKS), help="only this one")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="for each task")
    asked = parser.parse_args()
    configure_logging()
    commit = current_commit()
    for name in [asked.task] if asked.task else TASKS:
        if asked.step == "make":
            run(name, "labeled", asked.minutes)
            continue
        values = {
            variant: part(BUILD / name / f"{variant}.json", lambda: measured(name, variant, asked))
            for variant in VARIANTS
        }
