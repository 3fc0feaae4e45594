"""A Hugging Face Hub of a few lines on this machine's loopback: enough to push a folder and load it again."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class _Handler(BaseHTTPRequestHandler):
    """Speaks the part of the Hub's protocol that uploads and snapshots use."""

    files: dict[str, bytes]

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self, content: bytes, kind: str = "application/json", **headers: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Repo-Commit", COMMIT)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if "/resolve/" in self.path:
            name = self.path.split(f"/resolve/{COMMIT}/")[1].split("?")[0]
            self._answer(self.files[name], "application/octet-stream", ETag=f'"{hash(name) & 0xFFFFFF:x}"')
        elif "/tree/" in self.path:
            listed = [
                {"type": "file", "path": name, "size": len(content), "oid": "0"}
                for name, content in self.files.items()
            ]
            self._answer(json.dumps(listed).encode())
        else:
            siblings = [{"rfilename": name} for name in self.files]
            self._answer(json.dumps({"id": "me/toy", "sha": COMMIT, "siblings": siblings}).encode())

    def do_POST(self) -> None:
        body = self._body()
        if "/preupload/" in self.path:
            asked = json.loads(body)["files"]
            plain = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]
            self._answer(json.dumps({"files": plain}).encode())
        elif "/commit/" in self.path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            address = f"http://{self.headers['Host']}/me/toy/commit/{COMMIT}"
            self._answer(json.dumps({"commitUrl": address, "commitOid": COMMIT}).encode())
        else:
            self._answer(json.dumps({"url": f"http://{self.headers['Host']}/me/toy"}).encode())


@contextmanager
def loopback_hub() -> Iterator[tuple[str, dict[str, bytes]]]:
    """Run the hub; gives its address and the files that it holds."""
    files: dict[str, bytes] = {}
    handler = type("Handler", (_Handler,), {"files": files})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", files
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
