"""How fast a cascade is beside its last stage, by the clock, in one interleaved run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cascadebert.cascade import Cascade
from cascadebert.costs import measure
from cascadebert.data import Examples, load_examples
from cascadebert.metrics import accuracy
from cascadebert.tasks import Columns
from cascadebert.thresholds import speedup
from cascadebert.timing import interleaved
from cascadebert.types import Predictions

if TYPE_CHECKING:
    import datasets

REPEATS = 5


@dataclass(frozen=True)
class Timed:
    """One predictor on the rows.

    Attributes:
        examples_per_second: tokenising included; median over the repeats.
        range: slowest and fastest of them.
        accuracy: on the same rows; None without labels.
    """

    examples_per_second: float
    range: tuple[float, float]
    accuracy: float | None


@dataclass(frozen=True)
class Bench:
    """A cascade beside its last stage alone, same engine, same rows, in turn.

    Attributes:
        n: number of rows.
        repeats: timed runs of each, after one warm-up.
        cascade: the cascade.
        last_stage: its last stage alone on every row.
        measured_speedup: median over the repeats of the last stage's seconds over the cascade's.
        range: lowest and highest of these ratios.
        expected_speedup: from seconds per row and token of each stage, timed apart, and the rows' exits.
        routing_overhead: seconds of the cascade over the sum of its parts (tokenising once per tokenizer,
            each stage on the rows that reached it), less 1.
        exit_rates: (num_stages,) share of the rows answered at each stage.
    """

    n: int
    repeats: int
    cascade: Timed
    last_stage: Timed
    measured_speedup: float
    range: tuple[float, float]
    expected_speedup: float
    routing_overhead: float
    exit_rates: tuple[float, ...]


def bench(
    cascade: Cascade,
    data: str | Path | datasets.Dataset | Examples,
    *,
    columns: Columns | None = None,
    repeats: int = REPEATS,
) -> Bench:
    """Time a cascade and its last stage in turn on the same rows.

    Args:
        cascade: what to time.
        data: rows; with labels, accuracies are given too.
        columns: names of the columns, where not the usual ones.
        repeats: timed runs of each.
    """
    examples = load_examples(data, columns=columns, labels=False, split="validation")
    if examples.labels is not None:
        examples.label_ids(cascade.label_names)  # an unknown label is said before anything is timed
    last = cascade.stages[-1]
    encoders = {stage.encoder.key: stage.encode for stage in cascade.stages}
    rows = {key: encode(examples.texts) for key, encode in encoders.items()}
    encoded = [rows[stage.encoder.key] for stage in cascade.stages]
    answers = cascade.predict(examples.texts)
    reached = [np.flatnonzero(answers.stages > number) for number in range(len(cascade.stages))]
    parts: list[Callable[[], object]] = [partial(encode, examples.texts) for encode in encoders.values()]
    for stage, tokens, where in zip(cascade.stages, encoded, reached, strict=True):
        parts.append(partial(stage.logits, tokens, where))
    seconds = np.array(
        interleaved(
            [partial(cascade.predict, examples.texts), partial(last.predict, examples.texts), *parts],
            repeats=repeats,
        )
    )
    costs = measure(cascade.stages, examples.texts, encoded).costs(encoded)
    ratios = seconds[1] / seconds[0]
    exits = answers.stages - 1
    return Bench(
        n=len(examples),
        repeats=repeats,
        cascade=_timed(examples, answers, seconds[0]),
        last_stage=_timed(examples, last.predict(examples.texts), seconds[1]),
        measured_speedup=float(np.median(ratios)),
        range=(float(ratios.min()), float(ratios.max())),
        expected_speedup=speedup(exits, costs.rows, costs.alone),
        routing_overhead=float(np.median(seconds[0] / seconds[2:].sum(axis=0))) - 1,
        exit_rates=tuple(float(r) for r in np.bincount(exits, minlength=len(reached)) / len(exits)),
    )


def _timed(examples: Examples, answers: Predictions, seconds: np.ndarray) -> Timed:
    rates = len(examples) / seconds
    labels = None if examples.labels is None else examples.label_ids(answers.label_names)
    return Timed(
        examples_per_second=float(np.median(rates)),
        range=(float(rates.min()), float(rates.max())),
        accuracy=None if labels is None else accuracy(answers.label_ids, labels),
    )
