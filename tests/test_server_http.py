"""The server over HTTP: its forms, its errors, rubbish, slow clients, and how it stops."""

from __future__ import annotations

import asyncio
import json
import re
import select
import shutil
import signal
import socket
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from cascadebert.cascade import Cascade
from cascadebert.errors import DataError
from cascadebert.server import reading, running
from cascadebert.server.app import make_app
from cascadebert.server.pool import Pool
from cascadebert.server.schemas import ClassifyAnswer, ErrorAnswer
from cascadebert.server.settings import ServeSettings
from cascadebert.server.values import Answer, Expired, NotReady, Overloaded, StageDown
from samples import sentences
from serving import ScriptedPool, request, rest, row, serving

SMALL = ServeSettings(max_rows=8, max_characters=400, max_bytes=20_000, latency_target=5.0, queue_rows=64)
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def cascade(make_cascade):
    return make_cascade(2, thresholds=(0.7,))


@pytest.fixture(scope="module")
def known(saved):
    """A cascade that was saved, and says what it reads and how well its stages do."""
    return Cascade.from_pretrained(saved)


@pytest.fixture(scope="module")
def client(cascade):
    """A client of a server with a real pool."""
    app = make_app(Pool(cascade, SMALL), cascade, SMALL)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def scripted(cascade, answer, *, later=True, known=SMALL):
    pool = ScriptedPool(answer, later=later)
    return TestClient(make_app(pool, cascade, known), raise_server_exceptions=False), pool


def ask(client, body, path="/predict", **headers):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return client.post(path, content=content, headers={**JSON, **headers})


def refused(response, status, kind):
    assert response.status_code == status, response.text
    said = response.json()
    assert set(said) == {"error", "error_type"} and said["error"] and said["error_type"] == kind
    ErrorAnswer.model_validate(said)
    return said["error"]


# ---- /predict


def test_a_text_gets_one_list_of_labels_with_the_highest_score_first(client, cascade):
    found = ask(client, {"inputs": "a lovely film"}).json()
    expected = cascade.predict(["a lovely film"])
    assert found[0]["label"] == expected.labels[0]
    assert found[0]["score"] >= found[1]["score"]
    scores = {one["label"]: one["score"] for one in found}
    assert [scores[name] for name in cascade.label_names] == pytest.approx(expected.probabilities[0])


def test_a_batch_gets_a_list_of_lists_in_its_order(client, cascade):
    texts = sentences(8, seed=3)
    found = ask(client, {"inputs": [[text] for text in texts]}).json()
    assert [one[0]["label"] for one in found] == list(cascade.predict(texts).labels)


@pytest.mark.parametrize(
    ("inputs", "texts", "single"),
    [
        ("a", ["a"], True),
        (["a"], ["a"], True),
        (["a", "b"], [("a", "b")], True),
        ([["a"]], ["a"], False),
        ([["a", "b"], ["c", "d"]], [("a", "b"), ("c", "d")], False),
        (["a", ""], [("a", "")], True),
    ],
)
def test_inputs_mean_what_they_mean_to_text_embeddings_inference(cascade, inputs, texts, single):
    client, pool = scripted(cascade, Answer((row(),) * len(texts), 0, None))
    found = ask(client, {"inputs": inputs}).json()
    assert pool.asked[0][0] == texts
    assert isinstance(found[0], dict if single else list)


def test_raw_scores_are_the_logits(cascade):
    client, _ = scripted(cascade, Answer((row(),), 0, None))
    found = ask(client, {"inputs": "a", "raw_scores": True}).json()
    assert found == [{"score": 2.0, "label": "positive"}, {"score": -1.0, "label": "negative"}]


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        None,
        3,
        {"inputs": None},
        {"inputs": 3},
        {"inputs": []},
        {"inputs": ["a", "b", "c"]},
        {"inputs": [[]]},
        {"inputs": [["a", "b", "c"]]},
        {"inputs": ["a", ["b"]]},
        {"inputs": [["a"], "b"]},
        {"inputs": [["a"], [3]]},
        {"inputs": {"text": "a"}},
        {"inputs": "a", "raw_scores": None},
        {"inputs": "a", "raw_scores": "true"},
        {"inputs": "a", "truncate": 1},
        {"inputs": "a", "truncation_direction": "Up"},
    ],
)
def test_other_forms_are_refused(client, body):
    refused(ask(client, body), 422, "Validation")


def test_what_is_not_known_is_ignored_as_there_and_an_empty_text_is_refused(client):
    assert ask(client, {"inputs": "a", "prompt_name": None}).status_code == 200
    for inputs in ("", [""], [["a"], [""]], ["", ""]):
        refused(ask(client, {"inputs": inputs}), 400, "Empty")


def test_a_text_that_is_too_long_is_cut_or_refused_as_asked(client, cascade):
    long = "film " * 78  # 400 characters, 66 positions
    assert ask(client, {"inputs": long}).status_code == 200
    assert ask(client, {"inputs": long, "truncate": True}).status_code == 200
    said = refused(ask(client, {"inputs": [["a"], [long]], "truncate": False}), 422, "Validation")
    assert "text 2" in said and str(cascade.stages[0].encoder.max_length) in said
    assert "left" in refused(ask(client, {"inputs": long, "truncation_direction": "Left"}), 422, "Validation")
    assert ask(client, {"inputs": "film", "truncation_direction": "left", "truncate": False}).is_success


def test_headers_say_what_the_form_has_no_place_for(cascade):
    client, _ = scripted(cascade, Answer((row(degraded=True),), 1, "stage 1 was asked for"))
    headers = ask(client, {"inputs": "a"}).headers
    assert headers["x-cascade-point"] == "1"
    assert headers["x-cascade-outside-certificate"] == headers["x-cascade-degraded"] == "1"


# ---- /v1/classify


def test_rows_are_answered_and_on_request_explained(client, cascade):
    texts = sentences(8, seed=4)
    said = ask(client, {"texts": texts, "explain": True}, "/v1/classify").json()
    ClassifyAnswer.model_validate(said)
    expected = cascade.predict(texts)
    assert [one["label"] for one in said["rows"]] == list(expected.labels)
    assert [one["stage"] for one in said["rows"]] == list(expected.stages)
    assert [one["confidence"] for one in said["rows"]] == pytest.approx(list(expected.confidences))
    for one in said["rows"]:
        assert [visit["stage"] for visit in one["stages"]] == list(range(1, one["stage"] + 1))
        assert one["stages"][-1]["probabilities"][one["label"]] == one["score"]
        assert one["milliseconds"] > 0
    plain = ask(client, {"texts": texts}, "/v1/classify").json()
    assert [set(one) for one in plain["rows"]] == [{"label", "score", "degraded"}] * 8


def test_the_answer_names_its_operating_point_and_what_puts_it_outside_the_certificate(client, cascade):
    said = ask(client, {"texts": ["a"]}, "/v1/classify").json()
    assert said["operating_point"] == {"place": 0, "thresholds": [0.7]}
    assert "by hand" in said["outside_certificate"]
    sure, pool = scripted(cascade, Answer((row(),), 1, None))
    said = ask(sure, {"texts": ["a"], "max_stage": 1, "deadline_ms": 250}, "/v1/classify").json()
    assert said["operating_point"] == {"place": 1, "thresholds": [0.8]}
    assert said["outside_certificate"] is None
    options = pool.asked[0][1]
    assert (options.max_stage, options.deadline) == (1, 0.25)


def test_a_degraded_answer_names_the_known_accuracy_of_its_stage(known):
    client, _ = scripted(known, Answer((row(degraded=True), row(2)), 0, "the last stage is down"))
    said = ask(client, {"texts": ["a", "b"]}, "/v1/classify").json()
    assert said["degraded"] is True
    assert [one["degraded"] for one in said["rows"]] == [True, False]
    assert said["rows"][0]["known_accuracy"] == known.spec.measured.stages[0].accuracy
    assert "known_accuracy" not in said["rows"][1]


@pytest.mark.parametrize(
    "change",
    [
        {"texts": []},
        {"texts": "a"},
        {"texts": [["a"]]},
        {"texts": [["a", "b", "c"]]},
        {"texts": ["a", ["b", "c"]]},
        {"max_stage": 0},
        {"max_stage": 3},
        {"max_stage": 10**400},
        {"max_stage": True},
        {"max_stage": 1.5},
        {"deadline_ms": 0},
        {"deadline_ms": -1},
        {"deadline_ms": 1e300},
        {"deadline_ms": "5"},
        {"explain": 1},
        {"max_stages": 1},
    ],
)
def test_options_out_of_range_are_refused(client, change):
    refused(ask(client, {"texts": ["a"], **change}, "/v1/classify"), 422, "Validation")


def test_pairs_where_the_cascade_reads_single_texts_are_refused(known):
    client, pool = scripted(known, Answer((row(),), 0, None))
    assert "single text" in refused(ask(client, {"inputs": ["a", "b"]}), 422, "Tokenizer")
    refused(ask(client, {"inputs": [["a"], ["b", "c"]]}), 422, "Tokenizer")
    assert pool.asked == []


# ---- limits and errors


def test_limits_hold_for_rows_characters_and_bytes(client):
    refused(ask(client, {"inputs": [["a"]] * 9}), 422, "Validation")
    refused(ask(client, {"texts": ["a"] * 9}, "/v1/classify"), 422, "Validation")
    said = refused(ask(client, {"inputs": [["a"], ["secret" * 100]]}), 422, "Validation")
    assert "text 2" in said and "secret" not in said
    response = ask(client, {"inputs": "a" * 20_001})
    refused(response, 413, "Validation")
    assert response.headers["connection"] == "close"


def test_bodies_in_pieces_without_a_length_are_limited_while_they_are_read(client):
    taken = []

    def pieces():
        for _ in range(1000):
            taken.append(1)
            yield b" " * 1000

    refused(client.post("/predict", content=pieces(), headers=JSON), 413, "Validation")
    whole = iter([b'{"inputs"', b':"a"}'])
    assert client.post("/predict", content=whole, headers=JSON).is_success


@pytest.mark.parametrize(
    ("error", "status", "kind", "retry"),
    [
        (Overloaded("no room", 2.2), 429, "Overloaded", "3"),
        (Expired("too late"), 504, "Overloaded", None),
        (StageDown("stage 2 hangs"), 503, "Unhealthy", "5"),
        (NotReady("starting"), 503, "Unhealthy", "1"),
        (DataError("text 1 has no tokens"), 422, "Tokenizer", None),
        (RuntimeError("secret words"), 424, "Backend", None),
        (MemoryError(), 424, "Backend", None),
    ],
)
def test_each_error_of_the_pool_has_its_answer(cascade, error, status, kind, retry):
    for later in (True, False):
        if not later and status == 424:
            continue
        client, _ = scripted(cascade, error, later=later)
        response = ask(client, {"inputs": "a"})
        assert "secret" not in refused(response, status, kind)
        assert response.headers.get("retry-after") == retry


def test_an_error_nobody_foresaw_is_answered_and_logged_without_its_words(cascade, caplog):
    client, _ = scripted(cascade, RuntimeError("secret words"), later=False)
    refused(ask(client, {"inputs": "a"}), 500, "Backend")
    assert "RuntimeError" in caplog.text and "secret" not in caplog.text


def test_an_answer_that_is_no_number_is_the_backends_fault(cascade):
    client, _ = scripted(cascade, Answer((row(high=float("nan")),), 0, None))
    refused(ask(client, {"inputs": "a"}), 424, "Backend")
    refused(ask(client, {"texts": ["a"]}, "/v1/classify"), 424, "Backend")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/predict", 405),
        ("PUT", "/predict", 405),
        ("DELETE", "/info", 405),
        ("GET", "/nothing", 404),
        ("POST", "/predict/", 404),
        ("GET", "/docs", 404),
        ("GET", "/../../etc/passwd", 404),
        ("GET", "/%2e%2e/cascade.json", 404),
    ],
)
def test_paths_and_methods_that_there_are_not_get_the_same_form(client, method, path, status):
    response = client.request(method, path)
    refused(response, status, "Validation")


def test_a_body_that_is_not_said_to_be_json_is_refused(client):
    refused(client.post("/predict", content=b'{"inputs":"a"}'), 415, "Validation")
    kind = "application/x-www-form-urlencoded"
    refused(client.post("/predict", content=b"a", headers={"content-type": kind}), 415, "Validation")
    kind = "Application/JSON; charset=utf-8"
    assert client.post("/predict", content=b'{"inputs":"a"}', headers={"content-type": kind}).is_success


def test_the_token_is_asked_for_everywhere_but_where_nothing_is_told(cascade):
    known = replace(SMALL, token="right")
    client, _ = scripted(cascade, Answer((row(),), 0, None), known=known)
    for path in ("/", "/health", "/ready", "/openapi.json"):
        assert client.get(path).is_success
    for path in ("/info", "/metrics", "/nothing"):
        assert client.get(path).headers["www-authenticate"] == "Bearer"
        refused(client.get(path), 401, "Validation")
    for wrong in ({}, "right", "Bearer", "Bearer ", "Bearer wrong", "Basic right", "Bearer right right"):
        headers = {"authorization": wrong} if wrong else {}
        refused(ask(client, {"inputs": "a"}, **headers), 401, "Validation")
    refused(ask(client, {"inputs": "a"}, authorization="Bearer rïght".encode()), 401, "Validation")
    assert ask(client, {"inputs": "a"}, authorization="Bearer right").is_success
    assert client.get("/info", headers={"authorization": "bearer right"}).is_success
    assert "right" not in client.get("/info", headers={"authorization": "Bearer right"}).text


# ---- rubbish

PIECES = st.sampled_from(
    [b"{", b"}", b"[", b"]", b'"inputs"', b'"texts"', b":", b",", b'"', b"\\ud800", b"\\u0000", b"\x00",
     b"\xff\xfe", b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"null", b"true", b"[" * 5000, b'{"a":' * 300,
     b"\xf0\x9f\x98\x80", b"a"]
)  # fmt: skip
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=8,
)
NAMES = ("inputs", "raw_scores", "truncate", "truncation_direction", "texts", "max_stage", "deadline_ms")
BODIES = (
    st.binary(max_size=200)
    | st.lists(PIECES, max_size=12).map(b"".join)
    | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), VALUES).map(
        lambda v: json.dumps(v).encode()
    )
)
FUZZ = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@FUZZ
@given(body=BODIES, path=st.sampled_from(["/predict", "/v1/classify"]))
def test_no_body_is_answered_by_an_error_of_the_server(client, body, path):
    response = ask(client, body, path)
    assert response.status_code in (200, 400, 413, 422, 504), (body, response.text)
    if response.status_code != 200:
        ErrorAnswer.model_validate(response.json())


@FUZZ
@given(text=st.text(st.characters(codec="utf-8"), min_size=1, max_size=60))
def test_any_text_that_json_can_hold_is_answered(client, text):
    response = ask(client, {"texts": [text]}, "/v1/classify")
    assert response.status_code == 200, (text, response.text)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"\xff\xfe{", 400),
        (b"[" * 19_000, 400),
        (b'{"inputs":' + b"[" * 9000 + b"]" * 9000 + b"}", 400),
        (b'{"inputs":"\\ud800"}', 400),
        (b'{"inputs":"\xed\xa0\x80"}', 400),
        (b'{"inputs":"a\\u0000b"}', 200),
        (b'{"inputs":"' + b"9" * 300 + b'"}', 200),
        (b'{"inputs":' + b"9" * 9000 + b"}", 400),
        (b'{"inputs":["a",' + b"1," * 9000 + b'"a"]}', 422),
        (b'{"inputs":"a"} and more', 400),
        (b'\xef\xbb\xbf{"inputs":"a"}', 400),
    ],
)
def test_known_rubbish_has_known_answers(client, body, status):
    assert ask(client, body).status_code == status


# ---- what is told


def test_health_readiness_and_the_description(cascade):
    client, pool = scripted(cascade, None)
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/ready").json() == {"status": "ready"}
    pool.ready = False
    response = client.get("/ready")
    refused(response, 503, "Unhealthy")
    assert response.headers["retry-after"] == "1"
    told = client.get("/openapi.json").json()
    assert set(told["paths"]) == {"/predict", "/v1/classify", "/health", "/ready", "/info", "/metrics"}
    assert told["components"]["schemas"]["PredictRequest"]["examples"]
    assert {"200", "400", "413", "422", "424", "429", "503", "504"} <= set(
        told["paths"]["/predict"]["post"]["responses"]
    )


def test_info_tells_the_cascade_its_points_and_its_queues(client):
    said = client.get("/info").json()
    assert said["labels"] == ["negative", "positive"]
    assert said["ladder"] == [{"place": 0, "thresholds": [0.7], "exit_rates": None, "speedup": None}]
    assert [stage["up"] for stage in said["stages"]] == [True, True]
    assert "token" not in said["settings"] and said["certificate"] is None


def test_metrics_count_requests_rows_and_exits(cascade):
    app = make_app(Pool(cascade, SMALL), cascade, SMALL)
    with TestClient(app) as client:
        ask(client, {"inputs": [["a"], ["b"]]})
        ask(client, {"inputs": ""})
        client.get("/nothing")
        told = client.get("/metrics").text
    exits = [float(value) for value in re.findall(r"cascadebert_exits_total\{.*\} (.*)", told)]
    assert 'cascadebert_requests_total{path="/predict",status="200"} 1.0' in told
    assert 'cascadebert_requests_total{path="/predict",status="400"} 1.0' in told
    assert 'cascadebert_requests_total{path="other",status="404"} 1.0' in told
    assert "cascadebert_rows_total 2.0" in told and sum(exits) == 2
    assert "cascadebert_operating_point 0.0" in told


def test_the_page_may_load_and_run_nothing_but_itself(client):
    response = client.get("/")
    rules = response.headers["content-security-policy"]
    assert "default-src 'none'" in rules and "script-src 'sha256-" in rules and "unsafe" not in rules
    assert "http" not in re.sub(r"http://www.w3.org/2000/svg", "", response.text)
    assert not re.search(r"innerHTML|\bstyle=|\bon\w+=|document\.write|eval\(", response.text)


# ---- a server as a process


@pytest.fixture(scope="module")
def server(saved, tmp_path_factory):
    """A running server whose folder was removed after its start; a module's tests share it."""
    root = tmp_path_factory.mktemp("served")
    shutil.copytree(saved, root / "cascade")
    with serving(root / "cascade", root / "log", "--latency-target-ms", 20_000, "--max-rows", 16) as served:
        shutil.rmtree(root / "cascade")
        yield served


@pytest.mark.slow
def test_a_full_disk_under_the_log_stops_nothing(saved):
    with serving(saved, Path("/dev/full"), "--latency-target-ms", 20_000) as served:
        assert served.raw(request(b'{"inputs":"a"}')).startswith(b"HTTP/1.1 200")
        served.process.terminate()
        assert served.process.wait(timeout=60) == 0


def test_it_says_where_it_serves_and_that_it_is_uncertified(server):
    assert server.said["operating_point"] == 0 and server.said["certificate"] is None
    assert f"serving on {server.said['url']}" in server.log.read_text()
    assert "uncertified" in server.log.read_text()


def test_slow_cut_pipelined_and_broken_requests_leave_it_well(server):
    good = request(b'{"inputs":"a lovely film"}')
    with server.connect() as slow:
        for byte in good:
            slow.sendall(bytes([byte]))
        assert rest(slow).startswith(b"HTTP/1.1 200")
    for length in (1, 30, 100, len(good) - 1, len(good)):
        with server.connect() as cut:
            cut.sendall(good[:length])
    twice = request(b'{"inputs":"dull"}', close=False) + good
    assert server.raw(twice).count(b"HTTP/1.1 200") == 2
    said = server.raw(b"\x16\x03\x01 nonsense\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 400") and b'"error_type":"Validation"' in said
    chunks = b"5\r\n12345\r\n" * 500_000
    head = request(b"").replace(b"content-length: 0", b"transfer-encoding: chunked")
    assert server.raw(head + chunks).startswith(b"HTTP/1.1 413")
    assert server.raw(good).startswith(b"HTTP/1.1 200")


def test_a_bad_expectation_and_a_huge_head_do_no_harm(server):
    body = b'{"inputs":"a"}'
    waits = request(body, headers="expect: 100-continue\r\n")
    assert b"HTTP/1.1 200" in server.raw(waits)
    huge = request(body, headers=f"x: {'y' * 200_000}\r\n")
    server.raw(huge)
    assert server.raw(request(body)).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("endless", [b"x: y\r\n" * 10_000, b"x: " + b"y" * 70_000])
@pytest.mark.parametrize(
    "after", [b"", b"transfer-encoding: chunked\r\n\r\n0\r\n"], ids=["head", "after chunks"]
)
def test_fields_without_an_end_are_not_read_to_it(server, endless, after):
    head = request(b"").partition(b"content-length")[0]
    with server.connect() as connection, suppress(ConnectionError):
        connection.sendall(head + after)
        for _ in range(100):
            connection.sendall(endless)
            if select.select([connection], [], [], 0.01)[0]:
                break
        else:
            pytest.fail("megabytes of a head were read")
        assert rest(connection)[:12] in (b"HTTP/1.1 431", b"")  # an answer can be lost with what was not read
    assert server.raw(request(b'{"inputs":"a"}')).startswith(b"HTTP/1.1 200")


def test_texts_do_not_come_into_the_log(server):
    server.raw(request(b'{"inputs":"secretword"}'))
    server.raw(request(b'{"inputs":"secretword", "raw_scores": "secretword"}'))
    assert "secretword" not in server.log.read_text()


def test_stopping_under_load_loses_and_mixes_up_nothing_and_ends_well(known, server):
    """Every request that was sent gets its own whole answer, or its connection was never accepted."""
    texts = sentences(96, seed=9)
    expected = known.predict_proba(texts)
    answered, lost, stopped = [], [], threading.Event()

    def load(turn):
        while not stopped.is_set():
            try:
                connection = server.connect()
            except OSError:
                return  # refused: nothing was sent
            with connection:
                turn = converse(connection, turn, texts, answered, lost, stopped)

    threads = [threading.Thread(target=load, args=(turn,)) for turn in range(6)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 20
    while len(answered) < 30 and time.monotonic() < until:
        time.sleep(0.01)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(timeout=60) == 0
    stopped.set()
    for thread in threads:
        thread.join()
    assert lost == [] and len(answered) >= 30
    for first, rows in answered:
        scores = [{one["label"]: one["score"] for one in labels} for labels in rows]
        found = [[one[name] for name in known.label_names] for one in scores]
        assert np.allclose(found, expected[first : first + 16], atol=1e-4)


def converse(connection, turn, texts, answered, lost, stopped):
    """Ask for sixteen texts after the other on one connection until it is closed."""
    while not stopped.is_set():
        first = 16 * (turn % 6)
        body = json.dumps({"inputs": [[text] for text in texts[first : first + 16]]}).encode()
        connection.sendall(request(body, close=False))
        got = one_answer(connection)
        head, _, said = got.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            lost.append(got)
            break
        answered.append((first, json.loads(said)))
        turn += 1
        if b"connection: close" in head:
            break
    return turn


def one_answer(connection):
    """The bytes of one answer with a content-length."""
    got = b""
    while True:
        block = connection.recv(65536)
        if not block:
            return got
        got += block
        head, _, body = got.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        if length and len(body) >= int(length[1]):
            return got


SCOPE = {
    "type": "http",
    "method": "POST",
    "path": "/predict",
    "headers": [(b"content-type", b"application/json")],
}


def test_a_body_that_does_not_come_is_not_waited_for(cascade, monkeypatch):
    monkeypatch.setattr(reading, "BODY_SECONDS", 0.05)
    app, sent = make_app(ScriptedPool(), cascade, SMALL), []

    async def receive():
        await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    asyncio.run(app(dict(SCOPE), receive, send))
    assert sent[0]["status"] == 408 and (b"connection", b"close") in sent[0]["headers"]


def test_a_head_that_does_not_come_ends_its_connection(cascade, monkeypatch):
    monkeypatch.setattr(running, "HEAD_SECONDS", 0.2)
    app = make_app(ScriptedPool(), cascade, SMALL)
    listener = running.listen("127.0.0.1", 0)
    config = uvicorn.Config(app, http=running._Connection, log_config=None, timeout_keep_alive=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        for start in (
            b"",
            b"GET /health HTTP/1.1\r\nhost:",
            b"GET /health HTTP/1.1\r\nhost: x\r\n\r\nGET /hea",
        ):
            with socket.create_connection(listener.getsockname(), timeout=20) as slow:
                slow.sendall(start)
                assert rest(slow).count(b"HTTP/1.1 200") == start.count(b"\r\n\r\n")
    finally:
        server.should_exit = True
        thread.join()


def test_a_request_that_is_cut_is_abandoned(cascade):
    """The pool's future is cancelled as soon as the client is gone."""
    pool = ScriptedPool()
    app = make_app(pool, cascade, SMALL)
    messages = [{"type": "http.request", "body": b'{"inputs":"a"}', "more_body": False}]
    sent = []

    async def receive():
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    asyncio.run(app(dict(SCOPE), receive, send))
    assert pool.futures[0].cancelled() and sent == []


def test_an_address_that_cannot_be_had_and_a_bad_token_are_one_message_each(saved, run, monkeypatch):
    code, _, said = run("serve", saved, "--host", "203.0.113.1", "--port", 9)
    assert code == 2 and "cannot listen on 203.0.113.1, port 9" in said and "Traceback" not in said
    monkeypatch.setenv("CASCADEBERT_TOKEN", "two words")
    code, _, said = run("serve", saved, "--port", 0)
    assert code == 2 and "CASCADEBERT_TOKEN" in said and "two words" not in said
