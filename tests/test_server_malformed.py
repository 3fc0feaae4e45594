"""The server over HTTP: malformed requests, slow and dropped connections, and shutdown."""

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
from pathlib import Path

import numpy as np
import pytest
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cascadebert.server.http import messages, runner
from cascadebert.server.http.app import make_app
from cascadebert.server.http.schemas import ErrorResponse
from samples import sentences
from serving import SMALL, ScriptedDispatcher, post, read_to_end, request, serving

pytestmark = pytest.mark.slow


# ---- malformed bodies

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
NAMES = (
    "inputs",
    "raw_scores",
    "truncate",
    "truncation_direction",
    "texts",
    "max_stage",
    "deadline_ms",
    "instances",
)
BODIES = (
    st.binary(max_size=200)
    | st.lists(PIECES, max_size=12).map(b"".join)
    | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), VALUES).map(
        lambda v: json.dumps(v).encode()
    )
)
FUZZ = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@FUZZ
@given(body=BODIES, path=st.sampled_from(["/predict", "/v1/classify", "/vertex"]))
def test_no_body_causes_an_internal_error(client, body, path):
    response = post(client, body, path)
    assert response.status_code in (200, 400, 413, 422, 504), (body, response.text)
    if response.status_code != 200:
        ErrorResponse.model_validate(response.json())


@FUZZ
@given(text=st.text(st.characters(codec="utf-8"), min_size=1, max_size=60))
def test_any_text_that_json_can_hold_is_classified(client, text):
    response = post(client, {"texts": [text]}, "/v1/classify")
    assert response.status_code == (200 if text.strip() else 400), (text, response.text)


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
def test_known_malformed_bodies_have_known_statuses(client, body, status):
    assert post(client, body).status_code == status


# ---- a server in its own process


@pytest.fixture(scope="module")
def server(saved, tmp_path_factory):
    """A running server, shared by all tests, whose folder was removed after the start."""
    root = tmp_path_factory.mktemp("served")
    shutil.copytree(saved, root / "cascade")
    with serving(
        root / "cascade", root / "log", "--latency-target-ms", 20_000, "--max-client-batch-size", 16
    ) as running:
        shutil.rmtree(root / "cascade")
        yield running


def test_a_full_disk_under_the_log_does_not_stop_the_server(saved):
    with serving(saved, Path("/dev/full"), "--latency-target-ms", 20_000) as served:
        assert served.raw(request(b'{"inputs":"a"}')).startswith(b"HTTP/1.1 200")
        served.process.terminate()
        assert served.process.wait(timeout=60) == 0


def test_the_startup_line_holds_address_operating_point_and_certificate(server):
    assert server.startup["operating_point"] == 0 and server.startup["certificate"] is None
    assert f"serving on {server.startup['url']}" in server.log.read_text()
    assert "uncertified" in server.log.read_text()


def test_slow_dropped_pipelined_and_broken_requests_leave_the_server_working(server):
    good = request(b'{"inputs":"a lovely film"}')
    with server.connect() as slow:
        for byte in good:
            slow.sendall(bytes([byte]))
        assert read_to_end(slow).startswith(b"HTTP/1.1 200")
    for length in (1, 30, 100, len(good) - 1, len(good)):
        with server.connect() as dropped:
            dropped.sendall(good[:length])
    twice = request(b'{"inputs":"dull"}', close=False) + good
    assert server.raw(twice).count(b"HTTP/1.1 200") == 2
    response = server.raw(b"\x16\x03\x01 nonsense\r\n\r\n")
    assert response.startswith(b"HTTP/1.1 400") and b'"error_type":"Validation"' in response
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
def test_endless_headers_and_trailers_are_not_read_to_the_end(server, endless, after):
    head = request(b"").partition(b"content-length")[0]
    with server.connect() as connection, suppress(ConnectionError):
        connection.sendall(head + after)
        for _ in range(100):
            connection.sendall(endless)
            if select.select([connection], [], [], 0.01)[0]:
                break
        else:
            pytest.fail("megabytes of a head were read")
        assert read_to_end(connection)[:12] in (
            b"HTTP/1.1 431",
            b"",
        )  # an answer can be lost with what was not read
    assert server.raw(request(b'{"inputs":"a"}')).startswith(b"HTTP/1.1 200")


def test_texts_are_never_logged(server):
    server.raw(request(b'{"inputs":"secretword"}'))
    server.raw(request(b'{"inputs":"secretword", "raw_scores": "secretword"}'))
    assert "secretword" not in server.log.read_text()


def test_shutdown_under_load_loses_and_mixes_up_nothing_and_exits_cleanly(known, server):
    """Every request that was sent gets its own complete response, or its connection was never accepted."""
    texts = sentences(96, seed=9)
    expected = known.predict_proba(texts)
    completed, lost, stopped = [], [], threading.Event()

    def load(turn):
        while not stopped.is_set():
            try:
                connection = server.connect()
            except OSError:
                return  # refused: nothing was sent
            with connection:
                turn = converse(connection, turn, texts, completed, lost, stopped)

    threads = [threading.Thread(target=load, args=(turn,)) for turn in range(6)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 20
    while len(completed) < 30 and time.monotonic() < until:
        time.sleep(0.01)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(timeout=60) == 0
    stopped.set()
    for thread in threads:
        thread.join()
    assert lost == [] and len(completed) >= 30
    for first, rows in completed:
        scores = [{prediction["label"]: prediction["score"] for prediction in row} for row in rows]
        probabilities = [[row[name] for name in known.label_names] for row in scores]
        assert np.allclose(probabilities, expected[first : first + 16], atol=1e-4)


def converse(connection, turn, texts, completed, lost, stopped):
    """Request batches of sixteen texts on one connection until it is closed."""
    while not stopped.is_set():
        first = 16 * (turn % 6)
        body = json.dumps({"inputs": [[text] for text in texts[first : first + 16]]}).encode()
        connection.sendall(request(body, close=False))
        response = receive_response(connection)
        head, _, content = response.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            lost.append(response)
            break
        completed.append((first, json.loads(content)))
        turn += 1
        if b"connection: close" in head:
            break
    return turn


def receive_response(connection):
    """Receive one response with a content-length."""
    received = b""
    while True:
        block = connection.recv(65536)
        if not block:
            return received
        received += block
        head, _, body = received.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        if length and len(body) >= int(length[1]):
            return received


SCOPE = {
    "type": "http",
    "method": "POST",
    "path": "/predict",
    "headers": [(b"content-type", b"application/json")],
}


def test_a_body_that_does_not_arrive_times_out(cascade, monkeypatch):
    monkeypatch.setattr(messages, "BODY_SECONDS", 0.05)
    app, sent = make_app(ScriptedDispatcher(), cascade, SMALL), []

    async def receive():
        await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    asyncio.run(app(dict(SCOPE), receive, send))
    assert sent[0]["status"] == 408 and (b"connection", b"close") in sent[0]["headers"]


def test_a_head_that_does_not_arrive_closes_the_connection(cascade, monkeypatch):
    monkeypatch.setattr(runner, "HEAD_SECONDS", 0.2)
    app = make_app(ScriptedDispatcher(), cascade, SMALL)
    listener = runner.listen("127.0.0.1", 0)
    config = uvicorn.Config(app, http=runner._Connection, log_config=None, timeout_keep_alive=1)
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
                assert read_to_end(slow).count(b"HTTP/1.1 200") == start.count(b"\r\n\r\n")
    finally:
        server.should_exit = True
        thread.join()


def test_the_request_of_a_disconnected_client_is_cancelled(cascade):
    """The future of the dispatcher is cancelled as soon as the client has disconnected."""
    dispatcher = ScriptedDispatcher()
    app = make_app(dispatcher, cascade, SMALL)
    messages = [{"type": "http.request", "body": b'{"inputs":"a"}', "more_body": False}]
    sent = []

    async def receive():
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    asyncio.run(app(dict(SCOPE), receive, send))
    assert dispatcher.futures[0].cancelled() and sent == []


def test_an_unavailable_address_and_a_bad_token_are_one_message_each(saved, run, monkeypatch):
    code, _, output = run("serve", saved, "--host", "203.0.113.1", "--port", 9)
    assert code == 2 and "cannot listen on 203.0.113.1, port 9" in output and "Traceback" not in output
    monkeypatch.setenv("CASCADEBERT_TOKEN", "two words")
    code, _, output = run("serve", saved, "--port", 0)
    assert code == 2 and "CASCADEBERT_TOKEN" in output and "two words" not in output
