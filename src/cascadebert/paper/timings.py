"""Seconds of every model of a task, as stored: fitted to the clock, and checked against it. Pure."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cascadebert.errors import DataError
from cascadebert.types import Floats, Ints, LinearLatency


@dataclass(frozen=True)
class TimingCheck:
    """One method at one setting, run by the clock on all test rows.

    Attributes:
        method: its name.
        setting: where it ran.
        modelled: speed-up by the fitted seconds, on the same rows.
        measured: median of the speed-ups measured, the large model timed in turn with it.
        low: the least of them.
        high: the greatest.
    """

    method: str
    setting: tuple[float, ...]
    modelled: float
    measured: float
    low: float
    high: float


@dataclass(frozen=True)
class Timings:
    """Seconds of a row in one task, on one machine, without tokenising.

    Attributes:
        seconds: by name of a model's shape, per exit: of a row that leaves there.
        checks: runs of whole methods beside what the seconds say of them.
        rows: how many test rows the seconds were fitted to.
        repeats: how often.
        where: machine, engine, versions, rows and models.
    """

    seconds: dict[str, tuple[LinearLatency, ...]]
    checks: tuple[TimingCheck, ...]
    rows: int
    repeats: int
    where: dict[str, Any]

    def of(self, name: str, lengths: Ints) -> Floats:
        """(m, n) seconds of rows of so many padded tokens, by the exit that they leave at.

        Raises:
            DataError: if models of the shape were not timed.
        """
        if name not in self.seconds:
            raise DataError(f"no seconds of {name}; there are those of {', '.join(self.seconds)}")
        return np.stack([one.cost_of(lengths) for one in self.seconds[name]])

    def correction(self, method: str) -> float:
        """Factor of the seconds of a whole method: the median of modelled over measured speed-up.

        Part-filled batches and the work between exits or stages are in no model's own seconds. Cascades of
        the same stages have one factor, however they were trained; a method that was not run has 1.
        """
        shape = method.rpartition("-")[0]
        same = [
            c for c in self.checks if c.method == method or (shape and c.method.rpartition("-")[0] == shape)
        ]
        return float(np.median([one.modelled / one.measured for one in same])) if same else 1.0

    def save(self, path: Path) -> None:
        """Write JSON, aside first."""
        aside = path.with_suffix(".part")
        aside.write_text(json.dumps(asdict(self), indent=1) + "\n", "utf-8")
        aside.replace(path)

    @classmethod
    def load(cls, path: Path) -> Timings:
        """Read what `save` wrote.

        Raises:
            DataError: if it cannot be read.
        """
        try:
            held = json.loads(path.read_text("utf-8"))
            seconds = {k: tuple(LinearLatency(**one) for one in v) for k, v in held["seconds"].items()}
            checks = tuple(TimingCheck(**{**one, "setting": tuple(one["setting"])}) for one in held["checks"])
            return cls(seconds, checks, held["rows"], held["repeats"], held["where"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: not readable as timings ({error})") from error
