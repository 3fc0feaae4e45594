"""Does the server refuse requests of a burst that it could answer within the latency target?

50 clients with kept connections send 8 requests of one text each, one after the other: first to a server that
has just started (cold), then four times more (warm); on a quiet machine, and beside one endless loop per core
(busy). Then requests of 16 texts arrive at twice the rate at which four clients that wait get answers
(overload), where latencies of the accepted ones must stay near the target. The cascade is two random encoders
of 1 and 2 layers, so small that bursts fit the target on two cores, on SST-2's validation texts. NAME tells
one state of the code from another in the result, results/server/bursts.json.

    python benchmarks/bursts.py NAME --data ../shared/data
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from cascadebert import Target, assemble
from cascadebert.data.dataset import load_examples
from cascadebert.environment import cores
from cascadebert.timing import now
from load import Plan, percentile, questions, request, save
from main import minilm
from servers import Running, served
from stored import ROOT, current_commit, write_result

FILE = ROOT / "results" / "server" / "bursts.json"
BUILD = ROOT / "build" / "bursts"
CLIENTS, REQUESTS, WARM, ROUNDS = 50, 8, 4, 3
TARGET, OVERLOAD, SECONDS = 0.1, 2.0, 5.0
OPTIONS = ("--no-adaptive", "--latency-target-ms", 1000 * TARGET)


def main() -> None:
    """Measure the bursts of all rounds, and the overload once a round."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("--data", type=Path, required=True, help="folder of data sets")
    given = parser.parse_args()
    commit, file = current_commit(), given.data / "sst2" / "validation.parquet"
    texts = [str(text) for text in load_examples(file).texts]
    cascade = assemble(
        [checkpoint(layers) for layers in (1, 2)], data=file, target=Target(speedup=1.5),
        output=BUILD / "cascade", overwrite=True,
    )  # fmt: skip
    asked = save(questions(cascade, texts, 16), BUILD / "questions.json")
    found: dict[str, list[dict[str, Any]]] = {}
    for _ in range(ROUNDS):
        for machine, loops in (("quiet", 0), ("busy", cores())):
            others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
            try:
                with served(BUILD / "cascade", *OPTIONS) as server:
                    bursts = [asyncio.run(burst(server, texts)) for _ in range(1 + WARM)]
                    found.setdefault(f"{machine}, cold", []).append(bursts[0])
                    found.setdefault(f"{machine}, warm", []).extend(bursts[1:])
                    if not loops:
                        found.setdefault("overload", []).append(overload(server, asked))
            finally:
                for other in others:
                    other.kill()
        print({kind: summary(runs) for kind, runs in found.items()}, flush=True)
    stored = json.loads(FILE.read_text("utf-8")) if FILE.is_file() else {}
    values = {kind: summary(runs) | {"runs": runs} for kind, runs in found.items()}
    names = {name: part for name, part in stored.items() if isinstance(part, dict) and "overload" in part}
    here = {given.name: {"commit": commit, **values}}
    write_result(FILE, names | here, data=[file], commit=commit)


def checkpoint(layers: int) -> Path:
    """Save a random encoder of so many layers with MiniLM's tokenizer, and return the folder."""
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, set_seed

    set_seed(layers)
    folder, tokenizer = BUILD / f"{layers}-layers", AutoTokenizer.from_pretrained(minilm())
    config = BertConfig(
        vocab_size=len(tokenizer),
        num_hidden_layers=layers,
        hidden_size=64,
        num_attention_heads=2,
        intermediate_size=256,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def overload(server: Running, asked: Path) -> dict[str, Any]:
    """Send requests at twice the rate that the server sustains."""
    reached = server.drive(asked, Plan(SECONDS, closed=4, target=TARGET))["answers_per_second"]
    return server.drive(asked, Plan(SECONDS, OVERLOAD * reached, target=TARGET, lead=SECONDS / 5))


async def burst(server: Running, texts: list[str]) -> dict[str, Any]:
    """Let all clients send their requests; a refused one is not sent again."""
    waits = dict[int, list[float]]()
    bodies = [json.dumps({"inputs": text}).encode() for text in texts]

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection(*server.address)
        for i in range(REQUESTS):
            start = now()
            writer.write(request(bodies[(number * REQUESTS + i) % len(bodies)]))
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(head.partition(b"content-length:")[2].split()[0]))
            waits.setdefault(int(head.split()[1]), []).append(now() - start)
        writer.close()

    start = now()
    await asyncio.gather(*map(client, range(CLIENTS)))
    answered = waits.get(200, [])
    return {
        "requests": CLIENTS * REQUESTS,
        "refused": len(waits.get(429, [])),
        "other": sum(len(part) for status, part in waits.items() if status not in (200, 429)),
        "late": sum(seconds > TARGET for seconds in answered),
        "answers_per_second": len(answered) / (now() - start),
        **{f"p{at}_ms": percentile(np.array(answered), at) for at in (50, 99)},
    }


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over runs, and the sum of what was refused."""
    refused = [run["refused"] if "refused" in run else run["statuses"].get("429", 0) for run in runs]
    shown = {"p50_ms", "p99_ms", "answers_per_second", "late", "goodput"} & set(runs[0])
    medians = {name: median(run[name] or 0.0 for run in runs) for name in sorted(shown)}
    return {"refused": sum(refused), "of": sum(run["requests"] for run in runs), **medians}


if __name__ == "__main__":
    main()
