"""How many tokens a batch should hold: found by measuring, once per machine and kind of stage."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np

from cascadebert.environment import machine, versions
from cascadebert.inference.batching import TokenizedTexts
from cascadebert.inference.cascade import Cascade
from cascadebert.inference.stage import Stage
from cascadebert.timing import interleaved
from cascadebert.types import Ints

BUDGETS = (512, 1024, 2048, 4096, 8192)
BATCHES_PER_STREAM = 2
LENGTH = 32
WORTH_IT = 1.03
REPEATS = 2


def with_tuned_batch_sizes(cascade: Cascade, *, measure: bool) -> Cascade:
    """The cascade with each stage's best batch size on this machine.

    What was measured before is read from `cascadebert/batch-tokens.json` in the user's cache folder
    (`XDG_CACHE_HOME`, or `~/.cache`); a stage is looked up by machine, engine, versions and size.

    Args:
        cascade: its answers do not depend on it.
        measure: time the stages that are not known yet (a second for a small one, a minute for a large one),
            and remember the outcome.
    """
    known = _read()
    stages, before = [], dict(known)
    for stage in cascade.stages:
        key = _key(stage)
        if measure and key not in known:
            known[key] = _best(stage)
        stages.append(replace(stage, batch_tokens=known.get(key, stage.batch_tokens)))
    if known != before:
        _write(known)
    return replace(cascade, stages=tuple(stages))


def _best(stage: Stage) -> int:
    """The last budget, going up, that was 3 % faster than the one before."""
    best, best_rate = 0, 0.0
    length = min(LENGTH, stage.tokenizer.max_length)
    for budget in BUDGETS:
        rows = _rows(BATCHES_PER_STREAM * stage.engine.streams * budget // length, length)
        run = partial(replace(stage, batch_tokens=budget).logits, rows)
        (seconds,) = interleaved([run], repeats=REPEATS)
        rate = len(rows) / min(seconds)
        if rate < WORTH_IT * best_rate:
            break
        best, best_rate = budget, rate
    return best


def _rows(count: int, length: int) -> TokenizedTexts:
    """Rows of equal tokens: which ones they are does not change the time."""
    starts: Ints = np.arange(count + 1, dtype=np.int64) * length
    return TokenizedTexts(
        np.ones(count * length, np.int32), np.zeros(count * length, np.int8), starts, pad_id=0
    )


def _key(stage: Stage) -> str:
    engine = stage.engine
    parts = [machine(), versions(), engine.name, engine.precision, engine.device, engine.streams]
    parts += [stage.layers, stage.hidden, stage.num_labels, stage.flops and asdict(stage.flops)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _file() -> Path:
    """Raises RuntimeError where there is no home."""
    folder = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(folder).expanduser() / "cascadebert" / "batch-tokens.json"


def _read() -> dict[str, int]:
    try:
        found = json.loads(_file().read_text("utf-8"))
    except (OSError, ValueError, RuntimeError):
        return {}
    return {k: v for k, v in found.items() if v in BUDGETS} if isinstance(found, dict) else {}


def _write(known: dict[str, int]) -> None:
    """Remember; where the folder cannot be written, measuring again is all that is lost."""
    try:
        file = _file()
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(known, indent=1), "utf-8")
        part.replace(file)
    except (OSError, RuntimeError):
        return
