"""A headless Chromium, driven by the DevTools protocol over two pipes."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe",
)  # fmt: skip


class Tab:
    """A tab of a browser; `messages` holds its errors and warnings."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read, self._rest, self._last = write, read, b"", 0
        self._session: str | None = None
        self._loaded = False
        self.messages: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Runtime", "Log", "Page", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **values: object) -> dict:
        """Call a method of the protocol and wait for its result; events are handled meanwhile."""
        self._last += 1
        message: dict[str, object] = {"id": self._last, "method": method, "params": values}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            response = self._receive()
            self._handle_event(response)
            if response.get("id") == self._last:
                assert "error" not in response, response
                return response["result"]

    def open(self, url: str, *, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        """Load a page in a window of this size."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)
        self._loaded = False
        self.call("Page.navigate", url=url)
        while not self._loaded:
            self._handle_event(self._receive())

    def evaluate(self, code: str) -> object:
        """Return the value of an expression; promises are awaited."""
        result = self.call("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def until(self, code: str, seconds: float = 20) -> None:
        """Wait until an expression is true."""
        self.evaluate(
            f"""new Promise((done, fail) => {{
                const end = Date.now() + {1000 * seconds};
                const check = () => ({code}) ? done() : Date.now() > end ? fail(new Error("timed out: " +
                    document.body.innerText)) : setTimeout(check, 20);
                check();
            }})"""
        )

    def keys(self, *names: str, ctrl: bool = False) -> None:
        """Press keys in turn."""
        codes = {"Enter": 13, "Tab": 9}
        for name in names:
            key = {"key": name, "code": name, "windowsVirtualKeyCode": codes[name], "modifiers": 2 * ctrl}
            self.call("Input.dispatchKeyEvent", type="rawKeyDown", **key)
            self.call("Input.dispatchKeyEvent", type="keyUp", **key)

    def screenshot(self, file: Path) -> None:
        """Save a screenshot of the whole page."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        capture = self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(capture["data"]))

    def _receive(self) -> dict:
        while b"\0" not in self._rest:
            block = os.read(self._read, 65536)
            assert block, "the browser ended"
            self._rest += block
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def _handle_event(self, message: dict) -> None:
        values = message.get("params", {})
        self._loaded |= message.get("method") == "Page.loadEventFired"
        if message.get("method") == "Runtime.exceptionThrown":
            self.messages.append(json.dumps(values["exceptionDetails"]))
        if message.get("method") == "Log.entryAdded" and values["entry"]["level"] in ("error", "warning"):
            self.messages.append(values["entry"]["text"])
        if message.get("method") == "Runtime.consoleAPICalled" and values["type"] in ("error", "warning"):
            self.messages.append(json.dumps(values["args"]))


@contextmanager
def browser(profile: Path) -> Iterator[Tab]:
    """Start a browser, yield a tab, and kill the browser at the end."""
    assert CHROMIUM is not None
    browser_in, our_out = os.pipe()
    our_in, browser_out = os.pipe()
    command = f'exec "$@" 3<&{browser_in} 4>&{browser_out}'
    arguments = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}"]
    process = subprocess.Popen(
        ["bash", "-c", command, "bash", *arguments],
        pass_fds=(browser_in, browser_out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(browser_in)
    os.close(browser_out)
    try:
        yield Tab(our_out, our_in)
    finally:
        process.kill()
        process.wait()
        os.close(our_in)
        os.close(our_out)
