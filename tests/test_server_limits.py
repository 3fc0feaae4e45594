"""The server over HTTP: limits, errors, and requests from pages of other origins."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace

import pytest

from cascadebert.errors import CascadeError, DataError
from cascadebert.server.config import ServerConfig
from cascadebert.server.types import (
    DeadlineExceeded,
    Overloaded,
    RequestResult,
    ServiceUnavailable,
    StageUnavailable,
)
from serving import JSON, SMALL, check_error, post, row_result, scripted

# ---- limits and errors


def test_texts_characters_and_bytes_are_limited(client):
    check_error(post(client, {"inputs": [["a"]] * 9}), 422, "Validation")
    check_error(post(client, {"texts": ["a"] * 9}, "/v1/classify"), 422, "Validation")
    error = check_error(post(client, {"inputs": [["a"], ["secret" * 100]]}), 422, "Validation")
    assert "text 2" in error and "secret" not in error
    response = post(client, {"inputs": "a" * 20_001})
    check_error(response, 413, "Validation")
    assert response.headers["connection"] == "close"


def test_chunked_bodies_are_limited_while_they_are_read(client):
    sent = []

    def chunks():
        for _ in range(1000):
            sent.append(1)
            yield b" " * 1000

    check_error(client.post("/predict", content=chunks(), headers=JSON), 413, "Validation")
    complete = iter([b'{"inputs"', b':"a"}'])
    assert client.post("/predict", content=complete, headers=JSON).is_success


@pytest.mark.parametrize("path", ["/predict", "/v1/classify"])
def test_gzip_bodies_are_read(client, path):
    body = json.dumps({"inputs": "a film"} if path == "/predict" else {"texts": ["a film"]}).encode()
    expected = post(client, body, path).json()
    split = gzip.compress(body[:5]) + gzip.compress(body[5:])
    for packed, encoding in ((gzip.compress(body), "gzip"), (split, "X-GZIP"), (body, "identity")):
        assert post(client, packed, path, **{"content-encoding": encoding}).json() == expected


@pytest.mark.parametrize(
    ("body", "encoding", "status", "message"),
    [
        (gzip.compress(b'{"inputs":"' + b"a" * 20_000 + b'"}', mtime=0), "gzip", 413, "20,000 bytes"),
        (gzip.compress(gzip.compress(b" " * 50_000_000, mtime=0), mtime=0), "gzip", 413, "20,000 bytes"),
        (gzip.compress(b'{"inputs":"a"}', mtime=0)[:-9], "gzip", 400, "not valid gzip"),
        (b'{"inputs":"a"}', "gzip", 400, "not valid gzip"),
        (b"", "gzip", 400, "not valid"),
        (b"\x1f\x8b\x08\x00" + b"\xff" * 30, "gzip", 400, "not valid gzip"),
        (b'{"inputs":"a"}', "br", 415, "`Content-Encoding: br`"),
        (b'{"inputs":"a"}', "gzip, gzip", 415, "`Content-Encoding: gzip, gzip`"),
    ],
    ids="large bomb cut plain empty damaged brotli twice".split(),
)
def test_bodies_that_cannot_be_unpacked_are_rejected_and_the_size_is_limited(
    client, body, encoding, status, message
):
    response = post(client, body, **{"content-encoding": encoding})
    assert message in check_error(response, status, "Validation")
    assert (response.headers.get("accept-encoding") == "gzip") == (status == 415)


@pytest.mark.parametrize(
    ("error", "status", "error_type", "retry"),
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
def test_each_error_of_the_dispatcher_has_its_response(cascade, error, status, error_type, retry):
    for later in (True, False):
        if not later and status == 424:
            continue
        client, _ = scripted(cascade, error, later=later)
        response = post(client, {"inputs": "a"})
        assert "secret" not in check_error(response, status, error_type)
        assert response.headers.get("retry-after") == retry


def test_an_unexpected_error_is_a_500_and_logged_without_its_message(cascade, caplog):
    client, _ = scripted(cascade, RuntimeError("secret words"), later=False)
    check_error(post(client, {"inputs": "a"}), 500, "Backend")
    assert "RuntimeError" in caplog.text and "secret" not in caplog.text


def test_a_score_that_is_not_finite_is_a_backend_error(cascade):
    client, _ = scripted(cascade, RequestResult((row_result(high=float("nan")),), 0, None))
    check_error(post(client, {"inputs": "a"}), 424, "Backend")
    check_error(post(client, {"texts": ["a"]}, "/v1/classify"), 424, "Backend")


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
def test_unknown_paths_and_methods_are_json_errors_too(client, method, path, status):
    response = client.request(method, path)
    check_error(response, status, "Validation")


def test_a_body_with_another_content_type_is_rejected(client):
    check_error(client.post("/predict", content=b'{"inputs":"a"}'), 415, "Validation")
    media_type = "application/x-www-form-urlencoded"
    check_error(
        client.post("/predict", content=b"a", headers={"content-type": media_type}), 415, "Validation"
    )
    media_type = "Application/JSON; charset=utf-8"
    assert client.post("/predict", content=b'{"inputs":"a"}', headers={"content-type": media_type}).is_success


def test_the_token_is_required_except_on_public_paths(cascade):
    config = replace(SMALL, token="right")
    client, _ = scripted(cascade, RequestResult((row_result(),), 0, None), config=config)
    for path in ("/", "/health", "/ready", "/ping", "/openapi.json"):
        assert client.get(path).is_success and client.head(path).is_success
    for path in ("/", "/predict", "/invocations", "/vertex", "/v1/classify", "/health"):
        check_error(post(client, {"inputs": "a"}, path), 401, "Validation")
    for path in ("/info", "/metrics", "/nothing"):
        assert client.head(path).status_code == 401
        assert client.get(path).headers["www-authenticate"] == "Bearer"
        check_error(client.get(path), 401, "Validation")
    for wrong in ({}, "right", "Bearer", "Bearer ", "Bearer wrong", "Basic right", "Bearer right right"):
        headers = {"authorization": wrong} if wrong else {}
        check_error(post(client, {"inputs": "a"}, **headers), 401, "Validation")
    check_error(post(client, {"inputs": "a"}, authorization="Bearer rïght".encode()), 401, "Validation")
    assert post(client, {"inputs": "a"}, authorization="Bearer right").is_success
    assert client.get("/info", headers={"authorization": "bearer right"}).is_success
    assert "right" not in client.get("/info", headers={"authorization": "Bearer right"}).text


# ---- cross-origin requests

ORIGIN = {"origin": "http://localhost:3000"}
PREFLIGHT = {
    **ORIGIN,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-encoding,content-type",
}


def test_without_origins_no_page_of_another_site_may_use_the_server(cascade):
    client, _ = scripted(cascade, RequestResult((row_result(),), 0, None))
    check_error(client.options("/predict", headers=PREFLIGHT), 405, "Validation")
    for response in (post(client, {"inputs": "a"}, **ORIGIN), client.get("/health", headers=ORIGIN)):
        assert not any(name.startswith("access-control") for name in response.headers)


def test_pages_of_given_origins_pass_preflights_and_read_results_and_errors(cascade):
    config = replace(SMALL, token="right", cors_origins=("http://localhost:3000", "https://a.example"))
    client, _ = scripted(cascade, RequestResult((row_result(),), 0, None), config=config)
    for path in ("/predict", "/v1/classify", "/info"):
        assert client.options(path, headers=PREFLIGHT).is_success
    headers = {**ORIGIN, "authorization": "Bearer right"}
    for response in (post(client, {"inputs": "a"}, **headers), post(client, {"inputs": "a"}, **ORIGIN)):
        assert response.headers["access-control-allow-origin"] == "http://localhost:3000"
        assert "X-Cascade-Degraded" in response.headers["access-control-expose-headers"]
    check_error(response, 401, "Validation")
    other = PREFLIGHT | {"origin": "https://b.example"}
    assert "access-control-allow-origin" not in client.options("/predict", headers=other).headers
    any_origin, _ = scripted(cascade, None, config=replace(SMALL, cors_origins=("*",)))
    assert any_origin.get("/health", headers=other).headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize("origin", ["localhost:3000", "http://a.example/", "null", "", "https://*.example"])
def test_an_origin_that_no_browser_sends_is_rejected(origin):
    with pytest.raises(CascadeError, match="--cors-origin"):
        ServerConfig(cors_origins=(origin,))
