"""One machine against a Ray cluster of two nodes on it: speed, and what is lost when something dies.

    python benchmarks/scale.py --data ../shared/data

A quarter of an hour, nothing beside it. Rows are those of `benchmarks/end_to_end.py`, predicted by its static
stage and MiniLM, which gets one in twenty. Results: results/scale/summary.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from threading import Event
from time import sleep
from typing import Any
from unittest.mock import patch
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import psutil
import pyarrow as pa
import ray
from ray import serve
from ray.cluster_utils import Cluster

from cascadebert import Cascade, OperatingPoint
from cascadebert.data.dataset import load_examples
from cascadebert.distributed import ray_data
from cascadebert.distributed.pools import StagePool
from cascadebert.distributed.ray_data import predict_dataset
from cascadebert.distributed.ray_serve import application
from cascadebert.distributed.stage_worker import StageWorker
from cascadebert.timing import now
from container import container
from end_to_end import MADE, SAMPLE, make_stages, write_rows
from stored import ROOT, current_commit, write_result

ROWS, FEW, ROUNDS, REQUESTS, SHARDS = 100_000, 2_000, 3, 1000, 3
EXITS = 0.95  # of the rows at the static stage
BLOCK = 4096  # rows
REST = 5.0  # seconds between runs, in which the actors of the last one end
STORE = 300_000_000  # bytes of objects on each node
SLOW_ROWS, CARRIED, PAUSE = 30_000, 10_000, 0.3  # rows, bytes that each carries, seconds that 1,000 wait
PORT = 18_770


def main() -> None:
    """Run everything and write the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of data sets")
    asked = parser.parse_args()
    commit, source = current_commit(), asked.data / "sst2" / "train.parquet"
    make_stages(source)
    with tempfile.TemporaryDirectory() as folder:
        job = make_job(Path(folder), source)
        image = container()
        values = {"rows": ROWS, "exits": EXITS, "container": image, "image_mb": image["image_mb"]}
        values |= {"shards_equal": shards_equal(job), **on_cluster(job)}
    path = ROOT / "results" / "scale" / "summary.json"
    write_result(path, values, data=[source], commit=commit)


@dataclass(frozen=True)
class Job:
    """A saved cascade, and the rows that it predicts."""

    cascade: Path
    rows: Path
    texts: list[str]

    def command(self, output: Path, *more: str) -> list[str]:
        """A command line that predicts the rows."""
        run = [sys.executable, "-m", "cascadebert", "predict", str(self.cascade), str(self.rows)]
        return [*run, "--output", str(output), *more]

    @property
    def whole(self) -> Path:
        """The output of one process."""
        return self.rows.with_name("whole.csv")


def make_job(folder: Path, source: Path) -> Job:
    """Write the rows, and the cascade with a threshold that so many of them pass."""
    write_rows(folder / "rows.csv", source, ROWS)
    texts = [str(text) for text in load_examples(folder / "rows.csv", labels=False).texts]
    made = Cascade.from_pretrained(MADE)
    confidences = made.stages[0].predict(texts[:SAMPLE]).confidences
    point = OperatingPoint((float(np.quantile(confidences, 1 - EXITS)),))
    made.with_operating_point(point).save_pretrained(folder / "cascade")
    return Job(folder / "cascade", folder / "rows.csv", texts)


def shards_equal(job: Job) -> bool:
    """True if the outputs of all shards, laid end to end, are the output of one run."""
    subprocess.run(job.command(job.whole), check=True, capture_output=True)
    parts = []
    for number in range(1, SHARDS + 1):
        output = job.rows.with_name(f"part-{number}.csv")
        command = job.command(output, "--shard", f"{number}/{SHARDS}")
        subprocess.run(command, check=True, capture_output=True)
        parts.append(output.read_text("utf-8").split("\n", 1))
    return parts[0][0] + "\n" + "".join(part for _, part in parts) == job.whole.read_text("utf-8")


def on_cluster(job: Job) -> dict[str, Any]:
    """Everything that needs the cluster: two nodes of one processor, and this process."""
    size = {"num_cpus": 1, "object_store_memory": STORE}
    cluster = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False})
    cluster.add_node(**size)
    ray.init(address=cluster.address, log_to_driver=False)
    expected = Cascade.from_pretrained(job.cascade).predict(job.texts).labels.tolist()

    def kill_actors() -> None:
        for process in processes("StageWorker"):
            process.kill()

    def kill_node() -> None:
        cluster.remove_node(third, allow_graceful=False)

    values: dict[str, Any] = ratio(job)
    print(values, flush=True)
    values["slow_last_stage"] = [slow_last_stage(job, count) for count in (SLOW_ROWS, 3 * SLOW_ROWS)]
    values["killed_actor"] = losses(job, expected, kill_actors)
    third = cluster.add_node(**size)
    values["killed_node"] = losses(job, expected, kill_node)
    values["driver_rerun_equal"] = driver_rerun_equal(job, str(cluster.address))
    values["serve_kill"] = serve_kill(job, expected)
    ray.shutdown()
    cluster.shutdown()
    return values


def ratio(job: Job) -> dict[str, Any]:
    """Speed of the cluster over that of one process; what starting takes is left out, by runs of few rows."""
    cascade = Cascade.from_pretrained(job.cascade)
    cascade.predict(job.texts[:FEW])
    seconds: dict[str, list[float]] = {"one": [], "cluster": []}
    for _ in range(ROUNDS):
        for name, run in (("one", cascade.predict), ("cluster", partial(through_cluster, job))):
            taken = [_seconds(run, job.texts[:count]) for count in (FEW, ROWS)]
            seconds[name].append(taken[1] - taken[0])
    ratios = [one / other for one, other in zip(seconds["one"], seconds["cluster"], strict=True)]
    return {"ray_vs_single": median(ratios), "range": [min(ratios), max(ratios)], "seconds": seconds}


def _seconds(run: Callable[[list[str]], object], texts: list[str]) -> float:
    sleep(REST)
    start = now()
    run(texts)
    return now() - start


def stream(job: Job, texts: list[str]) -> Iterator[dict[str, Any]]:
    """Answered rows in batches."""
    table = pa.table({"text": texts, "id": range(len(texts))})
    rows = ray.data.from_arrow([table.slice(start, BLOCK) for start in range(0, len(texts), BLOCK)])
    yield from predict_dataset(rows, job.cascade).iter_batches(batch_size=None)


def through_cluster(job: Job, texts: list[str]) -> int:
    """The number of rows that come out."""
    return sum(len(batch["id"]) for batch in stream(job, texts))


def losses(job: Job, expected: list[str], kill: Callable[[], None]) -> dict[str, int]:
    """Rows lost, doubled and wrong when something is killed after the first batch."""
    found: Counter[int] = Counter()
    wrong = 0
    for number, batch in enumerate(stream(job, job.texts)):
        if number == 0:
            kill()
        found.update(batch["id"].tolist())
        wrong += sum(expected[i] != label for i, label in zip(batch["id"], batch["label"], strict=True))
    doubled = sum(count - 1 for count in found.values())
    return {"lost": ROWS - len(found), "doubled": doubled, "wrong": wrong}


def slow_last_stage(job: Job, count: int) -> dict[str, float]:
    """Megabytes of objects on the cluster at most while its last stage is slow, and how busy that one is."""

    class Slow(StageWorker):
        def __call__(self, rows: Any) -> Any:
            start = now()
            if self._is_last:
                sleep(PAUSE)
            found = super().__call__(rows)
            return found.append_column("seconds", [[now() - start] * len(found)]) if self._is_last else found

    items = ray.data.range(count, override_num_blocks=count // 1000)
    rows = items.map_batches(_Texts(job.texts[:count]), batch_size=1000)
    most, stop = [0.0], Event()

    def sample() -> None:
        while not stop.wait(0.1):
            kind = "object_store_memory"
            used = ray.cluster_resources()[kind] - ray.available_resources().get(kind, 0.0)
            most[0] = max(most[0], used / 1e6)

    pools, busy, begin = [StagePool(1, 1000, 0.0)] * 2, 0.0, None
    with patch.object(ray_data, "StageWorker", Slow), ThreadPoolExecutor(1) as pool:
        pool.submit(sample)
        for batch in predict_dataset(rows, job.cascade, pools=pools).iter_batches(batch_size=1000):
            begin = begin or now() - batch["seconds"][0]  # what starting takes is left out
            busy += batch["seconds"].mean()
        taken = now() - (begin or now())
        stop.set()
    return {
        "rows": count,
        "carried_mb": count * CARRIED / 1e6,
        "most_mb": most[0],
        "busy": busy / taken,
    }


class _Texts:
    """Rows of numbers get their texts, and something that is carried along."""

    def __init__(self, texts: list[str]) -> None:
        self._texts = texts

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        texts = [self._texts[i] for i in batch["id"]]
        return {**batch, "text": texts, "carried": ["x" * CARRIED] * len(texts)}


def driver_rerun_equal(job: Job, address: str) -> bool:
    """True if a run whose driver was killed after its first chunk ends in the output of one that was not."""
    output, environment = job.rows.with_name("killed.csv"), {**os.environ, "RAY_ADDRESS": address}
    command = job.command(output, "--runner", "ray")
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    while not (output.with_name(f"{output.name}.work") / "00000000.json").is_file():
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.01)
            raise RuntimeError(f"it ended by itself, with exit code {process.returncode}")
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return output.read_bytes() == job.whole.read_bytes()


def serve_kill(job: Job, expected: list[str]) -> dict[str, int]:
    """Requests to Ray Serve, wrong answers and errors, while a replica of the last stage is killed."""
    small = {"ray_actor_options": {"num_cpus": 0.25}}
    last = {"autoscaling_config": None, "num_replicas": 2, **small}
    serve.start(http_options={"port": PORT})
    serve.run(
        application({"folder": str(job.cascade), "latency_target": 2.0, "ingress": small, "last_stage": last})
    )

    def ask(number: int) -> tuple[int, bool]:
        if number == REQUESTS // 3:
            processes("last-stage")[0].kill()
        body = json.dumps({"inputs": [[job.texts[number]]]}).encode()
        request = Request(f"http://127.0.0.1:{PORT}/predict", body, {"content-type": "application/json"})
        try:
            with urlopen(request, timeout=60) as response:
                (scores,) = json.load(response)
        except HTTPError as error:
            return error.code, True
        return 200, max(scores, key=lambda one: float(one["score"]))["label"] == expected[number]

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(ask, range(REQUESTS)))
    serve.shutdown()
    statuses = Counter(status for status, _ in found)
    wrong = sum(not right for _, right in found)
    failed = REQUESTS - statuses[200]
    return {"requests": REQUESTS, "wrong": wrong, "failed": failed, "failed_but_503": failed - statuses[503]}


def processes(name: str) -> list[psutil.Process]:
    """Processes of the cluster whose command line has a name in it."""
    return [one for one in psutil.process_iter(["cmdline"]) if name in " ".join(one.info["cmdline"] or [])]


if __name__ == "__main__":
    main()
