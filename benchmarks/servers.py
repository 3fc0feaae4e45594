"""Servers in processes of their own, what they say of themselves, and the load generator beside them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from load import Plan

HERE = Path(__file__).parent
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Running:
    """A server that runs.

    Attributes:
        url: of it.
        process: its own.
    """

    url: str
    process: subprocess.Popen[str]

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        host, _, port = self.url.rpartition("/")[2].rpartition(":")
        return host, int(port)

    @property
    def memory_mb(self) -> float:
        """What it holds at present."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * PAGE / 2**20

    def exits(self) -> list[int]:
        """(num_stages,) rows answered at each stage so far."""
        with urlopen(f"{self.url}/info") as said:
            return [stage["exits"] for stage in json.load(said)["stages"]]

    def connect(self, seconds: float = 30.0) -> socket.socket:
        """A bare connection that sends at once."""
        made = socket.create_connection(self.address, timeout=seconds)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made

    def drive(self, questions: Path, plan: Plan) -> dict[str, Any]:
        """What a load generator in a process of its own finds, and the exit rates meanwhile."""
        command = [
            sys.executable, HERE / "load.py", self.url, "--questions", questions, "--seconds", plan.seconds,
            "--lead", plan.lead, "--target-ms", 1000 * plan.target, "--seed", plan.seed,
        ]  # fmt: skip
        command += ["--closed", plan.closed] if plan.rate is None else ["--rate", plan.rate]
        done = subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True)
        found: dict[str, Any] = json.loads(done.stdout)
        return found


@contextmanager
def served(folder: Path, *words: object) -> Iterator[Running]:
    """`cascadebert serve` of a folder on a free port."""
    command = [sys.executable, "-m", "cascadebert", "serve", folder, "--port", "0", "--json", *words]
    with _running(command) as running:
        yield running


@contextmanager
def plain(checkpoint: Path, max_length: int) -> Iterator[Running]:
    """The server of benchmarks/plain_server.py."""
    with _running(
        [sys.executable, HERE / "plain_server.py", checkpoint, "--max-length", max_length]
    ) as running:
        yield running


@contextmanager
def _running(command: Sequence[object]) -> Iterator[Running]:
    """A server that says where it is in one line of JSON, stopped at the end."""
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    try:
        yield Running(json.loads(process.stdout.readline())["url"], process)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
