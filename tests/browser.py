"""A headless Chromium, driven by its own protocol over two pipes: no further library."""

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
    """One tab of a browser."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read, self._rest, self._last = write, read, b"", 0
        self._session: str | None = None
        self._loaded = False
        self.complaints: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Runtime", "Log", "Page", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **values: object) -> dict:
        """Do something and wait until it is done; what the page complains of meanwhile is kept."""
        self._last += 1
        message: dict[str, object] = {"id": self._last, "method": method, "params": values}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            got = self._message()
            self._hear(got)
            if got.get("id") == self._last:
                assert "error" not in got, got
                return got["result"]

    def open(self, url: str, *, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        """Load a page at a width."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)
        self._loaded = False
        self.call("Page.navigate", url=url)
        while not self._loaded:
            self._hear(self._message())

    def evaluate(self, code: str) -> object:
        """The value of an expression; a promise is waited for."""
        found = self.call("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, code: str, seconds: float = 20) -> None:
        """Wait until an expression holds."""
        self.evaluate(
            f"""new Promise((done, fail) => {{
                const end = Date.now() + {1000 * seconds};
                const look = () => ({code}) ? done() : Date.now() > end ? fail(new Error("not in time: " +
                    document.body.innerText)) : setTimeout(look, 20);
                look();
            }})"""
        )

    def keys(self, *names: str, ctrl: bool = False) -> None:
        """Press keys one after the other."""
        codes = {"Enter": 13, "Tab": 9}
        for name in names:
            key = {"key": name, "code": name, "windowsVirtualKeyCode": codes[name], "modifiers": 2 * ctrl}
            self.call("Input.dispatchKeyEvent", type="rawKeyDown", **key)
            self.call("Input.dispatchKeyEvent", type="keyUp", **key)

    def picture(self, file: Path) -> None:
        """The whole page as a picture."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        found = self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(found["data"]))

    def _message(self) -> dict:
        while b"\0" not in self._rest:
            block = os.read(self._read, 65536)
            assert block, "the browser ended"
            self._rest += block
        one, _, self._rest = self._rest.partition(b"\0")
        return json.loads(one)

    def _hear(self, got: dict) -> None:
        values = got.get("params", {})
        self._loaded |= got.get("method") == "Page.loadEventFired"
        if got.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(values["exceptionDetails"]))
        if got.get("method") == "Log.entryAdded" and values["entry"]["level"] in ("error", "warning"):
            self.complaints.append(values["entry"]["text"])
        if got.get("method") == "Runtime.consoleAPICalled" and values["type"] in ("error", "warning"):
            self.complaints.append(json.dumps(values["args"]))


@contextmanager
def browser(profile: Path) -> Iterator[Tab]:
    """A tab of a new browser; the browser is ended with the block."""
    assert CHROMIUM is not None
    its_in, ours_out = os.pipe()
    ours_in, its_out = os.pipe()
    command = f'exec "$@" 3<&{its_in} 4>&{its_out}'
    words = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}"]
    process = subprocess.Popen(
        ["bash", "-c", command, "bash", *words],
        pass_fds=(its_in, its_out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(its_in)
    os.close(its_out)
    try:
        yield Tab(ours_out, ours_in)
    finally:
        process.kill()
        process.wait()
        os.close(ours_in)
        os.close(ours_out)
