"""Wall-clock benchmark of a cascade against the predictors it replaces, in one interleaved run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from cascadebert.data.columns import Columns
from cascadebert.data.dataset import DataSource, Examples
from cascadebert.environment import instruction_sets, machine, peak_memory_mb
from cascadebert.errors import MissingExtra
from cascadebert.evaluation.cost_model import measure_latency
from cascadebert.evaluation.evaluate import exit_rates, load_for
from cascadebert.evaluation.metrics import paired_difference
from cascadebert.inference.batch_size import with_tuned_batch_sizes
from cascadebert.inference.cascade import Cascade, TokenCache
from cascadebert.inference.stage import Stage
from cascadebert.thresholds.select import speedup
from cascadebert.timing import interleaved
from cascadebert.types import Floats, Interval, Ints, LinearLatency, Texts

REPEATS = 5
PIPELINE_ROWS = 128
Labels = NDArray[np.str_]


@dataclass(frozen=True)
class TimedPredictor:
    """Speed and accuracy of one predictor."""

    name: str
    engine: str  # of a cascade, its last stage's
    precision: str
    n: int  # texts timed: all, or for a `transformers` pipeline up to 128 spread over the data
    examples_per_second: float  # tokenizing included; median over the repeats
    range: tuple[float, float]  # slowest and fastest repeat
    accuracy: float | None  # on the timed texts; None without labels
    agreement: float  # fraction of predictions equal to the last stage's
    accuracy_drop: Interval | None  # accuracy of the last stage minus its own, with a 95 % interval

    def cost_per_million(self, price_per_hour: float) -> float:
        """Price of a million texts, on a machine that costs so much in an hour."""
        return price_per_hour * 1e6 / self.examples_per_second / 3600


@dataclass(frozen=True)
class BenchmarkResult:
    """A cascade against its last stage alone and other predictors: same machine and texts, interleaved."""

    machine: str  # processor, cores and system
    instruction_sets: tuple[str, ...]  # of the processor, as far as they matter for speed
    n: int
    repeats: int  # timed runs of each predictor, after one warm-up
    cascade: TimedPredictor
    last_stage: TimedPredictor  # alone on every text, same engine
    # Each earlier stage alone; with torch and `transformers` installed also pipelines of the last stage
    # (float32, same maximum length; batches of 1 and 32, in file order and sorted by length).
    others: tuple[TimedPredictor, ...]
    measured_speedup: float  # seconds of the last stage over those of the cascade, median over the repeats
    range: tuple[float, float]  # lowest and highest of these ratios
    expected_speedup: float  # from the latency of each stage, timed separately, and the exits of the texts
    stage_seconds: tuple[LinearLatency, ...]  # that latency, of each stage's model
    tokenizing_seconds: tuple[LinearLatency, ...]  # and of each stage's tokenizer
    routing_overhead: float  # seconds of the cascade over the sum of its `component_runs`, minus 1
    exit_rates: tuple[float, ...]  # (num_stages,)
    peak_memory_mb: float | None  # of this process after one prediction of all texts; None if not reported


def benchmark(
    cascade: Cascade,
    data: DataSource,
    *,
    columns: Columns | None = None,
    repeats: int = REPEATS,
) -> BenchmarkResult:
    """Time a cascade, each stage alone and the last stage's `transformers` pipelines on the same texts.

    With labels the result also holds accuracies. Raises DataError if a row or a label cannot be used.
    """
    examples = load_for(cascade, data, columns=columns, labels=False)
    texts, num_stages = examples.texts, len(cascade.stages)
    exits, memory = cascade.predict(texts).stages, peak_memory_mb()
    cascade = with_tuned_batch_sizes(cascade, measure=True)
    contestants = _contestants(cascade, texts)
    runs: list[Callable[[], object]] = [contestant.run for contestant in contestants]
    seconds = np.array(interleaved(runs + component_runs(cascade, texts, exits), repeats=repeats))
    predictions = [contestant.run() for contestant in contestants]
    timed = [
        _timed(contestant, contestant_seconds, predicted, predictions[num_stages], examples)
        for contestant, contestant_seconds, predicted in zip(contestants, seconds, predictions, strict=False)
    ]
    encoded = cascade.encode(texts)
    latency = measure_latency(cascade.stages, texts, encoded)
    costs = latency.costs(encoded)
    ratios = seconds[num_stages] / seconds[0]
    overheads = seconds[0] / seconds[len(contestants) :].sum(axis=0) - 1
    return BenchmarkResult(
        machine=machine(),
        instruction_sets=instruction_sets(),
        n=len(examples),
        repeats=repeats,
        cascade=timed[0],
        last_stage=timed[num_stages],
        others=(*timed[1:num_stages], *timed[num_stages + 1 :]),
        measured_speedup=float(np.median(ratios)),
        range=(float(ratios.min()), float(ratios.max())),
        expected_speedup=speedup(exits - 1, costs.rows, costs.last_stage_cost),
        stage_seconds=latency.stages,
        tokenizing_seconds=latency.tokenizing,
        routing_overhead=float(np.median(overheads)),
        exit_rates=exit_rates(exits - 1, num_stages),
        peak_memory_mb=memory,
    )


def component_runs(cascade: Cascade, texts: Texts, exits: Ints) -> list[Callable[[], object]]:
    """The work a cascade cannot avoid, as separate runs: each tokenizer once, and each stage's model.

    `exits` is the (n,) stage, counted from 1, at which each text exits.
    """
    runs: list[Callable[[], object]] = []
    encoded, tokenizers = TokenCache(texts), set()
    for number, stage in enumerate(cascade.stages, start=1):
        active = np.flatnonzero(exits >= number)
        if stage.tokenizer.key not in tokenizers:
            runs.append(partial(stage.encode, [texts[i] for i in active.tolist()]))
            tokenizers.add(stage.tokenizer.key)
        runs.append(partial(stage.logits, *encoded.get(stage, active)))
    return runs


@dataclass(frozen=True)
class _Contestant:
    name: str
    engine: str
    precision: str
    rows: Ints  # indices of the texts it predicts
    run: Callable[[], Labels]  # (len(rows),) predicted labels


def _contestants(cascade: Cascade, texts: Texts) -> list[_Contestant]:
    """The cascade, each stage alone, and pipelines of the last stage where they can be loaded."""

    def predict(predictor: Cascade | Stage) -> Labels:
        return predictor.predict(texts).labels

    n, last = len(texts), cascade.stages[-1]

    def contestant(name: str, predictor: Cascade | Stage, stage: Stage) -> _Contestant:
        engine = stage.engine
        return _Contestant(name, engine.name, engine.precision, np.arange(n), partial(predict, predictor))

    contestants = [contestant("cascade", cascade, last)]
    contestants += [
        contestant(f"stage {number} alone", stage, stage)
        for number, stage in enumerate(cascade.stages, start=1)
    ]
    try:
        from cascadebert.inference.engines.torch import load_pipeline
    except MissingExtra:
        return contestants
    pipeline = load_pipeline(
        last.path, max_length=last.tokenizer.max_length, padding_side=last.tokenizer.padding.side
    )
    label_names = np.array(last.label_names)[np.argsort(last.columns or range(last.num_labels))]

    def predict_in_pipeline(sample_texts: Texts, batch_size: int) -> Labels:
        return label_names[pipeline(sample_texts, batch_size)]

    sample = np.unique(np.linspace(0, n - 1, min(n, PIPELINE_ROWS)).astype(np.int64))
    by_length = sample[np.argsort(last.encode([texts[i] for i in sample]).lengths, kind="stable")]
    for batch_size, rows, suffix in ((1, sample, ""), (32, sample, ""), (32, by_length, ", sorted")):
        run = partial(predict_in_pipeline, [texts[i] for i in rows], batch_size)
        name = f"transformers pipeline, batch {batch_size}{suffix}"
        contestants.append(_Contestant(name, "torch", "float32", rows, run))
    return contestants


def _timed(
    contestant: _Contestant, seconds: Floats, predicted: Labels, last_stage: Labels, examples: Examples
) -> TimedPredictor:
    rates, expected = len(contestant.rows) / seconds, last_stage[contestant.rows]
    accuracy, drop = None, None
    if examples.labels is not None:
        labels = np.array(examples.labels)[contestant.rows]
        accuracy = float((predicted == labels).mean())
        drop = paired_difference(expected == labels, predicted == labels)
    return TimedPredictor(
        name=contestant.name,
        engine=contestant.engine,
        precision=contestant.precision,
        n=len(contestant.rows),
        examples_per_second=float(np.median(rates)),
        range=(float(rates.min()), float(rates.max())),
        accuracy=accuracy,
        agreement=float((predicted == expected).mean()),
        accuracy_drop=drop,
    )
