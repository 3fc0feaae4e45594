"""The server as real HTTP clients see it, and requests that they send over bare connections."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from prometheus_client.parser import text_string_to_metric_families

from cascadebert.server.http.operations import OPERATIONS
from serving import read_to_end, request, serving

pytestmark = pytest.mark.slow
BODY = b'{"inputs":"a lovely film"}'
H2C = "connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"
JAVA = """
import java.io.ByteArrayInputStream;
import java.net.URI;
import java.net.http.*;
import java.net.http.HttpRequest.BodyPublishers;
import java.util.List;

class Client {
    public static void main(String[] words) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        byte[] small = words[1].getBytes(), large = (" ".repeat(200_000) + words[1]).getBytes();
        for (var body : List.of(
                BodyPublishers.ofByteArray(small),
                BodyPublishers.ofByteArray(large),
                BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(large)))) {
            var request = HttpRequest.newBuilder(URI.create(words[0]))
                .header("Content-Type", "application/json").POST(body).build();
            var response = client.send(request, HttpResponse.BodyHandlers.ofString());
            System.out.println(response.statusCode() + " " + response.body());
        }
    }
}
"""


@pytest.fixture(scope="module")
def server(saved, tmp_path_factory):
    """A running server that pages of two origins may use."""
    log = tmp_path_factory.mktemp("served") / "log"
    options = (
        "--latency-target-ms",
        20_000,
        "--cors-origin",
        "http://a.example",
        "--cors-origin",
        "http://b.example",
    )
    with serving(saved, log, *options) as running:
        yield running


@pytest.fixture(scope="module")
def url(server):
    return server.startup["url"]


@pytest.fixture
def online(monkeypatch):
    """Let huggingface_hub connect, to servers of this machine."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.fixture(scope="module")
def expected(known):
    """Labels with their scores of the text in BODY, the highest first."""
    scores = known.predict_proba(["a lovely film"])[0]
    return sorted(zip(scores, known.label_names, strict=True), reverse=True)


def check(response, expected):
    """Check a response of `/predict` to BODY."""
    assert [one["label"] for one in response] == [label for _, label in expected]
    assert [one["score"] for one in response] == pytest.approx([score for score, _ in expected], abs=1e-4)


# ---- clients


@pytest.mark.parametrize("path", ["", "/", "/predict", "/invocations"])
def test_the_inference_client_of_huggingface_hub(url, online, expected, path):
    check(InferenceClient(base_url=url + path).text_classification("a lovely film"), expected)
    check(InferenceClient().text_classification("a lovely film", model=url + path, top_k=1), expected[:1])


def test_the_inference_client_shows_the_message_of_an_error(url, online):
    with pytest.raises(HfHubHTTPError, match="function_to_apply"):
        InferenceClient(url).text_classification("a", function_to_apply="sigmoid")


def test_the_inference_client_sends_the_token(saved, tmp_path, online):
    with serving(saved, tmp_path / "log", CASCADEBERT_TOKEN="hf_right") as running:
        url = running.startup["url"]
        assert len(InferenceClient(url, token="hf_right").text_classification("a film")) == 2
        with pytest.raises(HfHubHTTPError, match="401"):
            InferenceClient(url, token="hf_wrong").text_classification("a film")


@pytest.mark.skipif(shutil.which("java") is None, reason="no JDK is installed")
def test_the_http_client_of_java_which_offers_http2(url, expected, tmp_path):
    (tmp_path / "Client.java").write_text(JAVA)
    command = ["java", tmp_path / "Client.java", f"{url}/predict", BODY.decode()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done.stderr
    for line in lines:
        status, _, body = line.partition(" ")
        assert status == "200"
        check(json.loads(body), expected)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("option", ["--http2", "--http1.1", "--http1.0"])
def test_curl_which_can_offer_http2(url, expected, option):
    command = ["curl", "--silent", "--show-error", option, "--header", "content-type: application/json"]
    command += ["--data", BODY.decode(), f"{url}/predict"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    check(json.loads(done.stdout), expected)


def test_the_parser_of_prometheus_reads_all_metrics(server, url):
    server.raw(request(BODY))
    text = (
        server.raw(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .decode()
        .partition("\r\n\r\n")
    )
    families = {family.name: family for family in text_string_to_metric_families(text[2])}
    assert {"cascadebert_texts", "cascadebert_exits", "cascadebert_ready"} <= set(families)
    requests = families["cascadebert_requests"].samples
    assert any(one.labels == {"path": "/predict", "status": "200"} and one.value > 0 for one in requests)
    assert all(family.documentation for family in families.values())


# ---- bare connections


@pytest.mark.parametrize("path", sorted({o.path for o in OPERATIONS if o.method == "GET"}))
def test_head_has_the_headers_of_get_and_no_body(server, path):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    try:
        for method in (
            "HEAD",
            "GET",
            "HEAD",
        ):  # on one connection: bytes of a body would break the next response
            connection.request(method, path)
            response = connection.getresponse()
            assert response.status == 200 and int(response.headers["content-length"]) > 0
            assert bool(response.read()) == (method == "GET")
    finally:
        connection.close()


HEADS = {
    "content-length": request(BODY, headers=H2C),
    "chunked": request(b"", headers=H2C).replace(b"content-length: 0", b"transfer-encoding: chunked")
    + b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY),
    "expect": request(BODY, headers=H2C + "expect: 100-continue\r\n"),
    "websocket": request(BODY, headers=H2C.replace("h2c", "websocket")),
    "no upgrade in connection": request(BODY, headers="upgrade: h2c\r\n"),
}


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("size", [1, 50, 10_000])
def test_an_offer_of_another_protocol_is_ignored_however_the_request_arrives(server, kind, size):
    data = HEADS[kind]
    with server.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(data), size):
            connection.sendall(data[start : start + size])
        response = read_to_end(connection).removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert response.startswith(b"HTTP/1.1 200") and b'"label"' in response


def test_requests_that_follow_an_offer_on_its_connection_are_answered(server):
    offer, plain = request(BODY, close=False, headers=H2C), request(BODY, close=False)
    responses = server.raw(offer + plain + offer + offer + request(BODY))
    assert responses.count(b"HTTP/1.1 200") == 5


def test_an_endless_head_behind_an_offer_and_a_large_body_are_limited_as_ever(server):
    head = request(b"", headers=H2C).partition(b"content-length")[0]
    assert server.raw(head + b"x: " + b"y" * 600_000)[:12] in (b"HTTP/1.1 431", b"")
    assert server.raw(head + b"content-length: 3000000\r\n\r\n").startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize("target", [b"example.com:80", b"/"])
def test_a_tunnel_is_refused(server, target):
    assert server.raw(b"CONNECT %s HTTP/1.1\r\nhost: x\r\n\r\n" % target).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize("count", [1, 3])
def test_requests_are_answered_whose_client_has_closed_its_sending_side(server, count):
    with server.connect() as connection:
        connection.sendall(request(BODY, close=False) * count)
        connection.shutdown(socket.SHUT_WR)
        assert read_to_end(connection).count(b"HTTP/1.1 200") == count


@pytest.mark.parametrize("length", [0, 20, -1])
def test_a_request_that_ends_too_early_closes_its_connection(server, length):
    with server.connect() as connection:
        connection.sendall(request(BODY, close=False)[:length])
        connection.shutdown(socket.SHUT_WR)
        assert read_to_end(connection) == b""


def test_many_kept_connections_at_once_are_all_answered(server):
    def converse(_):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        statuses = set()
        for _ in range(4):
            connection.request("POST", "/predict", BODY, {"content-type": "application/json"})
            response = connection.getresponse()
            response.read()
            statuses.add(response.status)
        connection.close()
        return statuses

    with ThreadPoolExecutor(50) as clients:
        assert set.union(*clients.map(converse, range(50))) == {200}


def test_a_preflight_passes_and_the_page_reads_its_response(server):
    head = b"OPTIONS /predict HTTP/1.1\r\nhost: x\r\nconnection: close\r\norigin: http://b.example\r\n"
    preflight = server.raw(head + b"access-control-request-method: POST\r\n\r\n")
    assert (
        preflight.startswith(b"HTTP/1.1 200")
        and b"access-control-allow-origin: http://b.example" in preflight
    )
    response = server.raw(request(BODY, headers="origin: http://b.example\r\n"))
    assert b"access-control-allow-origin: http://b.example" in response


def test_an_origin_with_a_path_is_one_message(saved, run):
    code, _, output = run("serve", saved, "--port", 0, "--cors-origin", "http://a.example/")
    assert code == 2 and "--cors-origin" in output and "Traceback" not in output
