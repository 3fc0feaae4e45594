"""Two processes train what one does: the same difficulty labels, thresholds and weights."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cascadebert.paper.protocol import ExperimentProtocol, TaskConfig
from cascadebert.persistence.folder import file_hashes, read_folder
from cascadebert.training.difficulty import DifficultyLabels
from cascadebert.training.processes import Processes, run_all
from clusters import free_port
from samples import reviews, sentences, write_csv


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


REPRODUCE = """
import pickle, sys
from pathlib import Path
from cascadebert.paper.run import reproduce
from cascadebert.training.processes import joined
protocol, models, data = pickle.loads(Path(sys.argv[1]).read_bytes())
with joined():
    reproduce(protocol, output=Path(sys.argv[2]), models=models, data=data, timed=False)
"""


def in_two_processes(*command):
    """Run a script or a module by torchrun."""
    launch = LAUNCHERS["torch.distributed.run"].format(port=free_port()).split()
    if command[0].endswith(".py"):
        launch.remove("-m")
    run = [sys.executable, "-m", "torch.distributed.run", *launch, *command]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_two_processes_reproduce_what_one_does(make_model, tmp_path):
    large, small = (make_model(layers=i, hidden=16, labels=None) for i in (2, 1))
    quick = {"epochs": 1.0, "batch_size": 16, "learning_rate": 2e-3, "small_learning_rate": 2e-3}
    protocol = ExperimentProtocol(
        "tiny", (TaskConfig("task", "accuracy", rows=40, tune_rows=20, **quick),), large.name, (small.name,),
        (), seeds=(1, 2), targets=(1.5,), truncated=(), students=(), early_exits=("deebert",),
        objectives=("plain", "dar"), tokens=32, exit_epochs=1.0, difficulty_folds=2, difficulty_seeds=1,
        gatekeeper_epochs=1.0, bf16=False,
    )  # fmt: skip
    for split, first, last in (("train", 0, 60), ("validation", 60, 100)):
        texts, names = reviews(100, seed=4)
        rows = [(name == "positive") * 1 for name in names]
        (tmp_path / "data" / "task").mkdir(parents=True, exist_ok=True)
        table = pa.table({"sentence": texts[first:last], "label": rows[first:last]})
        pq.write_table(table, tmp_path / "data" / "task" / f"{split}.parquet")
    models = {path.name: str(path) for path in (large, small)}
    (tmp_path / "given").write_bytes(pickle.dumps((protocol, models, tmp_path / "data")))
    script = tmp_path / "run.py"
    script.write_text(REPRODUCE)
    alone = [sys.executable, str(script), str(tmp_path / "given"), str(tmp_path / "one")]
    subprocess.run(alone, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, capture_output=True)
    in_two_processes(str(script), str(tmp_path / "given"), str(tmp_path / "two"))
    one, two = (sorted((tmp_path / name).rglob("*.npz")) for name in ("one", "two"))
    assert [file.name for file in one] == [file.name for file in two] and len(one) >= 2 * 4
    for file, other in zip(one, two, strict=True):
        assert file.read_bytes() == other.read_bytes()


@pytest.mark.slow
def test_a_student_is_made_once_however_many_processes_there_are(make_model, tmp_path):
    large = make_model(layers=2, hidden=16, labels=None)
    (tmp_path / "corpus.txt").write_text("\n".join(sentences(2000, seed=6)) + "\n")
    command = ["distill", str(large), "--corpus", str(tmp_path / "corpus.txt"), "--num-layers", "1"]
    command += ["--max-tokens", "10000", "--max-length", "16", "--batch-tokens", "256"]
    alone = [sys.executable, "-m", "cascadebert", *command, "--output", str(tmp_path / "one")]
    subprocess.run(alone, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, capture_output=True)
    in_two_processes("cascadebert", *command, "--output", str(tmp_path / "two"))
    one, two = (file_hashes(tmp_path / name) for name in ("one", "two"))
    assert one["model.safetensors"] == two["model.safetensors"]
