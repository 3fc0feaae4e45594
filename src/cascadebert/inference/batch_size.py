"""Tokens per batch: measured once per machine and kind of stage, and remembered."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from cascadebert.atomic import write_text_atomically
from cascadebert.environment import machine, versions
from cascadebert.inference.cascade import Cascade
from cascadebert.inference.stage import Stage
from cascadebert.inference.trial import trial_texts
from cascadebert.timing import interleaved

BUDGETS = (512, 1024, 2048, 4096, 8192)
BATCHES_PER_STREAM = 2
TEXT_LENGTH = 32
MIN_SPEEDUP = 1.03
REPEATS = 2


def with_tuned_batch_sizes(cascade: Cascade, *, measure: bool) -> Cascade:
    """The cascade with each stage's best batch size on this machine; its predictions do not depend on it.

    Earlier measurements are read from `cascadebert/batch-tokens.json` in the user's cache folder
    (`XDG_CACHE_HOME`, or `~/.cache`), by machine, engine, versions and size of the stage. `measure` times
    the other stages (a second for a small one, a minute for a large one) and stores the result.
    """
    known = _read_cache()
    sizes = dict(known)
    stages = []
    for stage in cascade.stages:
        key = _cache_key(stage)
        if measure and key not in sizes:
            sizes[key] = _measure_best(stage)
        stages.append(replace(stage, batch_tokens=sizes.get(key, stage.batch_tokens)))
    if sizes != known:
        # if the folder cannot be written, all that is lost is the time to measure again
        with contextlib.suppress(OSError, RuntimeError):
            _cache_file().parent.mkdir(parents=True, exist_ok=True)
            write_text_atomically(_cache_file(), json.dumps(sizes, indent=1))
    return replace(cascade, stages=tuple(stages))


def _measure_best(stage: Stage) -> int:
    # going up, the last budget that is 3 % faster than the one before
    best, best_rate = 0, 0.0
    length = min(TEXT_LENGTH, stage.tokenizer.max_length)
    for budget in BUDGETS:
        count = BATCHES_PER_STREAM * stage.engine.streams * budget // length
        texts = trial_texts(stage.tokenizer, count, length)
        run = partial(replace(stage, batch_tokens=budget).logits, texts)
        rate = count / min(interleaved([run], repeats=REPEATS)[0])
        if rate < MIN_SPEEDUP * best_rate:
            break
        best, best_rate = budget, rate
    return best


def _cache_key(stage: Stage) -> str:
    engine = stage.engine
    parts = [machine(), versions(), engine.name, engine.precision, engine.device, engine.streams]
    parts += [stage.layers, stage.hidden, stage.num_labels, stage.flops and asdict(stage.flops)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _cache_file() -> Path:
    # raises RuntimeError if there is no home folder
    folder = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(folder).expanduser() / "cascadebert" / "batch-tokens.json"


def _read_cache() -> dict[str, int]:
    try:
        sizes = json.loads(_cache_file().read_text("utf-8"))
    except (OSError, ValueError, RuntimeError):
        return {}
    return {key: size for key, size in sizes.items() if size in BUDGETS} if isinstance(sizes, dict) else {}
