"""The server over HTTP: schemas, errors, and endpoints about its state."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from openapi_spec_validator import validate
from starlette.testclient import TestClient

from cascadebert.data.cells import check_texts
from cascadebert.data.readers import read_table
from cascadebert.server.http.app import make_app
from cascadebert.server.http.operations import OPERATIONS, openapi_document
from cascadebert.server.http.schemas import ClassifyResponse
from cascadebert.server.scheduling.dispatcher import BatchDispatcher
from cascadebert.server.types import (
    RequestResult,
)
from samples import sentences
from serving import SMALL, check_error, post, row_result, scripted

# ---- /predict


def test_a_text_gets_one_list_of_labels_with_the_highest_score_first(client, cascade):
    predictions = post(client, {"inputs": "a lovely film"}).json()
    expected = cascade.predict(["a lovely film"])
    assert predictions[0]["label"] == expected.labels[0]
    assert predictions[0]["score"] >= predictions[1]["score"]
    scores = {prediction["label"]: prediction["score"] for prediction in predictions}
    assert [scores[name] for name in cascade.label_names] == pytest.approx(expected.probabilities[0])


def test_a_batch_gets_a_list_of_lists_in_its_order(client, cascade):
    texts = sentences(8, seed=3)
    batch = post(client, {"inputs": [[text] for text in texts]}).json()
    assert [predictions[0]["label"] for predictions in batch] == list(cascade.predict(texts).labels)


@pytest.mark.parametrize(
    ("inputs", "texts", "single"),
    [
        ("a", ["a"], True),
        (["a"], ["a"], True),
        (["a", "b"], [("a", "b")], True),
        ([["a"]], ["a"], False),
        ([["a", "b"], ["c", "d"]], [("a", "b"), ("c", "d")], False),
    ],
)
def test_inputs_mean_what_they_mean_to_text_embeddings_inference(cascade, inputs, texts, single):
    client, dispatcher = scripted(cascade, RequestResult((row_result(),) * len(texts), 0, None))
    predictions = post(client, {"inputs": inputs}).json()
    assert dispatcher.submitted[0][0] == texts
    assert isinstance(predictions[0], dict if single else list)


def test_raw_scores_are_the_logits(cascade):
    client, _ = scripted(cascade, RequestResult((row_result(),), 0, None))
    predictions = post(client, {"inputs": "a", "raw_scores": True}).json()
    assert predictions == [{"score": 2.0, "label": "positive"}, {"score": -1.0, "label": "negative"}]


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
def test_other_schemas_are_rejected(client, body):
    check_error(post(client, body), 422, "Validation")


def test_unknown_fields_are_ignored_as_in_text_embeddings_inference(client):
    assert post(client, {"inputs": "a", "prompt_name": None}).status_code == 200


@pytest.mark.parametrize("text", ["", " ", "\n\t", "\u00a0\u2003", "\x1c"])
def test_the_server_rejects_the_empty_texts_that_files_have_no_text_for(client, tmp_path, text):
    data = tmp_path / "rows.jsonl"
    data.write_text(json.dumps({"text": text}) + "\n")
    table = read_table(data)
    assert list(check_texts(table, ("text",))[2].values()) == ["column 'text': empty text"]
    for inputs in (text, [text], [["a"], [text]], ["a", text], [["a", "b"], [text, "a"]]):
        check_error(post(client, {"inputs": inputs}), 400, "Empty")
    for texts in ([text], ["a", text], [["a", text]]):
        assert f"text {len(texts)}" in check_error(
            post(client, {"texts": texts}, "/v1/classify"), 400, "Empty"
        )


@pytest.mark.parametrize("path", ["/", "/invocations"])
def test_other_paths_of_text_embeddings_inference_predict_alike(cascade, path):
    client, dispatcher = scripted(cascade, RequestResult((row_result(), row_result(2)), 0, None))
    body = {"inputs": [["a film"], ["b"]]}
    assert post(client, body, path).json() == post(client, body).json()
    assert dispatcher.submitted[0] == dispatcher.submitted[1]


def test_vertex_instances_are_predicted_each_by_itself(cascade):
    rows = tuple(row_result(high=high) for high in (0.6, 0.7, 0.8, 0.9))
    client, dispatcher = scripted(cascade, RequestResult(rows, 0, None))
    instances = [
        {"inputs": "a film"},
        {"inputs": [["dull"], ["great"]], "raw_scores": True},
        {"inputs": ["fine"]},
    ]
    one, batch, other = post(client, {"instances": instances, "parameters": {}}, "/vertex").json()[
        "predictions"
    ]
    assert dispatcher.submitted[0][0] == ["a film", "dull", "great", "fine"]
    assert (one[0]["score"], other[0]["score"]) == (0.6, 0.9)
    assert [[prediction["score"] for prediction in row] for row in batch] == [[2.0, -1.0]] * 2


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "instances: Field required"),
        ({"instances": []}, "instances"),
        ({"instances": [{"inputs": "a"}, {"inputs": 3}]}, "instances.1.inputs: expected a string, a pair"),
        ({"instances": [{}]}, "instances.0.inputs: Field required"),
        ({"instances": [{"inputs": [["a"]] * 5}] * 2}, "10 texts exceed"),
        (
            {"instances": [{"inputs": [["a"]] * 2}, {"inputs": "film " * 78, "truncate": False}]},
            "text 3 has more than",
        ),
    ],
)
def test_bad_vertex_requests_name_their_instance_or_text(client, body, message):
    assert message in check_error(post(client, body, "/vertex"), 422, "Validation")


def test_parameters_of_the_inference_api_give_its_list_of_lists(cascade):
    client, _ = scripted(cascade, RequestResult((row_result(),), 0, None))

    def scores(parameters):
        (predictions,) = post(client, {"inputs": "a", "parameters": parameters}).json()
        return [prediction["score"] for prediction in predictions]

    assert scores({}) == [0.75, 0.25]
    assert scores({"top_k": 1, "function_to_apply": "softmax"}) == [0.75]
    assert scores({"top_k": 9, "function_to_apply": "none"}) == [2.0, -1.0]
    for wrong in ({"top_k": 0}, {"function_to_apply": "sigmoid"}, []):
        check_error(post(client, {"inputs": "a", "parameters": wrong}), 422, "Validation")


def test_a_text_that_is_too_long_is_truncated_or_rejected_as_requested(client, cascade):
    long = "film " * 78  # 400 characters, 66 positions
    assert post(client, {"inputs": long}).status_code == 200
    assert post(client, {"inputs": long, "truncate": True}).status_code == 200
    error = check_error(post(client, {"inputs": [["a"], [long]], "truncate": False}), 422, "Validation")
    assert "text 2" in error and str(cascade.stages[0].tokenizer.max_length) in error
    assert "left" in check_error(
        post(client, {"inputs": long, "truncation_direction": "Left"}), 422, "Validation"
    )
    assert post(client, {"inputs": "film", "truncation_direction": "left", "truncate": False}).is_success


def test_headers_hold_what_the_schema_has_no_field_for(cascade):
    client, _ = scripted(cascade, RequestResult((row_result(degraded=True),), 1, "stage 1 was asked for"))
    headers = post(client, {"inputs": "a"}).headers
    assert headers["x-cascade-operating-point"] == "1"
    assert headers["x-cascade-uncertified"] == headers["x-cascade-degraded"] == "1"


# ---- /v1/classify


def test_texts_are_classified_and_on_request_explained(client, cascade):
    texts = sentences(8, seed=4)
    response = post(client, {"texts": texts, "explain": True}, "/v1/classify").json()
    ClassifyResponse.model_validate(response)
    expected, rows = cascade.predict(texts), response["rows"]
    assert [row["label"] for row in rows] == list(expected.labels)
    assert [row["stage"] for row in rows] == list(expected.stages)
    assert [row["confidence"] for row in rows] == pytest.approx(list(expected.confidences))
    for row in rows:
        assert [result["stage"] for result in row["stages"]] == list(range(1, row["stage"] + 1))
        assert row["stages"][-1]["probabilities"][row["label"]] == row["score"]
        assert row["milliseconds"] > 0
    plain = post(client, {"texts": texts}, "/v1/classify").json()
    assert [set(row) for row in plain["rows"]] == [{"label", "score", "degraded", "truncated"}] * 8


def test_a_response_holds_its_operating_point_and_why_it_is_uncertified(client, cascade):
    response = post(client, {"texts": ["a"]}, "/v1/classify").json()
    assert response["operating_point"] == {"index": 0, "thresholds": [0.7]}
    assert "by hand" in response["uncertified_reason"]
    certified, dispatcher = scripted(cascade, RequestResult((row_result(),), 1, None))
    response = post(certified, {"texts": ["a"], "max_stage": 1, "deadline_ms": 250}, "/v1/classify").json()
    assert response["operating_point"] == {"index": 1, "thresholds": [0.8]}
    assert response["uncertified_reason"] is None
    options = dispatcher.submitted[0][1]
    assert (options.max_stage, options.deadline) == (1, 0.25)


def test_a_degraded_row_holds_the_known_accuracy_of_its_stage(known):
    client, _ = scripted(
        known, RequestResult((row_result(degraded=True), row_result(2)), 0, "the last stage is down")
    )
    response = post(client, {"texts": ["a", "b"]}, "/v1/classify").json()
    assert response["degraded"] is True
    assert [row["degraded"] for row in response["rows"]] == [True, False]
    assert response["rows"][0]["known_accuracy"] == known.spec.measured.stages[0].accuracy
    assert "known_accuracy" not in response["rows"][1]


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
def test_options_out_of_range_are_rejected(client, change):
    check_error(post(client, {"texts": ["a"], **change}, "/v1/classify"), 422, "Validation")


def test_pairs_are_rejected_by_a_cascade_of_single_texts(known):
    client, dispatcher = scripted(known, RequestResult((row_result(),), 0, None))
    for inputs in (["a", "b"], [["a"], ["b", "c"]]):
        error = check_error(post(client, {"inputs": inputs}), 422, "Tokenizer")
        assert "expects a single text" in error and error.endswith('two texts are [["a"], ["b"]]')
    error = check_error(post(client, {"texts": [["b", "c"]]}, "/v1/classify"), 422, "Tokenizer")
    assert error.endswith('two texts are ["a", "b"]')
    assert dispatcher.submitted == []


# ---- endpoints about the server


def test_health_readiness_and_openapi(cascade):
    client, dispatcher = scripted(cascade, None)
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/ready").json() == {"status": "ready"}
    dispatcher.ready = False
    for path in ("/ready", "/ping"):
        response = client.get(path)
        check_error(response, 503, "Unhealthy")
        assert response.headers["retry-after"] == "1"
    document = client.get("/openapi.json").json()
    assert document["components"]["schemas"]["PredictRequest"]["examples"]
    assert {"200", "400", "413", "422", "424", "429", "503", "504"} <= set(
        document["paths"]["/predict"]["post"]["responses"]
    )


@pytest.mark.parametrize("token", [True, False])
def test_the_openapi_document_is_valid_and_says_which_paths_need_the_token(token):
    document = openapi_document(token=token)
    validate(document)
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    security = [{"bearer": []}] if token else [{}, {"bearer": []}]
    paths = document["paths"]
    for path, method in (("/predict", "post"), ("/", "post"), ("/info", "get"), ("/metrics", "get")):
        assert paths[path][method]["security"] == security
    for path in ("/", "/health", "/ping"):
        assert "security" not in paths[path]["get"]


def test_the_documentation_has_every_path_and_the_other_way_round():
    text = (Path(__file__).parents[1] / "docs" / "server.md").read_text("utf-8")
    documented = set(re.findall(r"^\| `(GET|POST) (/\S*)`", text, re.MULTILINE))
    assert documented == {(operation.method, operation.path) for operation in OPERATIONS}


@pytest.mark.parametrize("path", sorted({o.path for o in OPERATIONS}))
def test_methods_are_those_of_the_table_and_head_where_there_is_get(client, path):
    methods = {o.method for o in OPERATIONS if o.path == path}
    response = client.delete(path)
    check_error(response, 405, "Validation")
    allowed = methods | {"HEAD"} if "GET" in methods else methods
    assert set(response.headers["allow"].split(", ")) == allowed
    if "GET" in methods:
        head, get = client.head(path), client.get(path)
        assert head.status_code == get.status_code == 200
        assert head.headers["content-type"] == get.headers["content-type"]


def test_info_describes_the_cascade_its_operating_points_and_queues(client):
    info = client.get("/info").json()
    assert info["labels"] == ["negative", "positive"]
    assert info["operating_points"] == [
        {"index": 0, "thresholds": [0.7], "exit_rates": None, "speedup": None}
    ]
    assert [stage["up"] for stage in info["stages"]] == [True, True]
    assert "token" not in info["config"] and info["certificate"] is None


def test_metrics_count_requests_texts_and_exits(cascade):
    app = make_app(BatchDispatcher(cascade, SMALL), cascade, SMALL)
    with TestClient(app) as client:
        post(client, {"inputs": [["a"], ["b"]]})
        post(client, {"inputs": ""})
        client.get("/nothing")
        metrics = client.get("/metrics").text
    exits = [float(value) for value in re.findall(r"cascadebert_exits_total\{.*\} (.*)", metrics)]
    assert 'cascadebert_requests_total{path="/predict",status="200"} 1.0' in metrics
    assert 'cascadebert_requests_total{path="/predict",status="400"} 1.0' in metrics
    assert 'cascadebert_requests_total{path="other",status="404"} 1.0' in metrics
    assert "cascadebert_texts_total 2.0" in metrics and sum(exits) == 2
    assert "cascadebert_operating_point 0.0" in metrics


def test_the_page_may_load_and_run_only_itself(client):
    response = client.get("/")
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src 'sha256-" in policy and "unsafe" not in policy
    assert "http" not in re.sub(r"http://www.w3.org/2000/svg", "", response.text)
    assert not re.search(r"innerHTML|\bstyle=|\bon\w+=|document\.write|eval\(", response.text)


# ---- texts that are too long


def test_truncated_texts_are_marked_counted_and_logged(cascade, caplog):
    texts = ["fine", "a b " * 90, "c d " * 90]
    with caplog.at_level("WARNING", "cascadebert"):
        with TestClient(make_app(BatchDispatcher(cascade, SMALL), cascade, SMALL)) as client:
            rows = post(client, {"texts": texts[:2]}, "/v1/classify").json()["rows"]
            post(client, {"inputs": texts[2]})
            metrics = client.get("/metrics").text
    assert [row["truncated"] for row in rows] == [False, True]
    assert "cascadebert_truncated_texts_total 2.0" in metrics
    first, last = (record.getMessage() for record in caplog.records if "tokens" in record.getMessage())
    assert first.startswith("1 of 2 texts (50.0 %) have more tokens than the stage that answered reads (64)")
    assert last.startswith("2 of 3 texts")
