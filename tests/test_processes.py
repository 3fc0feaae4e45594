"""Two processes train what one does: the same difficulty labels, thresholds and weights."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from cascadebert.persistence.folder import read_folder
from cascadebert.training.difficulty import DifficultyLabels
from cascadebert.training.processes import Processes, run_all
from clusters import free_port
from samples import reviews, write_csv


def doubled(number, *, more=0):
    return 2 * number + more


def failing(number):
    raise ValueError(f"number {number}")


@pytest.fixture
def store(tmp_path):
    from torch.distributed import FileStore

    return FileStore(str(tmp_path / "store"))


def test_one_process_runs_everything_itself():
    assert run_all(doubled, [(1,), (2,)], more=1) == [3, 5]


def test_calls_are_run_once_and_their_results_come_in_order(store):
    first = Processes(store, 0)
    calls = [(doubled, (number,), {"more": 1}) for number in range(5)]
    assert first.run(calls) == [1, 3, 5, 7, 9]
    assert first.run(calls[:2]) == [1, 3]
    first.end()
    Processes(store, 1).work()  # finds everything taken, and ends


def test_an_error_of_any_process_is_raised_by_the_first(store):
    with pytest.raises(ValueError, match="number 3"):
        Processes(store, 0).run([(doubled, (1,), {}), (failing, (3,), {})])


LAUNCHERS = {
    "torch.distributed.run": "--nproc-per-node 2 --master-port {port} -m",
    "accelerate.commands.launch": "--multi_gpu --num_processes 2 --num_machines 1 --main_process_port {port} "
    "--mixed_precision no --dynamo_backend no --module",
}


@pytest.fixture(scope="module")
def fitted(make_model, tmp_path_factory):
    """A function that fits in processes of a launcher, and the cascade that one process makes."""
    root = tmp_path_factory.mktemp("processes")
    data = write_csv(root / "rows.csv", *reviews(80, seed=3))
    stages = [make_model(layers=i, hidden=16 * i, seed=i) for i in (1, 2)]
    command = ["fit", "--train", str(data), "--target-speedup", "1.2", "--max-length", "32", "--epochs", "1"]
    command += ["--difficulty-folds", "2", "--engine", "openvino", "--precision", "float32"]
    command += [word for stage in stages for word in ("--stage", str(stage))]

    def run(name, *launch):
        arguments = [sys.executable, *launch, *command, "--output", str(root / name)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stderr
        labels = DifficultyLabels.load(next((root / name).rglob("difficulty-1.npz")))
        return read_folder(root / name), labels

    return run, run("one", "-m", "cascadebert")


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_make_the_cascade_of_one(fitted, launcher):
    run, (one, labels) = fitted
    options = LAUNCHERS[launcher].format(port=free_port()).split()
    two, found = run(launcher, "-m", launcher, *options, "cascadebert")
    assert two.operating_point.thresholds == one.operating_point.thresholds
    assert [stage.temperature for stage in two.stages] == [stage.temperature for stage in one.stages]
    for name in ("model.safetensors", "model.onnx"):
        hashes = [[stage.sha256.get(name) for stage in made.stages] for made in (one, two)]
        assert hashes[0] == hashes[1]
    assert np.array_equal(found.hard, labels.hard) and np.array_equal(found.votes, labels.votes)
