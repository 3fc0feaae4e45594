"""What a client sees when a stage is missing, hangs or dies, and when the last stage changes its mind."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from starlette.testclient import TestClient

from cascadebert.errors import CascadeError, FolderError
from cascadebert.inference.cascade import Cascade
from cascadebert.server.config import ServerConfig
from cascadebert.server.http.app import make_app
from cascadebert.server.loading import open_cascade
from cascadebert.server.monitoring.monitor import QualityMonitor, Reference
from cascadebert.server.scheduling.dispatcher import BatchDispatcher
from cascadebert.thresholds.operating_point import Guarantee, OperatingPoint
from cascadebert.tuning.certify import certify_folder
from dispatching import wait_until, with_exact_engines, with_faulty_stage
from samples import reviews, sentences, write_csv
from serving import check_error, post

TEXTS = sentences(120, seed=3, most=25)
DEGRADING = ServerConfig(
    latency_target=5.0, on_last_stage_failure="degrade", probe_every=0.05, stage_timeout=0.5
)


@pytest.fixture(scope="module")
def cascade(make_cascade):
    """Two stages that are exact; rows leave at both."""
    made = with_exact_engines(make_cascade(2))
    assert set(made.predict(TEXTS).stages) == {1, 2}
    return made


@contextmanager
def client_of(cascade, settings, monitor=None):
    """A client of the whole server but for its sockets."""
    app = make_app(BatchDispatcher(cascade, settings, monitor=monitor), cascade, settings, monitor)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def classify(client, texts):
    response = post(client, {"texts": texts, "explain": True}, "/v1/classify")
    assert response.status_code == 200, response.text
    return response.json()


def up(client):
    return [stage["up"] for stage in client.get("/info").json()["stages"]]


@pytest.mark.slow
def test_a_last_stage_that_hangs_degrades_what_needs_it_alone_and_comes_back(cascade):
    hanging, engine = with_faulty_stage(cascade, 2)
    wanted = cascade.predict(TEXTS)
    easy = [text for text, stage in zip(TEXTS, wanted.stages, strict=True) if stage == 1]
    with client_of(hanging, DEGRADING) as client, ThreadPoolExecutor(1) as other:
        engine.open.clear()
        engine.entered.clear()
        stuck = other.submit(classify, client, TEXTS)
        assert engine.entered.wait(10)
        at_once = classify(client, easy)
        assert not at_once["degraded"] and not stuck.done()
        said = stuck.result(20)
        assert said["degraded"] and "unavailable" in said["uncertified_reason"]
        assert [row["degraded"] for row in said["rows"]] == (wanted.stages == 2).tolist()
        assert up(client) == [True, False] and client.get("/ready").is_success
        assert "cascadebert_stage_up" in client.get("/metrics").text
        engine.open.set()
        wait_until(lambda: up(client) == [True, True])
        healed = classify(client, TEXTS)
        assert not healed["degraded"]
        assert [row["label"] for row in healed["rows"]] == list(wanted.labels)


@pytest.mark.slow
def test_a_last_stage_that_hangs_is_503_where_degraded_answers_are_not_wanted(cascade):
    hanging, engine = with_faulty_stage(cascade, 2)
    with client_of(hanging, replace(DEGRADING, on_last_stage_failure="error")) as client:
        engine.open.clear()
        response = post(client, {"texts": TEXTS}, "/v1/classify")
        assert "within 0.5 s" in check_error(response, 503, "Unhealthy")
        assert response.headers["retry-after"]
        engine.open.set()
        wait_until(lambda: up(client) == [True, True])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("number", [1, 2])
def test_a_worker_that_is_killed_is_not_seen_by_a_client(cascade, number):
    deadly, engine = with_faulty_stage(cascade, number)
    with client_of(deadly, DEGRADING) as client:
        for _ in range(3):
            engine.error = SystemExit()
            said = classify(client, TEXTS)
            assert not said["degraded"]
            assert [row["label"] for row in said["rows"]] == list(cascade.predict(TEXTS).labels)
        assert up(client) == [True, True]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["missing", "changed"])
def test_a_server_starts_without_its_last_stage_where_that_is_wanted(saved, tmp_path, what):
    shutil.copytree(saved, tmp_path / "cascade")
    last = sorted(tmp_path.glob("cascade/stage-*"))[-1]
    if what == "missing":
        shutil.rmtree(last)
    else:
        shutil.copyfile(last.with_name("stage-1") / "model.safetensors", last / "model.safetensors")
    with pytest.raises(FolderError, match=rf"stage-2.* (is|was) {what}"):
        open_cascade(tmp_path / "cascade", ServerConfig())
    texts, _ = reviews(60, seed=9)
    whole = Cascade.from_pretrained(saved)
    early = whole.with_operating_point(OperatingPoint((0.0,))).predict(texts)
    half = OperatingPoint((float(np.median(early.confidences)),))
    cascade = open_cascade(tmp_path / "cascade", DEGRADING).with_operating_point(half)
    wanted = whole.with_operating_point(half).predict(texts)
    assert set(wanted.stages) == {1, 2}
    with client_of(cascade, DEGRADING) as client:
        said = classify(client, texts)
        assert [row["degraded"] for row in said["rows"]] == (wanted.stages == 2).tolist()
        assert [row["label"] for row in said["rows"]] == list(early.labels)
        known = {row["known_accuracy"] for row in said["rows"] if row["degraded"]}
        assert known == {whole.spec.measured.stages[0].accuracy}
        assert up(client) == [True, False] and what in client.get("/info").text


@pytest.mark.parametrize("lost", ["folder", "last stage"])
def test_texts_that_are_cut_are_answered_and_logged_without_the_files(saved, tmp_path, caplog, lost):
    folder = shutil.copytree(saved, tmp_path / "cascade")
    if lost == "last stage":
        shutil.rmtree(folder / "stage-2")
    cascade = open_cascade(folder, DEGRADING)
    shutil.rmtree(folder)
    with caplog.at_level("WARNING", "cascadebert"), client_of(cascade, DEGRADING) as client:
        (row,) = classify(client, ["really good " * 90])["rows"]
    assert row["truncated"]
    notices = [record.getMessage() for record in caplog.records if "were cut" in record.getMessage()]
    assert len(notices) == 2  # at the first text and at shutdown


def test_an_earlier_stage_has_to_be_whole_in_any_case(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "cascade")
    shutil.rmtree(min(tmp_path.glob("cascade/stage-*")))
    with pytest.raises(CascadeError, match="stage-1"):
        open_cascade(tmp_path / "cascade", DEGRADING)


class Contrary:
    """An engine that can be made to say the opposite of another one."""

    def __init__(self, engine, other):
        self.engine, self.other, self.contrary = engine, other, False
        self.name, self.precision, self.device = engine.name, engine.precision, engine.device
        self.streams = engine.streams

    def logits(self, batch):
        return -self.other.logits(batch) if self.contrary else self.engine.logits(batch)


@pytest.mark.slow
def test_the_monitor_counts_what_is_served_and_an_alarm_switches_to_the_most_conservative_point(
    saved, tmp_path
):
    shutil.copytree(saved, tmp_path / "cascade")
    rows = write_csv(tmp_path / "rows.csv", *reviews(900, seed=77))
    certify_folder(
        tmp_path / "cascade", rows, guarantees=[Guarantee("min_agreement", 0.3)], confidence_level=0.9
    )
    cascade = Cascade.from_pretrained(tmp_path / "cascade")
    first, second = cascade.stages
    engine = Contrary(second.engine, first.engine)
    cascade = replace(cascade, stages=(first, replace(second, engine=engine)))
    settings = ServerConfig(latency_target=5.0, shadow_rate=1.0, on_alarm="safest-point", adaptive=False)
    monitor = QualityMonitor(Reference.from_cascade(cascade), settings)
    texts, _ = reviews(160, seed=78)
    wanted, last = cascade.predict(texts), second.predict(texts)
    with client_of(cascade, settings, monitor) as client:
        index = client.get("/info").json()["operating_point"]["index"]
        assert index > 0
        said = classify(client, texts)
        wait_until(
            lambda: (
                monitor.state().operating_points
                and monitor.state().operating_points[0].shadow_evaluations == len(texts)
            )
        )
        (point,) = monitor.state().operating_points
        assert point.index == index and point.exits == tuple(
            int((wanted.stages == stage).sum()) for stage in (1, 2)
        )
        assert [row["label"] for row in said["rows"]] == list(wanted.labels)
        assert point.agreement == pytest.approx((wanted.label_ids == last.label_ids).mean())
        assert "agreement_recent" not in client.get("/info").text
        engine.contrary = True
        for seed in range(10):
            classify(client, reviews(100, seed=seed)[0])
        wait_until(lambda: monitor.state().alarms)
        classify(client, texts)
        assert client.get("/info").json()["operating_point"]["index"] == 0
        assert any(alarm.kind.startswith("agreement") for alarm in monitor.state().alarms)
