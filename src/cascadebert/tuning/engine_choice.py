"""The engine and precision that run a model fastest on this machine, and checks that they keep its labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from cascadebert.errors import MissingExtra, StageError
from cascadebert.inference.engines.load import load_engine
from cascadebert.inference.stage import Stage
from cascadebert.persistence.schema import TimedEngine
from cascadebert.timing import interleaved
from cascadebert.types import Ints, Logits, Texts

TIMED_TEXTS, TIMED_REPEATS = 128, 3
EXACTNESS = ("float32", "bfloat16", "int8")
MIN_GAIN = 1.05  # a less exact precision must be so much faster
MAX_COMPARED = 1000
MAX_CHANGED_FRACTION, MAX_CHANGED = 0.005, 2
# of the stages before the last, as their thresholds are selected on what they answer in this precision
MAX_CHANGED_EARLIER = 0.02


@dataclass(frozen=True)
class EngineChoice:
    """The engine and precision for a model on this machine."""

    engine: str
    precision: str
    timed: tuple[TimedEngine, ...] = ()  # all that were tried, the fastest first; none if only one can run


def choose_engine(
    open_stage: Callable[[str, str], Stage], options: Sequence[tuple[str, str]], texts: Texts
) -> EngineChoice:
    """The fastest of the options that keeps the labels which the model gives the texts in float32.

    Up to 128 of the texts are timed, all options in one interleaved run. From the fastest on, up to 1,000 of
    the texts are compared with the first option, until one option and a runner-up pass.

    Args:
        open_stage: Loads the model, given an engine and a precision; an option that raises StageError is out.
        options: Engines and precisions, as of `engine_options`; the first is of float32.
        texts: Texts like those to come.

    Raises:
        StageError: If no option runs the model.
    """
    if len(options) == 1:
        return EngineChoice(*options[0])
    stages = _opened(open_stage, options)
    sample = spread(len(texts), TIMED_TEXTS)
    tokens = stages[0].encode([texts[i] for i in sample])
    runs = [partial(stage.logits, tokens) for stage in stages]
    seconds = np.median(interleaved(runs, repeats=TIMED_REPEATS), axis=1) / len(sample)
    compared = [texts[i] for i in spread(len(texts), MAX_COMPARED)]
    expected = stages[0].predict(compared).label_ids
    timed, passed = list[TimedEngine](), list[TimedEngine]()
    for i in np.argsort(seconds, kind="stable").tolist():
        changed = None
        if len(passed) < 2:
            changed = int((stages[i].predict(compared).label_ids != expected).sum())
        one = TimedEngine(
            engine=stages[i].engine.name,
            precision=stages[i].engine.precision,
            texts_per_second=1 / float(seconds[i]),
            compared=len(compared),
            changed=changed,
        )
        timed.append(one)
        # one below the limit of `check_engine_parity`, whose float32 may differ by a label
        if changed is not None and changed < max(1, _allowed(len(compared), MAX_CHANGED_FRACTION)):
            passed.append(one)
    best, others = passed[0], passed[1:]
    for other in others:
        is_more_exact = EXACTNESS.index(other.precision) < EXACTNESS.index(best.precision)
        if is_more_exact and best.texts_per_second < MIN_GAIN * other.texts_per_second:
            best = other
    return EngineChoice(best.engine, best.precision, tuple(timed))


def _opened(open_stage: Callable[[str, str], Stage], options: Sequence[tuple[str, str]]) -> list[Stage]:
    """The model on those of the options that run it; raises the last StageError if there are none."""
    stages, missed = list[Stage](), StageError("no engine was given")
    for engine, precision in options:
        try:
            stages.append(open_stage(engine, precision))
        except StageError as error:
            missed = error
    if not stages:
        raise missed
    return stages


def spread(n: int, most: int) -> Ints:
    """Indices of up to `most` of n texts, from the first to the last."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(np.int64))


def _allowed(n: int, fraction: float) -> float:
    return max(MAX_CHANGED, fraction * n)


def check_engine_parity(stages: Sequence[Stage], texts: Texts, logits: Logits) -> tuple[str, ...]:
    """Check that (num_stages, n, num_labels) logits of the stages' engine give the labels of torch float32.

    At most 1,000 of the n texts are compared. Returns a notice if torch is not installed. Raises StageError
    if more than 2 labels change at a stage, and more than 0.5 % of those compared at the last stage or 2 % at
    an earlier one.
    """
    engine = stages[-1].engine
    if (engine.name, engine.precision) == ("torch", "float32"):
        return ()
    sample = spread(len(texts), MAX_COMPARED)
    compared = [texts[i] for i in sample]
    for number, (stage, stage_logits) in enumerate(zip(stages, logits, strict=True), start=1):
        try:
            reference = replace(stage, engine=load_engine(stage.path, engine="torch", precision="float32"))
        except MissingExtra:
            return ("labels were not compared with torch in float32, which is not installed.",)
        expected = reference.logits(reference.encode(compared)).argmax(axis=1)
        changed = int((expected != stage_logits[sample].argmax(axis=1)).sum())
        fraction = MAX_CHANGED_FRACTION if number == len(stages) else MAX_CHANGED_EARLIER
        if changed > _allowed(len(sample), fraction):
            raise StageError(
                f"{engine.name} {engine.precision} changes the label of {changed:,} of {len(sample):,} "
                f"tuning examples at stage {number} ({stage.name}) compared with torch float32; at most "
                f"{100 * fraction:g} %, or {MAX_CHANGED} examples, are allowed. Choose another "
                "--precision or --engine."
            )
    return ()
