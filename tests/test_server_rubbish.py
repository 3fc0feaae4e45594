"""The server over HTTP: rubbish, slow and cut connections, and how it stops."""

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
from starlette.testclient import TestClient

from cascadebert.inference.cascade import Cascade
from cascadebert.server.http import request_body, runner
from cascadebert.server.http.app import make_app
from cascadebert.server.http.schemas import ErrorResponse
from cascadebert.server.scheduling.dispatcher import BatchDispatcher
from samples import sentences
from serving import SMALL, ScriptedPool, ask, request, rest, serving


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
        ErrorResponse.model_validate(response.json())


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


# ---- a server as a process


@pytest.fixture(scope="module")
def server(saved, tmp_path_factory):
    """A running server whose folder was removed after its start; a module's tests share it."""
    root = tmp_path_factory.mktemp("served")
    shutil.copytree(saved, root / "cascade")
    with serving(
        root / "cascade", root / "log", "--latency-target-ms", 20_000, "--max-client-batch-size", 16
    ) as served:
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
    monkeypatch.setattr(request_body, "BODY_SECONDS", 0.05)
    app, sent = make_app(ScriptedPool(), cascade, SMALL), []

    async def receive():
        await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    asyncio.run(app(dict(SCOPE), receive, send))
    assert sent[0]["status"] == 408 and (b"connection", b"close") in sent[0]["headers"]


def test_a_head_that_does_not_come_ends_its_connection(cascade, monkeypatch):
    monkeypatch.setattr(runner, "HEAD_SECONDS", 0.2)
    app = make_app(ScriptedPool(), cascade, SMALL)
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
