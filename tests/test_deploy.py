"""The container's recipe and the Kubernetes manifests name what is there: options, paths, users, metrics."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml

from cascadebert import Cascade
from cascadebert.cli.app import app
from cascadebert.inference.predict_file import predict_file
from cascadebert.server.config import ServerConfig
from cascadebert.server.monitoring.metrics import STAGE
from samples import reviews, write_csv

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
RECIPE = (DEPLOY / "Dockerfile").read_text("utf-8")


def objects(name):
    """The objects of a manifest, by kind."""
    return {one["kind"]: one for one in yaml.safe_load_all((DEPLOY / name).read_text("utf-8"))}


def pods():
    """The pods of both manifests."""
    serve, predict = objects("serve.yaml")["Deployment"], objects("predict.yaml")["Job"]
    return [one["spec"]["template"]["spec"] for one in (serve, predict)]


def test_nothing_runs_as_root_or_writes_outside_of_mounts():
    (user,) = re.findall(r"^USER (\d+)$", RECIPE, re.MULTILINE)
    assert f"--uid {user}" in RECIPE and "XDG_CACHE_HOME=/tmp" in RECIPE
    for pod in pods():
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == int(user)
        assert container["securityContext"]["readOnlyRootFilesystem"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts["temporary"] == "/tmp" and mounts["cascade"] == "/model"
        assert set(mounts) == {volume["name"] for volume in pod["volumes"]}
        assert container["resources"]["limits"] == container["resources"]["requests"]


def test_the_server_is_started_and_asked_by_options_and_paths_that_exist():
    known = {name for one in typer.main.get_command(app).commands["serve"].params for name in one.opts}
    (command,) = re.findall(r"^CMD (\[.*\])$", RECIPE, re.MULTILINE)
    (container,) = objects("serve.yaml")["Deployment"]["spec"]["template"]["spec"]["containers"]
    for arguments in (json.loads(command), container["args"]):
        assert arguments[:2] == ["serve", "/model"]
        assert {word for word in arguments if word.startswith("-")} <= known
    asked = {container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")}
    assert asked == {"/ready", "/health"} and "8000/health" in RECIPE
    pod = objects("serve.yaml")["Deployment"]["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > ServerConfig.shutdown_timeout


def test_replicas_follow_a_metric_that_the_server_has():
    (metric,) = objects("serve.yaml")["HorizontalPodAutoscaler"]["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] in {f"cascadebert_{name}" for _, name, *_ in STAGE}


@pytest.mark.slow
def test_the_pods_of_the_job_write_the_parts_of_the_whole(saved, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    source = write_csv(tmp_path / "in" / "rows.csv", *reviews(60, seed=1))
    predict_file(Cascade.from_pretrained(saved), source, tmp_path / "whole.csv")
    job = objects("predict.yaml")["Job"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    (command,) = container["args"]
    command = command.replace("/model", str(saved)).replace("/texts", str(tmp_path))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    lines = []
    for index in (0, job["completions"] - 1):
        environment = {**os.environ, "PATH": path, "JOB_COMPLETION_INDEX": str(index)}
        subprocess.run([*container["command"], command], check=True, env=environment, capture_output=True)
        part = tmp_path / "out" / f"predictions-{index + 1}-of-{job['completions']}.csv"
        header, *rows = part.read_text().splitlines(keepends=True)
        lines += rows
    assert header + "".join(lines) == (tmp_path / "whole.csv").read_text()
