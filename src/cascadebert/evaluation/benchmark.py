"""How fast a cascade is beside what it replaces, by the clock, in one interleaved run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cascadebert.data.columns import Columns
from cascadebert.data.dataset import Examples, load_examples
from cascadebert.environment import peak_memory_mb
from cascadebert.evaluation.cost_model import measure_latency
from cascadebert.evaluation.metrics import paired_difference
from cascadebert.inference.batch_size import with_tuned_batch_sizes
from cascadebert.inference.batching import TokenizedTexts
from cascadebert.inference.cascade import Cascade, TokenCache
from cascadebert.inference.engines.load import load_pipeline, matrix_ceiling
from cascadebert.inference.stage import Stage
from cascadebert.persistence.checkpoint_config import config_label_names, read_config
from cascadebert.thresholds.select import speedup
from cascadebert.timing import interleaved, now
from cascadebert.types import Floats, Interval, Ints, LinearLatency, Texts

if TYPE_CHECKING:
    import datasets

REPEATS = 5
PIPELINE_ROWS = 256
PIPELINES = ((1, False), (32, False), (32, True))
START = """
import json, sys
from cascadebert import Cascade
path, engine, precision, text = sys.argv[1:]
text = json.loads(text)
texts = [text if isinstance(text, str) else tuple(text)]
Cascade.from_pretrained(path, engine=engine, precision=precision).predict(texts)
"""


@dataclass(frozen=True)
class TimedPredictor:
    """One predictor on the rows.

    Attributes:
        name: what it is.
        n: rows timed: all, or for a `transformers` pipeline at most 256 spread over the file.
        examples_per_second: tokenising included; median over the repeats.
        range: slowest and fastest of them.
        accuracy: on the same rows; None without labels.
        agreement: share of its answers that are the last stage's.
        accuracy_drop: accuracy of the last stage less its own, on the same rows, with a 95 % interval.
    """

    name: str
    n: int
    examples_per_second: float
    range: tuple[float, float]
    accuracy: float | None
    agreement: float
    accuracy_drop: Interval | None


@dataclass(frozen=True)
class BenchmarkResult:
    """A cascade beside its last stage alone and other ways to answer, same machine, same rows, in turn.

    Attributes:
        n: number of rows.
        repeats: timed runs of each, after one warm-up.
        cascade: the cascade.
        last_stage: its last stage alone on every row, same engine.
        others: each earlier stage alone, and where `transformers` and torch are installed the last stage
            through its pipeline (float32, same maximum length; batches of 1 and 32, rows as they lie in the
            file and sorted by length).
        measured_speedup: median over the repeats of the last stage's seconds over the cascade's.
        range: lowest and highest of these ratios.
        expected_speedup: from the seconds per row and token of each stage, timed apart, and the rows' exits.
        stage_seconds: those seconds, of each stage's model.
        tokenising_seconds: and of each stage's tokenizer.
        routing_overhead: seconds of the cascade over the sum of its parts (tokenising once per tokenizer,
            each stage on the rows that reached it), less 1.
        exit_rates: (num_stages,) share of the rows answered at each stage.
        padding: tokens computed by the last stage on all rows over tokens there are.
        ceiling: operations per second of large matrix products in the last stage's engine and precision.
        ceiling_share: operations per second of the last stage's model alone over that; None where its
            operations are not known.
        peak_memory_mb: of this process when the cascade had answered all rows; None where it is not told.
        start_seconds: from a new process to the cascade's first answer.
    """

    n: int
    repeats: int
    cascade: TimedPredictor
    last_stage: TimedPredictor
    others: tuple[TimedPredictor, ...]
    measured_speedup: float
    range: tuple[float, float]
    expected_speedup: float
    stage_seconds: tuple[LinearLatency, ...]
    tokenising_seconds: tuple[LinearLatency, ...]
    routing_overhead: float
    exit_rates: tuple[float, ...]
    padding: float
    ceiling: float
    ceiling_share: float | None
    peak_memory_mb: float | None
    start_seconds: float | None


def benchmark(
    cascade: Cascade,
    data: str | Path | datasets.Dataset | Examples,
    *,
    columns: Columns | None = None,
    repeats: int = REPEATS,
) -> BenchmarkResult:
    """Time a cascade, its stages and the last stage's `transformers` pipeline in turn on the same rows.

    Args:
        cascade: what to time.
        data: rows; with labels, accuracies are given too.
        columns: names of the columns, where not the usual ones.
        repeats: timed runs of each.
    """
    examples = load_examples(data, columns=columns, labels=False, split="validation")
    if examples.labels is not None:
        examples.label_ids(cascade.label_names)  # an unknown label is said before anything is timed
    texts, count = examples.texts, len(cascade.stages)
    answers, memory = cascade.predict(texts), peak_memory_mb()
    cascade = with_tuned_batch_sizes(cascade, measure=True)
    start = _start_seconds(cascade, texts)
    racers = _racers(cascade, texts)
    last = cascade.stages[-1]
    runs: list[Callable[[], object]] = [one.run for one in racers]
    runs += component_runs(cascade, texts, answers.stages)
    runs.append(partial(last.logits, last.encode(texts)))
    seconds = np.array(interleaved(runs, repeats=repeats))
    ceiling = matrix_ceiling(last.engine)
    encoded = cascade.encode(texts)
    clock = measure_latency(cascade.stages, texts, encoded)
    costs = clock.costs(encoded)
    timed = _timed(racers, seconds, examples, last=count)
    ratios = seconds[count] / seconds[0]
    return BenchmarkResult(
        n=len(examples),
        repeats=repeats,
        cascade=timed[0],
        last_stage=timed[count],
        others=(*timed[1:count], *timed[count + 1 :]),
        measured_speedup=float(np.median(ratios)),
        range=(float(ratios.min()), float(ratios.max())),
        expected_speedup=speedup(answers.stages - 1, costs.rows, costs.last_stage_cost),
        stage_seconds=clock.stages,
        tokenising_seconds=clock.tokenising,
        routing_overhead=float(np.median(seconds[0] / seconds[len(racers) : -1].sum(axis=0))) - 1,
        exit_rates=tuple(float((answers.stages == i).mean()) for i in range(1, count + 1)),
        padding=float(encoded[-1].padded_lengths.sum() / encoded[-1].lengths.sum()),
        ceiling=ceiling,
        ceiling_share=_share(last, encoded[-1], float(np.median(seconds[-1])), ceiling),
        peak_memory_mb=memory,
        start_seconds=start,
    )


@dataclass(frozen=True)
class _Racer:
    """Something that answers texts, and the rows it is timed on."""

    name: str
    rows: Ints
    run: Callable[[], Sequence[str]]


def _racers(cascade: Cascade, texts: Texts) -> list[_Racer]:
    """The cascade, each stage alone, the last one's pipelines."""
    every = np.arange(len(texts))

    def labels_of(predictor: Cascade | Stage) -> Sequence[str]:
        return [str(label) for label in predictor.predict(texts).labels]

    found = [_Racer("cascade", every, partial(labels_of, cascade))]
    for number, stage in enumerate(cascade.stages, start=1):
        found.append(_Racer(f"stage {number} alone", every, partial(labels_of, stage)))
    last, n = cascade.stages[-1], len(texts)
    pipeline = load_pipeline(last.path, max_length=last.tokenizer.max_length)
    if pipeline is None:
        return found
    own = config_label_names(read_config(last.path), last.path)

    def piped(some: Texts, batch: int) -> Sequence[str]:
        return [own[number] for number in pipeline(some, batch)]

    spread = np.unique(np.linspace(0, n - 1, min(n, PIPELINE_ROWS)).astype(np.int64))
    by_length = spread[np.argsort(last.encode([texts[i] for i in spread]).lengths, kind="stable")]
    for batch, ordered in PIPELINES:
        rows = by_length if ordered else spread
        name = f"transformers pipeline, batch {batch}{', sorted' if ordered else ''}"
        found.append(_Racer(name, rows, partial(piped, [texts[i] for i in rows], batch)))
    return found


def component_runs(cascade: Cascade, texts: Texts, exits: Ints) -> list[Callable[[], object]]:
    """What a cascade cannot do without, each by itself: tokenising, and each stage's model.

    Args:
        cascade: the cascade.
        texts: n texts or pairs.
        exits: (n,) the stage, counted from 1, that answers each.
    """
    found: list[Callable[[], object]] = []
    encoded, seen = TokenCache(texts), set()
    for number, stage in enumerate(cascade.stages, start=1):
        active = np.flatnonzero(exits >= number)
        if stage.tokenizer.key not in seen:
            found.append(partial(stage.encode, [texts[i] for i in active.tolist()]))
            seen.add(stage.tokenizer.key)
        found.append(partial(stage.logits, *encoded.of(stage, active)))
    return found


def _timed(
    racers: Sequence[_Racer], seconds: Floats, examples: Examples, *, last: int
) -> list[TimedPredictor]:
    said = [np.array(one.run()) for one in racers]
    truth = None if examples.labels is None else np.array(examples.labels)
    timed = []
    for one, labels, taken in zip(racers, said, seconds, strict=False):
        rates, wanted = len(one.rows) / taken, said[last][one.rows]
        share, drop = None, None
        if truth is not None:
            right = labels == truth[one.rows]
            share, drop = float(right.mean()), paired_difference(wanted == truth[one.rows], right)
        spread = (float(rates.min()), float(rates.max()))
        same = float((labels == wanted).mean())
        timed.append(
            TimedPredictor(one.name, len(one.rows), float(np.median(rates)), spread, share, same, drop)
        )
    return timed


def _share(stage: Stage, rows: TokenizedTexts, seconds: float, ceiling: float) -> float | None:
    """Operations per second of a stage on all rows, as a share of the ceiling."""
    if stage.flops is None:
        return None
    return float(stage.flops.cost_of(rows.padded_lengths).sum()) / seconds / ceiling


def _start_seconds(cascade: Cascade, texts: Texts) -> float | None:
    """Seconds from the start of a new process to its first answer; None for a cascade without a folder."""
    if cascade.path is None:
        return None
    engine = cascade.stages[-1].engine
    words = [str(cascade.path), engine.name, engine.precision, json.dumps(texts[0])]
    start = now()
    subprocess.run([sys.executable, "-c", START, *words], check=True, capture_output=True)
    return now() - start
