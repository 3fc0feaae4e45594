"""What does `cascadebert serve` reach, beside its cascade without a server and beside other servers?

Steps, from the repository's root, nothing beside them, after `benchmarks/cascades.py`; SST-2's cascade is
served, and load generators (benchmarks/load.py) run on the same two cores:

    python benchmarks/server.py rates --data ../shared/data       # requests a second at one p99: half an hour
    python benchmarks/server.py throughput --data ../shared/data  # large batches: two minutes
    python benchmarks/server.py idle --data ../shared/data        # one text, nothing else to do: a minute
    python benchmarks/server.py soak --data ../shared/data        # ten minutes of twice the capacity
    python benchmarks/server.py fuzz --data ../shared/data        # 100,000 requests, most of them rubbish
    python benchmarks/server.py summary --data ../shared/data     # of all steps, and of benchmarks/watch.py

`fuzz` needs schemathesis, which nothing else does: `pip install "schemathesis>=4.32"`. A rate is sustained if
99 requests in 100 get their answer within the target, counted from their planned arrival, which a refused one
does not; in one of two runs. Results: results/server/STEP.json; rounds that are done lie in build/server, so
a killed run goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from math import inf, sqrt
from pathlib import Path
from signal import SIGTERM, signal
from statistics import median
from threading import Event, Thread
from typing import Any

import numpy as np

from cascadebert import Cascade
from cascadebert.cli.render import configure_logging
from cascadebert.data.dataset import load_examples
from cascadebert.persistence.folder import read_used_rows, write_folder
from cascadebert.thresholds.confidence import Score
from cascadebert.thresholds.operating_point import OperatingPoint
from cascadebert.timing import interleaved, now
from cascades import BUILD
from fuzz import fuzz_server
from load import Plan, Question, questions, request, save
from servers import Running, plain, served
from stored import ROOT, current_commit, part, write_result

RESULTS = ROOT / "results" / "server"
PARTS = ROOT / "build" / "server"
FOLDER = BUILD / "sst2" / "cascade"
TARGET, ROWS, COPIES = 0.1, 8, 8
SEARCHES = ((ROWS, 2), (1, 1))
"""Texts of a request, and rounds."""
ROUNDS, REPEATS = 3, 3
LEAD, RUN, FEWEST, LONGEST = 2.0, 12.0, 300, 30.0
STEP, CLOSE, WITHIN, NEARLY, LEAST = 1.25, 1.04, 0.99, 0.9, 1.0
BATCHES, LARGE, BATCH_TARGET = ((256, 4), (1000, 8)), 1000, 60.0
"""Texts of a request and clients that wait for answers; and of which the ratio is told."""
SOAK_MINUTES, OVERLOAD, NEAR, NEAR_SECONDS = 10, 2.0, (1.0, 1.1, 1.25), 30.0
SAMPLE_SECONDS, MINUTE = 5.0, 60.0
OPTIONS = ("--no-adaptive", "--latency-target-ms", 1000 * TARGET)


def main() -> None:
    """Run one step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=(*STEPS, "summary"))
    parser.add_argument("--data", type=Path, required=True, help="folder of data sets")
    asked = parser.parse_args()
    signal(SIGTERM, lambda *_: sys.exit(1))  # so that servers are stopped too
    if asked.step != "summary":
        configure_logging()
        commit, file = current_commit(), asked.data / "sst2" / "validation.parquet"
        values = STEPS[asked.step]([str(text) for text in load_examples(file).texts])
        write_result(RESULTS / f"{asked.step}.json", values, data=[file], commit=commit)
    write_summary()


@dataclass(frozen=True)
class Search:
    """For the highest rate that is sustained: `low` is, `high` is not.

    >>> found = Search(100.0).told(True).told(False)
    >>> found.low, found.high, round(found.rate, 1)
    (100.0, 125.0, 111.8)
    """

    rate: float
    low: float = 0.0
    high: float = inf
    step: float = STEP

    @property
    def done(self) -> bool:
        """Whether both are close to each other, or not even a request a second is sustained."""
        return self.high <= CLOSE * self.low or self.rate < LEAST

    def told(self, sustained: bool) -> Search:
        """What is known after a run at `rate`."""
        low, high = (self.rate, self.high) if sustained else (self.low, self.rate)
        if low == 0:
            return Search(high / self.step, low, high, self.step**2)
        return Search(low * STEP if high == inf else sqrt(low * high), low, high)


@dataclass(frozen=True)
class Contender:
    """A server, and what it is asked."""

    running: Running
    asked: Path

    def at(self, rate: float, seed: int) -> dict[str, Any]:
        """A run at a rate, long enough for some hundreds of requests."""
        seconds = LEAD + min(max(RUN, FEWEST / rate), LONGEST)
        return self.running.drive(self.asked, Plan(seconds, rate, target=TARGET, lead=LEAD, seed=seed))

    def guess(self) -> float:
        """A rate that may be sustained: four fifths of what four clients get that wait for their answers."""
        return 0.8 * float(
            self.running.drive(self.asked, Plan(5.0, closed=4, lead=1.0))["answers_per_second"]
        )


def highest(contenders: Mapping[str, Contender], seed: int) -> dict[str, dict[str, Any]]:
    """The highest rate that each sustains; their runs are taken in turn."""
    searches = {name: Search(one.guess()) for name, one in contenders.items()}
    tries: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    while left := [name for name, one in searches.items() if not one.done]:
        for name in left:
            found = contenders[name].at(searches[name].rate, seed + len(tries[name]))
            tries[name].append(found)
            if NEARLY <= found["good_share"] < WITHIN:  # once more, as the machine may have been at fault
                found = contenders[name].at(searches[name].rate, seed + len(tries[name]))
                tries[name].append(found)
            searches[name] = searches[name].told(found["good_share"] >= WITHIN and not found["lost"])
            say = ("good_share", "p50_ms", "p99_ms", "statuses", "wrong", "sent_late_p99_ms", "client_cores")
            print(name, searches[name], {key: found[key] for key in say}, flush=True)
    return {name: {"rate": one.low, "tries": tries[name]} for name, one in searches.items()}


def rates(texts: Sequence[str]) -> dict[str, Any]:
    """Requests a second at one p99: the cascade, its last stage alone, the pipeline of the large model."""
    cascade, last = Cascade.from_pretrained(FOLDER), last_alone()
    found = list[dict[str, Any]]()
    for rows, rounds in SEARCHES:
        asked = {"cascade": mixed(cascade, texts, rows), "last_stage": mixed(last, texts, rows)}
        asked["pipeline"] = [Question(one.texts, one.labels) for one in asked["last_stage"]]
        files = {name: save(some, PARTS / f"{name}-{rows}.json") for name, some in asked.items()}
        with ExitStack() as stack:
            running = {
                "cascade": stack.enter_context(served(FOLDER, *OPTIONS)),
                "last_stage": stack.enter_context(served(PARTS / "last", *OPTIONS)),
                "pipeline": stack.enter_context(
                    plain(FOLDER / "stage-3", cascade.stages[-1].tokenizer.max_length)
                ),
            }
            contenders = {name: Contender(one, files[name]) for name, one in running.items()}
            made = [
                part(
                    PARTS / f"rates-{rows}-{i}.json",
                    partial(one_round, contenders, cascade, last, texts, i),
                )
                for i in range(rounds)
            ]
        found.append({"target_ms": 1000 * TARGET, "rows": rows, **over_rounds(made)})
    return {"within": WITHIN, "searches": found}


def one_round(
    contenders: Mapping[str, Contender], cascade: Cascade, last: Cascade, texts: Sequence[str], number: int
) -> dict[str, Any]:
    """Every server's highest rate, and both predictors without a server, just before and just after."""
    many = list(texts) * COPIES
    runs: list[Callable[[], object]] = [partial(cascade.predict, many), partial(last.predict, many)]
    before = interleaved(runs, repeats=REPEATS)
    found = highest(contenders, seed=100 * number)
    seconds = np.concatenate([before, interleaved(runs, repeats=REPEATS)], axis=1)
    return {
        "servers": found,
        "texts_per_second": (len(many) / np.median(seconds, axis=1)).tolist(),
        "offline_ratio": float(np.median(seconds[1] / seconds[0])),
    }


def over_rounds(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Medians of rates, and of ratios of one round."""
    rate = {name: [one["servers"][name]["rate"] for one in rounds] for name in rounds[0]["servers"]}
    over = {
        name: median(np.divide(rate["cascade"], some).tolist()) if min(some) else None
        for name, some in rate.items()
    }
    return {
        "rates": {name: median(some) for name, some in rate.items()},
        "rps_ratio": over["last_stage"],
        "rps_vs_naive": over["pipeline"],
        "offline_ratio": median(one["offline_ratio"] for one in rounds),
        "rounds": list(rounds),
    }


def last_alone() -> Cascade:
    """The last stage as a cascade of its own, in a folder."""
    whole, path = Cascade.from_pretrained(FOLDER), PARTS / "last"
    assert whole.spec is not None
    entry = whole.spec.stages[-1].model_copy(update={"path": "stage-1"})
    none = {"measured": None, "timing": None, "calibration": None, "score": Score()}
    spec = whole.spec.model_copy(update={"stages": (entry,), "operating_point": OperatingPoint(()), **none})
    source = FOLDER / whole.spec.stages[-1].path
    path.parent.mkdir(parents=True, exist_ok=True)
    write_folder(path, spec, {"stage-1": source}, read_used_rows(FOLDER), overwrite=True)
    return Cascade.from_pretrained(path)


def mixed(cascade: Cascade, texts: Sequence[str], rows: int, *, copies: int = COPIES) -> list[Question]:
    """Requests of texts that come together by chance, each text in several of them."""
    rng = np.random.default_rng(0)
    many = [texts[i] for _ in range(copies) for i in rng.permutation(len(texts))]
    return questions(cascade, many, rows)


def throughput(texts: Sequence[str]) -> dict[str, Any]:
    """Large requests from clients that wait, beside the bare cascade on the same rows, in turn."""
    cascade, limits = (
        Cascade.from_pretrained(FOLDER),
        ("--max-client-batch-size", LARGE, "--max-queue-size", 10 * LARGE),
    )
    target = ("--no-adaptive", "--latency-target-ms", 1000 * BATCH_TARGET)
    sizes = list[dict[str, Any]]()
    with served(FOLDER, *target, *limits) as server:
        for rows, clients in BATCHES:
            asked = mixed(cascade, texts, rows, copies=2 * COPIES)
            many = [text for one in asked for text in one.texts]
            plan = Plan(2 + RUN, closed=clients, lead=LEAD)
            file, rounds = save(asked, PARTS / f"batches-{rows}.json"), list[dict[str, Any]]()
            server.drive(file, plan)
            for _ in range(2 * ROUNDS):
                seconds = interleaved([partial(cascade.predict, many)], repeats=REPEATS)[0]
                found = server.drive(file, plan)
                bare, over = len(many) / median(seconds), rows * found["answers_per_second"]
                rounds.append({"bare": bare, "server": over, "ratio": over / bare, "load": found})
            ratio = median(one["ratio"] for one in rounds)
            sizes.append({"rows": rows, "clients": clients, "ratio": ratio, "rounds": rounds})
            print(rows, clients, ratio, flush=True)
    return {
        "throughput_vs_bare": next(one["ratio"] for one in sizes if one["rows"] == LARGE),
        "sizes": sizes,
    }


def idle(texts: Sequence[str]) -> dict[str, Any]:
    """One text at a time: a bare call and a request to a server that has nothing else to do, in turn."""
    cascade = Cascade.from_pretrained(FOLDER)
    taken = np.empty((2, REPEATS + 1, len(texts)))
    with served(FOLDER, *OPTIONS) as server, server.connect() as connection:
        for i in range(REPEATS + 1):
            for j, text in enumerate(texts):
                data = request(Question([text], []).body)
                start = now()
                cascade.predict([text])
                middle = now()
                connection.sendall(data)
                said = connection.recv(65536)
                while not said.endswith(b"]]"):  # head and body may come one after the other
                    said += connection.recv(65536)
                taken[:, i, j] = middle - start, now() - middle
                assert said.startswith(b"HTTP/1.1 200"), said
    bare, over = 1000 * taken[:, 1:].reshape(2, -1)
    at = (50, 95, 99)
    return {
        "texts": bare.size,
        "bare_ms": dict(zip(map(str, at), np.percentile(bare, at).tolist(), strict=True)),
        "server_ms": dict(zip(map(str, at), np.percentile(over, at).tolist(), strict=True)),
        "idle_extra_ms": float(np.median(over) - np.median(bare)),
        "extra_of_the_same_text_ms": float(np.median(over - bare)),
    }


def soak(texts: Sequence[str]) -> dict[str, Any]:
    """Twice the capacity for ten minutes; capacity is the most good answers near the highest rate."""
    file = save(mixed(Cascade.from_pretrained(FOLDER), texts, ROWS), PARTS / "soak.json")
    with served(FOLDER, *OPTIONS) as server:
        rate = highest({"cascade": Contender(server, file)}, seed=0)["cascade"]["rate"]
        plans = [Plan(LEAD + NEAR_SECONDS, times * rate, target=TARGET, lead=LEAD) for times in NEAR]
        near = [server.drive(file, plan) for plan in plans]
        capacity = max(one["goodput"] for one in near)
        plan = Plan(60.0 * SOAK_MINUTES, OVERLOAD * capacity, target=TARGET)
        memory, over = list[tuple[float, float]](), Event()
        watching = Thread(target=watch_memory, args=(server, memory, over))
        watching.start()
        found = server.drive(file, plan)
        over.set()
        watching.join()
        exits = server.exits()
    after = next(held for at, held in memory if at >= min(MINUTE, plan.seconds / 2))
    return {
        "minutes": SOAK_MINUTES,
        "sustained_rate": rate,
        "capacity": capacity,
        "near": near,
        "load": found,
        "goodput_share": found["goodput"] / capacity,
        "other_statuses": sum(n for status, n in found["statuses"].items() if status not in ("200", "429")),
        "memory_mb": [[round(at, 1), round(held, 1)] for at, held in memory],
        "rss_growth": memory[-1][1] / after - 1,
        "exit_rates": [one / sum(exits) for one in exits],
    }


def watch_memory(server: Running, into: list[tuple[float, float]], over: Event) -> None:
    """Seconds and megabytes, every few seconds."""
    start = now()
    while not over.wait(SAMPLE_SECONDS):
        into.append((now() - start, server.memory_mb))


def fuzz(texts: Sequence[str]) -> dict[str, Any]:
    """Rubbish, and right requests in between."""
    asked = mixed(Cascade.from_pretrained(FOLDER), texts, ROWS)
    with served(FOLDER, *OPTIONS) as server:
        return fuzz_server(server, asked)


def write_summary() -> None:
    """What the project promises of a server, if every step was run."""
    files = {name: RESULTS / f"{name}.json" for name in (*STEPS, "watch")}
    missing = [name for name, file in files.items() if not file.is_file()]
    if missing:
        print(f"no summary yet, without {', '.join(missing)}")
        return
    found = {name: json.loads(file.read_text("utf-8")) for name, file in files.items()}
    (rate, _), held, fuzzed = found["rates"]["searches"], found["soak"], found["fuzz"]
    values = {
        **{name: rate[name] for name in ("rps_ratio", "offline_ratio", "rps_vs_naive")},
        "throughput_vs_bare": found["throughput"]["throughput_vs_bare"],
        "idle_extra_ms": found["idle"]["idle_extra_ms"],
        "soak": {
            "minutes": held["minutes"],
            "requests": held["load"]["requests"],
            "goodput_share": held["goodput_share"],
            "lost": held["load"]["lost"],
            "crossed": held["load"]["wrong"],
            "rss_growth": held["rss_growth"],
            "p99_ms": held["load"]["p99_ms"],
            "target_ms": held["load"]["target_ms"],
        },
        "fuzz": {"requests": fuzzed["requests"], "errors_500": fuzzed["errors_500"]},
        "audit": audit(found["watch"]),
    }
    (RESULTS / "summary.json").write_text(json.dumps(values, indent=2) + "\n", "utf-8")


def audit(watched: Mapping[str, Any]) -> dict[str, Any]:
    """Of the watch: rows to the alarm when agreement falls from 98 to 94 % at the default rate, median."""
    quiet = watched["false_alarms"]
    (fall,) = (one for one in watched["agreement_falls"] if (one["to"], one["rate"]) == (0.94, 0.01))
    return {
        "rows_to_detection": fall["recent"]["median"],
        "false_alarms": sum(sum(one["false_alarms"].values()) for one in quiet),
        "rows": sum(one["rows"] for one in quiet),
    }


STEPS: dict[str, Callable[[Sequence[str]], dict[str, Any]]] = {
    "rates": rates,
    "throughput": throughput,
    "idle": idle,
    "soak": soak,
    "fuzz": fuzz,
}

if __name__ == "__main__":
    main()
