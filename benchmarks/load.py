"""A load generator: requests at a stated rate, whether the server keeps up or not, and every answer checked.

Arrivals are those of a Poisson process, fixed beforehand, and latencies count from them: a request that could
not be sent yet, because the one before it was slow, has waited all the same ("coordinated omission" is to
leave that out). Connections are kept; more are opened while none is free, up to a limit. With `--closed N`
there are N clients instead that each ask again as soon as they are answered: for throughput alone.

    python benchmarks/load.py URL --questions FILE --rate 200 --seconds 30 --target-ms 100
    python benchmarks/load.py URL --cascade DIR --data FILE --rows 8 --rate 200 --seconds 30

Questions are texts with the answers that `Cascade.predict` gives without a server; the answers of the server
have to equal them to the last bit. They are read from a file, as benchmarks/server.py makes them, or asked of
a saved cascade first. Prints one line of JSON. The client is bare, as it shares the cores with the server;
what it takes of them is among its figures.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import numpy as np
import uvloop

if TYPE_CHECKING:
    from cascadebert import Cascade

JSON = "content-type: application/json\r\n"
CONNECTIONS, GRACE_SECONDS = 256, 20.0
MISSING = -1


@dataclass(frozen=True)
class Question:
    """One request, and the answer that is expected.

    Attributes:
        texts: of its rows.
        labels: of each row.
        scores: of each row, by label; None where only labels are compared.
    """

    texts: list[str]
    labels: list[str]
    scores: list[dict[str, float]] | None = None

    @property
    def body(self) -> bytes:
        """As `/predict` is asked."""
        return json.dumps({"inputs": [[text] for text in self.texts]}).encode()

    def answered_by(self, body: bytes) -> bool:
        """Whether this is the answer: every label, and every score to the last bit."""
        rows = json.loads(body)
        if len(rows) != len(self.texts) or [row[0]["label"] for row in rows] != self.labels:
            return False
        said = [{one["label"]: one["score"] for one in row} for row in rows]
        return self.scores is None or said == self.scores


@dataclass(frozen=True)
class Plan:
    """What is sent.

    Attributes:
        seconds: of arrivals.
        rate: requests a second; None for as many as `closed` clients get answered.
        closed: clients that wait for their answers; 0 where there is a rate.
        target: seconds from arrival to answer that count as good.
        lead: seconds at the start that are not counted, though checked.
        seed: of the arrivals and of which question is asked when.
    """

    seconds: float
    rate: float | None = None
    closed: int = 0
    target: float = 0.1
    lead: float = 0.0
    seed: int = 0


def request(body: bytes, *, line: str = "POST /predict", head: str = JSON) -> bytes:
    """A whole request in bytes."""
    return f"{line} HTTP/1.1\r\nhost: x\r\n{head}content-length: {len(body)}\r\n\r\n".encode("latin-1") + body


def questions(cascade: Cascade, texts: Sequence[str], rows: int) -> list[Question]:
    """Requests of so many rows each, with the answers of a cascade; what is left over is not asked."""
    said = cascade.predict(texts)
    labels = [said.label_names[i] for i in said.label_ids.tolist()]
    scores = [dict(zip(said.label_names, row, strict=True)) for row in said.probabilities.tolist()]
    return [
        Question(list(texts[i : i + rows]), labels[i : i + rows], scores[i : i + rows])
        for i in range(0, len(texts) - rows + 1, rows)
    ]


def save(asked: Sequence[Question], path: Path) -> Path:
    """Write questions where a load generator reads them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(one) for one in asked]), "utf-8")
    return path


def load(path: Path) -> list[Question]:
    """Questions from a file."""
    return [Question(**one) for one in json.loads(path.read_text("utf-8"))]


class Connection(asyncio.Protocol):
    """One kept connection, with one request at a time."""

    def __init__(self, client: Client) -> None:
        self._client, self._got = client, b""
        self.number = MISSING
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Open."""
        self.transport = cast(asyncio.Transport, transport)
        self._client.free(self)

    def send(self, number: int, data: bytes) -> None:
        """Ask."""
        assert self.transport is not None
        self.number = number
        self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        """Wait until the answer is whole; its length stands in its head."""
        self._got += data
        head, found, body = self._got.partition(b"\r\n\r\n")
        if not found:
            return
        lines = head.lower().split(b"\r\n")
        fields = dict(line.partition(b":")[::2] for line in lines[1:])
        if len(body) < int(fields[b"content-length"]):
            return
        self._got, number, self.number = b"", self.number, MISSING
        self._client.answered(number, int(lines[0].split()[1]), fields, body)
        if fields.get(b"connection", b"").strip() == b"close":
            self._client.closed(self)
        else:
            self._client.free(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cut: what was asked is lost."""
        self._client.closed(self)


class Client:
    """Sends requests, and remembers what became of each."""

    def __init__(self, url: str, asked: Sequence[Question], plan: Plan) -> None:
        split = urlsplit(url)
        self._host, self._port = split.hostname or "127.0.0.1", split.port or 80
        self._asked, self._plan = asked, plan
        self._data = [request(one.body) for one in asked]
        self._known: list[set[bytes]] = [set() for _ in asked]
        self._free: deque[Connection] = deque()
        self._open = 0
        self._waiting: deque[int] = deque()
        self._rng = np.random.default_rng(plan.seed)
        self.due, self.sent, self.seconds = list[float](), list[float](), list[float]()
        self.question, self.status = list[int](), list[int]()
        self.seen: Counter[str] = Counter()
        self.left = 0

    async def run(self) -> None:
        """Send everything, and wait for the answers."""
        loop = asyncio.get_running_loop()
        self._start, self._used = loop.time(), time.process_time()
        if self._plan.rate is None:
            for _ in range(self._plan.closed):
                self._ask(loop.time())
        else:
            gaps = self._rng.exponential(
                1 / self._plan.rate, round(2 * self._plan.rate * self._plan.seconds) + 100
            )
            arrivals = np.cumsum(gaps)
            for due in (self._start + arrivals[arrivals < self._plan.seconds]).tolist():
                if (early := due - loop.time()) > 0:
                    await asyncio.sleep(early)
                self._ask(due)
        await asyncio.sleep(max(0.0, self._start + self._plan.seconds - loop.time()))
        end = loop.time() + GRACE_SECONDS
        while self.left and loop.time() < end:
            await asyncio.sleep(0.02)

    def _ask(self, due: float) -> None:
        """A request arrives."""
        number, self.left = len(self.due), self.left + 1
        self.due.append(due)
        self.sent.append(np.nan)
        self.seconds.append(np.nan)
        self.status.append(MISSING)
        self.question.append(int(self._rng.integers(len(self._asked))))
        self._waiting.append(number)
        if self._free:
            self.free(self._free.popleft())
        elif self._open < CONNECTIONS:
            self._open += 1
            loop = asyncio.get_running_loop()
            task = loop.create_task(loop.create_connection(lambda: Connection(self), self._host, self._port))
            task.add_done_callback(self._connected)

    def _connected(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._open -= 1
            self.seen["connections refused"] += 1

    def free(self, connection: Connection) -> None:
        """A connection can be used: the one that has rested longest comes first, so none is idle long."""
        if not self._waiting:
            self._free.append(connection)
            return
        number = self._waiting.popleft()
        self.sent[number] = asyncio.get_running_loop().time()
        connection.send(number, self._data[self.question[number]])

    def closed(self, connection: Connection) -> None:
        """A connection is of no more use."""
        if connection.number != MISSING:
            self.seen["cut"] += 1
            self.left -= 1
            connection.number = MISSING
        if connection.transport is not None:
            self._open -= 1
            connection.transport.close()
            connection.transport = None
        if connection in self._free:
            self._free.remove(connection)

    def answered(self, number: int, status: int, fields: dict[bytes, bytes], body: bytes) -> None:
        """There is an answer: is it the right one?"""
        now, question = asyncio.get_running_loop().time(), self.question[number]
        self.seconds[number], self.status[number] = now - self.due[number], status
        self.left -= 1
        if status == 200:
            point = fields.get(b"x-cascade-operating-point", b"0").strip()
            if point != b"0" or b"x-cascade-degraded" in fields:
                self.seen["other point"] += 1
            elif body not in self._known[question]:
                if self._asked[question].answered_by(body):
                    self._known[question].add(body)
                else:
                    self.seen["wrong"] += 1
        if self._plan.rate is None and now < self._start + self._plan.seconds:
            self._ask(now)

    def outcome(self) -> dict[str, Any]:
        """What was found, as plain values."""
        due, status = np.array(self.due) - self._start, np.array(self.status)
        seconds, late = np.array(self.seconds), np.array(self.sent) - np.array(self.due)
        counted = (due >= self._plan.lead) & (due < self._plan.seconds)
        lasted = self._plan.seconds - self._plan.lead
        good = counted & (status == 200)
        quick = good & (seconds <= self._plan.target)
        return {
            "asked_rate": self._plan.rate,
            "seconds": lasted,
            "requests": int(counted.sum()),
            "statuses": {str(one): int((status[counted] == one).sum()) for one in np.unique(status[counted])},
            "answers_per_second": float(good.sum() / lasted),
            "goodput": float(quick.sum() / lasted),
            "good_share": float(quick.sum() / max(1, counted.sum())),
            "target_ms": 1000 * self._plan.target,
            **{f"p{at}_ms": percentile(seconds[good], at) for at in (50, 95, 99)},
            "refused_p99_ms": percentile(seconds[counted & (status == 429)], 99),
            "checked": int((status == 200).sum()) - self.seen["other point"],
            "lost": int((status == MISSING).sum()),
            "wrong": self.seen["wrong"],
            "other_point": self.seen["other point"],
            "sent_late_p99_ms": percentile(late[counted & np.isfinite(late)], 99),
            "connections": self._open,
            "client_cores": (time.process_time() - self._used) / self._plan.seconds,
        }


def percentile(seconds: np.ndarray[Any, np.dtype[np.float64]], at: int) -> float | None:
    """Of some seconds, in milliseconds: that of a request that was there, not between two."""
    return float(1000 * np.percentile(seconds, at, method="higher")) if len(seconds) else None


async def drive(url: str, asked: Sequence[Question], plan: Plan) -> dict[str, Any]:
    """Run a plan."""
    client = Client(url, asked, plan)
    await client.run()
    return client.outcome()


def main() -> None:
    """Send what is asked for, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("--questions", type=Path, help="a file of them")
    parser.add_argument("--cascade", type=Path, help="without --questions: the folder that is served")
    parser.add_argument("--data", type=Path, help="without --questions: a file of texts")
    parser.add_argument("--rows", type=int, default=8, help="without --questions: texts of a request")
    parser.add_argument("--rate", type=float, help="requests a second")
    parser.add_argument("--closed", type=int, default=0, help="instead of a rate: clients that wait")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--lead", type=float, default=0.0, help="seconds at the start that do not count")
    parser.add_argument("--target-ms", type=float, default=100.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if (given.rate is None) == (given.closed == 0):
        parser.error("expected --rate or --closed, and not both")
    plan = Plan(given.seconds, given.rate, given.closed, given.target_ms / 1000, given.lead, given.seed)
    asked = load(given.questions) if given.questions else _of(given.cascade, given.data, given.rows)
    print(json.dumps(uvloop.run(drive(given.url, asked, plan))))


def _of(folder: Path, data: Path, rows: int) -> list[Question]:
    from cascadebert import Cascade
    from cascadebert.data.dataset import load_examples

    texts = [str(text) for text in load_examples(data, labels=False).texts]
    return questions(Cascade.from_pretrained(folder), texts, rows)


if __name__ == "__main__":
    main()
