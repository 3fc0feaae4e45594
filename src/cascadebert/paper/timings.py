"""Stored timings of every model of a task: seconds fitted to wall-clock runs, and their checks."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cascadebert.atomic import write_text_atomically
from cascadebert.errors import DataError
from cascadebert.types import Floats, Ints, LinearLatency


@dataclass(frozen=True)
class TimingCheck:
    """Wall-clock speed-up of one method at one setting, run on the whole test set."""

    method: str
    setting: tuple[float, ...]
    modelled: float  # speed-up by the fitted seconds on the same texts
    measured: float  # median over repeats; the large model is timed in turn with the method
    low: float  # minimum over repeats
    high: float  # maximum over repeats


@dataclass(frozen=True)
class Timings:
    """Seconds of a text in one task on one machine, without tokenization."""

    seconds: dict[str, tuple[LinearLatency, ...]]  # by `ModelSpec.timed_as`; of a text that takes each exit
    checks: tuple[TimingCheck, ...]
    rows: int  # test texts that the seconds were fitted to
    repeats: int
    where: dict[str, Any]  # machine, engine, versions, data and models

    def cost_of(self, name: str, lengths: Ints) -> Floats:
        """(m, n) seconds of texts of (n,) padded lengths, by exit. Raises DataError if none are stored."""
        if name not in self.seconds:
            raise DataError(f"no seconds of {name}; there are those of {', '.join(self.seconds)}")
        return np.stack([latency.cost_of(lengths) for latency in self.seconds[name]])

    def correction(self, method: str) -> float:
        """Factor of the seconds of a complete method: the median of modelled over measured speed-up.

        Part-filled batches and the work between exits or stages are not in the seconds of any model. Cascades
        of the same stages share one factor, whatever their objective; a method without a check has 1.
        """
        cascade = method.rpartition("-")[0]
        checks = [
            check
            for check in self.checks
            if check.method == method or (cascade and check.method.rpartition("-")[0] == cascade)
        ]
        return float(np.median([check.modelled / check.measured for check in checks])) if checks else 1.0

    def save(self, path: Path) -> None:
        """Write JSON atomically."""
        write_text_atomically(path, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Timings:
        """Read a saved file. Raises DataError if it cannot be read."""
        try:
            stored = json.loads(path.read_text("utf-8"))
            for name, latencies in stored["seconds"].items():
                stored["seconds"][name] = tuple(LinearLatency(**values) for values in latencies)
            checks = [{**check, "setting": tuple(check["setting"])} for check in stored["checks"]]
            return cls(**{**stored, "checks": tuple(TimingCheck(**check) for check in checks)})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: not readable as timings ({error})") from error
