"""The HTTP API on Ray Serve answers as `serve` does, also while a replica dies."""

from __future__ import annotations

import json
import os
import re
import signal
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import numpy as np
import psutil
import pytest

pytest.importorskip("ray.serve")

import ray
import yaml
from ray import serve
from ray.serve.schema import ServeDeploySchema

from cascadebert import Cascade
from cascadebert.distributed.ray_serve import application, run_together
from cascadebert.errors import CascadeError
from clusters import free_port, save_cascade
from samples import sentences

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore"), pytest.mark.xdist_group("ray")]

TEXTS = sentences(200, seed=21, most=12)
ROOT = Path(__file__).resolve().parents[1]
DEPLOY, CONSTRAINTS = ROOT / "deploy", (ROOT / "constraints.txt").read_text("utf-8")


@pytest.fixture(scope="module")
def folder(make_model, tmp_path_factory):
    return save_cascade(make_model, tmp_path_factory.mktemp("ray-serve"), TEXTS)


@pytest.fixture(scope="module")
def expected(folder):
    """What the cascade answers here, by text."""
    found = Cascade.from_pretrained(folder).predict(TEXTS)
    assert set(found.stages) == {1, 2}
    return dict(zip(TEXTS, found.labels.tolist(), strict=True))


@pytest.fixture(scope="module")
def served(folder):
    """The address of the application, with two replicas of the last stage."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    port = free_port()
    serve.start(http_options={"port": port})
    small = {"ray_actor_options": {"num_cpus": 0.5}}
    last = {"autoscaling_config": None, "num_replicas": 2, **small}
    settings = {"folder": str(folder), "probe_every": 0.5, "latency_target": 2.0}
    serve.run(application({**settings, "last_stage": last, "ingress": small}))
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()
    ray.shutdown()


def post(url, texts):
    """Status, body and headers of a request."""
    body = json.dumps({"inputs": [[text] for text in texts]}).encode()
    request = urllib.request.Request(f"{url}/predict", body, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response), response.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers


def best(scores):
    return max(scores, key=lambda one: one["score"])["label"]


def test_answers_are_those_of_the_cascade(served, expected):
    for start in range(0, 200, 50):
        status, rows, headers = post(served, TEXTS[start : start + 50])
        assert status == 200 and headers["x-cascade-operating-point"] == "0"
        assert [best(row) for row in rows] == [expected[text] for text in TEXTS[start : start + 50]]


def test_all_paths_are_there_and_metrics_name_the_replica(served):
    for path in ("/", "/health", "/ready", "/info", "/openapi.json"):
        with urllib.request.urlopen(served + path, timeout=30) as response:
            assert response.status == 200
    with urllib.request.urlopen(f"{served}/metrics", timeout=30) as response:
        lines = [line for line in response.read().decode().splitlines() if not line.startswith("#")]
    assert lines and all('replica="' in line for line in lines)
    status, _, _ = post(served, [" "])
    assert status == 400


def test_a_killed_replica_makes_no_answer_wrong(served, expected):
    def ask(number):
        text = TEXTS[number % 200]
        status, rows, headers = post(served, [text])
        if number == 300:
            names = [(one, " ".join(one.info["cmdline"] or [])) for one in psutil.process_iter(["cmdline"])]
            victims = [one for one, name in names if "last-stage" in name]
            assert len(victims) == 2, [name for _, name in names]
            victims[0].send_signal(signal.SIGKILL)
        return status, status == 200 and best(rows[0]) == expected[text], headers.get("retry-after")

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(ask, range(1000)))
    statuses = [status for status, _, _ in found]
    assert set(statuses) <= {200, 503}, statuses
    assert all(right for status, right, _ in found if status == 200)
    assert all(after for status, _, after in found if status == 503)
    assert statuses.count(200) > 900
    time.sleep(1)
    assert post(served, TEXTS[:50])[0] == 200


def test_batches_of_several_lengths_are_computed_together_and_given_back_apart(folder):
    stage = Cascade.from_pretrained(folder).stages[-1]
    tokens = stage.encode(TEXTS)
    groups = [[i for i in range(200) if tokens.padded_lengths[i] == length] for length in (6, 8, 10)]
    batches = [tokens.batch(np.array(group)) for group in [*groups, groups[0][:2]]]
    arrays = [(one.input_ids, one.attention_mask, one.token_type_ids) for one in batches]
    for one, found in zip(batches, run_together(stage, arrays), strict=True):
        assert found.tobytes() == stage.engine.logits(one).tobytes()


def test_settings_that_are_unknown_or_missing_are_errors(folder):
    with pytest.raises(CascadeError, match="unknown: latency_taget"):
        application({"folder": str(folder), "latency_taget": 1})
    with pytest.raises(CascadeError, match="folder is missing"):
        application({})


@pytest.mark.parametrize("name", ["ray-serve.yaml", "rayservice.yaml"])
def test_the_manifests_are_of_the_schema_and_of_this_application(name, folder):
    document = yaml.safe_load((DEPLOY / name).read_text("utf-8"))
    if name == "rayservice.yaml":
        cluster = document["spec"]["rayClusterConfig"]
        assert cluster["rayVersion"] == re.search("^ray==(.*)$", CONSTRAINTS, re.MULTILINE)[1]
        document = yaml.safe_load(document["spec"]["serveConfigV2"])
    (deployed,) = ServeDeploySchema.model_validate(document).applications
    module, _, function = deployed.import_path.partition(":")
    built = getattr(import_module(module), function)({**deployed.args, "folder": str(folder)})
    assert type(built).__name__ == "Application"
