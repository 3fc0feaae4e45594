"""How long does a small training take on a busy machine, by what OpenMP threads do at barriers?

Each run trains the demo's classifier on 1,500 generated sentences in a process of its own: with libgomp's
default, with sleep at once (passive), or with the short spin that the package sets. "Busy" means one endless
loop per core beside it. Writes results/training/waiting.json; nothing else may run.

python benchmarks/waiting.py
"""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import product
from statistics import median

from cascadebert.environment import cores
from stored import ROOT, current_commit, write_result

ROUNDS = 3
TRAIN = """
import tempfile
from pathlib import Path
import torch
import cascadebert.training
from cascadebert.demo.run import CONFIG, ENCODER, random_encoder
from cascadebert.demo.task import generate, vocabulary
from cascadebert.timing import now
from cascadebert.training.train_stage import TrainingData, train_stage
import numpy as np
rows = generate(1500, seed=0)
labels = np.array([row.label == "positive" for row in rows]).astype(np.int64)
with tempfile.TemporaryDirectory() as folder:
    source = random_encoder(Path(folder) / "encoder", ENCODER, vocabulary(), seed=0)
    data = TrainingData([row.text for row in rows], labels, ("negative", "positive"))
    start = now()
    train_stage(source, data, CONFIG, work=Path(folder), description="classifier")
    print(now() - start)
"""
SETTINGS = {
    "default": {},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "short spin": {"GOMP_SPINCOUNT": "1000"},
}


def main() -> None:
    """Time the ways of waiting in turn, quiet and busy."""
    commit = current_commit()
    seconds: dict[str, list[float]] = {f"{m} {w}": [] for m, w in product(("quiet", "busy"), SETTINGS)}
    for _ in range(ROUNDS):
        for machine, waiting in product(("quiet", "busy"), SETTINGS):
            count = cores() if machine == "busy" else 0
            others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
            try:
                seconds[f"{machine} {waiting}"].append(train(waiting))
            finally:
                for other in others:
                    other.kill()
            print(machine, waiting, seconds[f"{machine} {waiting}"][-1], flush=True)
    ratios = {
        run: median(taken) / median(seconds[f"{run.split()[0]} default"]) for run, taken in seconds.items()
    }
    values = {"seconds": seconds, "over_default": ratios, "rounds": ROUNDS}
    write_result(ROOT / "results" / "training" / "waiting.json", values, data=[], commit=commit)
    print(ratios)


def train(waiting: str) -> float:
    """Seconds of one training in a new process."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    command = [sys.executable, "-c", TRAIN]
    done = subprocess.run(
        command, env=environment | SETTINGS[waiting], capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


if __name__ == "__main__":
    main()
