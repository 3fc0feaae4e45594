"""The server over HTTP: its forms, its errors and what it tells."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from starlette.testclient import TestClient

from cascadebert.errors import DataError
from cascadebert.inference.cascade import Cascade
from cascadebert.server.http.app import make_app
from cascadebert.server.http.schemas import ClassifyResponse
from cascadebert.server.scheduling.dispatcher import BatchDispatcher
from cascadebert.server.types import (
    DeadlineExceeded,
    Overloaded,
    RequestResult,
    ServiceUnavailable,
    StageUnavailable,
)
from samples import sentences
from serving import JSON, SMALL, ask, refused, row, scripted


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
    app = make_app(BatchDispatcher(cascade, SMALL), cascade, SMALL)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


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
    client, pool = scripted(cascade, RequestResult((row(),) * len(texts), 0, None))
    found = ask(client, {"inputs": inputs}).json()
    assert pool.asked[0][0] == texts
    assert isinstance(found[0], dict if single else list)


def test_raw_scores_are_the_logits(cascade):
    client, _ = scripted(cascade, RequestResult((row(),), 0, None))
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
    assert "text 2" in said and str(cascade.stages[0].tokenizer.max_length) in said
    assert "left" in refused(ask(client, {"inputs": long, "truncation_direction": "Left"}), 422, "Validation")
    assert ask(client, {"inputs": "film", "truncation_direction": "left", "truncate": False}).is_success


def test_headers_say_what_the_form_has_no_place_for(cascade):
    client, _ = scripted(cascade, RequestResult((row(degraded=True),), 1, "stage 1 was asked for"))
    headers = ask(client, {"inputs": "a"}).headers
    assert headers["x-cascade-point"] == "1"
    assert headers["x-cascade-outside-certificate"] == headers["x-cascade-degraded"] == "1"


# ---- /v1/classify


def test_rows_are_answered_and_on_request_explained(client, cascade):
    texts = sentences(8, seed=4)
    said = ask(client, {"texts": texts, "explain": True}, "/v1/classify").json()
    ClassifyResponse.model_validate(said)
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
    sure, pool = scripted(cascade, RequestResult((row(),), 1, None))
    said = ask(sure, {"texts": ["a"], "max_stage": 1, "deadline_ms": 250}, "/v1/classify").json()
    assert said["operating_point"] == {"place": 1, "thresholds": [0.8]}
    assert said["outside_certificate"] is None
    options = pool.asked[0][1]
    assert (options.max_stage, options.deadline) == (1, 0.25)


def test_a_degraded_answer_names_the_known_accuracy_of_its_stage(known):
    client, _ = scripted(known, RequestResult((row(degraded=True), row(2)), 0, "the last stage is down"))
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
    client, pool = scripted(known, RequestResult((row(),), 0, None))
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
        (DeadlineExceeded("too late"), 504, "Overloaded", None),
        (StageUnavailable("stage 2 hangs"), 503, "Unhealthy", "5"),
        (ServiceUnavailable("starting"), 503, "Unhealthy", "1"),
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
    client, _ = scripted(cascade, RequestResult((row(high=float("nan")),), 0, None))
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
    client, _ = scripted(cascade, RequestResult((row(),), 0, None), known=known)
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
    app = make_app(BatchDispatcher(cascade, SMALL), cascade, SMALL)
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
