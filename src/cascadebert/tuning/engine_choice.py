"""The engine and precision that run a model fastest on this machine, and checks that they keep its labels."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from cascadebert.errors import MissingExtra, StageError
from cascadebert.inference.engines.load import load_engine
from cascadebert.inference.stage import Stage
from cascadebert.persistence.schema import TimedEngine
from cascadebert.timing import interleaved
from cascadebert.types import Ints, Logits, Texts

log = logging.getLogger("cascadebert")
MAX_TIMED, MIN_TIMED, TIMED_REPEATS = 128, 32, 3
SECONDS = 3.0  # of the first option for all texts that are timed, unless they are too few
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


def choose_engine(stage: Stage, options: Sequence[tuple[str, str]], texts: Texts) -> EngineChoice:
    """The fastest of the options that keeps the labels which the model gives the texts in float32.

    32 to 128 of the texts are timed, all options in one interleaved run. From the fastest on, labels of up to
    1,000 of the texts are compared, until one option and a runner-up pass. Each option is a line of the log.

    Args:
        stage: The model on the first of the options.
        options: Engines and precisions, as of `engine_options`; one that does not run the model is left out.
        texts: Texts like those to come.

    Raises:
        StageError: If none of the options keeps the labels.
    """
    if len(options) == 1:
        return EngineChoice(*options[0])
    timed = _timed(stage, options, texts)
    passed = [one for one in timed if _keeps(one.changed, one.compared)]
    if not passed:
        raise StageError(f"{stage.name}: {timed[0].description}; none keeps them. Use --precision float32.")
    best = passed[0]
    for other in passed[1:]:
        is_more_exact = EXACTNESS.index(other.precision) < EXACTNESS.index(best.precision)
        if is_more_exact and best.texts_per_second < MIN_GAIN * other.texts_per_second:
            best = other
    return EngineChoice(best.engine, best.precision, timed)


def _timed(stage: Stage, options: Sequence[tuple[str, str]], texts: Texts) -> tuple[TimedEngine, ...]:
    """The options that run the model, from the fastest; labels are counted until two have kept them."""
    stages = {options[0]: stage} | _on_engines(stage, options[1:])
    sample = _spread(len(texts), _number_to_time(stage, texts))
    tokens = stage.encode([texts[i] for i in sample])
    runs = [partial(one.logits, tokens) for one in stages.values()]
    seconds = np.median(interleaved(runs, repeats=TIMED_REPEATS), axis=1) / len(sample)
    compared = stage.encode([texts[i] for i in _spread(len(texts), MAX_COMPARED)])
    expected = _in_float32(stage, options[0]).logits(compared).argmax(axis=1)
    timed, kept = list[TimedEngine](), 0
    for took, (engine, precision) in sorted(zip(seconds.tolist(), stages, strict=True)):
        changed = None
        if kept < 2:
            changed = int((stages[engine, precision].logits(compared).argmax(axis=1) != expected).sum())
            kept += _keeps(changed, len(compared))
        found = TimedEngine(
            engine=engine,
            precision=precision,
            texts_per_second=1 / took,
            compared=len(compared),
            changed=changed,
        )
        log.info("%s on %s", stage.name, found.description)
        timed.append(found)
    return tuple(timed)


def _number_to_time(stage: Stage, texts: Texts) -> int:
    """Number of texts that the stage's engine runs in about `SECONDS`."""
    tokens = stage.encode([texts[i] for i in _spread(len(texts), MIN_TIMED)])
    seconds = interleaved([partial(stage.logits, tokens)], repeats=1)[0][0] / len(tokens)
    return int(np.clip(SECONDS / seconds, MIN_TIMED, MAX_TIMED))


def _keeps(changed: int | None, compared: int) -> bool:
    """True if one label less than `check_engine_parity` allows, whose float32 may differ by one, changed."""
    return changed is not None and changed < _allowed(compared, MAX_CHANGED_FRACTION)


def _on_engines(stage: Stage, options: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Stage]:
    """The model on those of the options that run it."""
    stages = {}
    for engine, precision in options:
        with suppress(StageError):
            loaded = load_engine(stage.path, engine=engine, precision=precision)
            stages[engine, precision] = replace(stage, engine=loaded)
    return stages


def _in_float32(stage: Stage, option: tuple[str, str]) -> Stage:
    engine, precision = option
    if precision == "float32":
        return stage
    return replace(stage, engine=load_engine(stage.path, engine=engine, precision="float32"))


def _spread(n: int, most: int) -> Ints:
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
    sample = _spread(len(texts), MAX_COMPARED)
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
