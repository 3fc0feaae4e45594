"""The page at `/` in a real browser."""

from __future__ import annotations

import os
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import uvicorn

from browser import CHROMIUM, browser
from cascadebert.server.config import ServerConfig
from cascadebert.server.http.app import make_app
from cascadebert.server.monitoring.monitor import QualityMonitor, Reference
from cascadebert.server.scheduling.dispatcher import BatchDispatcher

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")]

NASTY = "<img src=x onerror=alert(1)> & <script>alert(2)</script>"
PICTURES = os.environ.get("CASCADEBERT_PICTURES")


class ThreadedServer:
    """A server in a thread."""

    def __init__(self, cascade, config):
        monitor = QualityMonitor(Reference.from_cascade(cascade), config)
        app = make_app(BatchDispatcher(cascade, config, monitor=monitor), cascade, config, monitor)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/"
        self.server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
        self.thread = threading.Thread(target=self.server.run, args=([self._socket],))

    def __enter__(self):
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        return self

    def __exit__(self, *_):
        self.server.should_exit = True
        self.thread.join()


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    """One browser for all tests of this file."""
    with browser(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture(scope="module")
def cascade(make_cascade):
    return make_cascade(3, thresholds=(0.9, 0.6))


@pytest.fixture(scope="module")
def served(cascade):
    with ThreadedServer(cascade, ServerConfig(latency_target=10.0, shadow_rate=0.5)) as served:
        yield served


def ready(tab):
    tab.until("document.getElementById('state').textContent.startsWith('Ready')")


def save_screenshot(tab, name):
    """Save a screenshot if CASCADEBERT_PICTURES names a folder."""
    if PICTURES:
        tab.screenshot(Path(PICTURES) / f"{name}.png")


def test_texts_are_classified_by_keyboard_alone_and_shown_unchanged(tab, served):
    tab.messages.clear()
    tab.open(served.url)
    ready(tab)
    tab.evaluate("document.getElementById('texts').focus()")
    tab.call("Input.insertText", text=f"a lovely film\n{NASTY}")
    tab.keys("Enter", ctrl=True)
    tab.until("document.querySelectorAll('ol.results > li').length === 2")
    texts = "[...document.querySelectorAll('ol.results .input-text')].map((node) => node.textContent)"
    assert tab.evaluate(texts) == ["a lovely film", NASTY]
    prediction = tab.evaluate("document.querySelector('.prediction').textContent")
    assert "at stage" in prediction and " ms" in prediction
    assert tab.evaluate("document.querySelectorAll('.stage.exit').length") == 2
    assert tab.evaluate("document.querySelectorAll('.stage progress').length") >= 4
    assert tab.evaluate("document.querySelectorAll('main img, main script').length") == 0
    assert tab.messages == []
    save_screenshot(tab, "desktop")


def test_state_is_shown_and_follows_the_traffic(tab, served):
    tab.open(served.url)
    ready(tab)
    assert tab.evaluate("document.querySelectorAll('#stages tbody tr').length") == 3
    assert (
        tab.evaluate("document.querySelector('#operating-points tr.current td').textContent") == "0, in use"
    )
    assert "Uncertified" in tab.evaluate("document.getElementById('certified').textContent")
    assert "50.00 %" in tab.evaluate("document.getElementById('monitoring').textContent")


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_shows_the_page_without_horizontal_scrolling(tab, served, dark):
    tab.messages.clear()
    tab.open(served.url, width=360, height=740, dark=dark)
    ready(tab)
    tab.evaluate(f"document.getElementById('texts').value = 'a film'.repeat(40) + '\\n' + {NASTY!r}")
    tab.evaluate("document.getElementById('submit').click()")
    tab.until("document.querySelectorAll('ol.results > li').length === 2")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    assert tab.messages == []
    save_screenshot(tab, f"phone-{'dark' if dark else 'light'}")


def test_every_control_has_an_accessible_name(tab, served):
    tab.open(served.url)
    ready(tab)
    nodes = tab.call("Accessibility.getFullAXTree")["nodes"]
    roles = {"textbox", "button", "combobox", "region", "table"}
    named = [
        (node["role"]["value"], node.get("name", {}).get("value"))
        for node in nodes
        if not node["ignored"] and node["role"]["value"] in roles - {"table"}
    ]
    assert {role for role, _ in named} >= {"textbox", "button", "combobox", "region"}
    assert all(name for _, name in named)


def test_a_required_token_is_requested(tab, cascade):
    with ThreadedServer(cascade, replace(ServerConfig(), token="right")) as served:
        tab.open(served.url)
        tab.until("!document.getElementById('token-field').hidden")
        tab.evaluate("document.getElementById('token').value = 'right'")
        ready(tab)
        tab.evaluate("document.getElementById('texts').value = 'a film'")
        tab.evaluate("document.getElementById('submit').click()")
        tab.until("document.querySelectorAll('ol.results > li').length === 1")


def test_an_error_is_shown(tab, served):
    tab.open(served.url)
    ready(tab)
    tab.evaluate("document.getElementById('texts').value = 'film '.repeat(10000)")
    tab.evaluate("document.getElementById('submit').click()")
    tab.until("document.getElementById('results').textContent.includes('characters')")
