"""Which models the experiment trains, and where their arrays lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cascadebert.paper.protocol import EARLY_EXITS, LARGE, ExperimentProtocol, Objective

Kind = Literal["large", "truncated", "exits", "small"]


@dataclass(frozen=True)
class ModelSpec:
    """One model of a task and seed.

    Attributes:
        method: its name.
        kind: how it is trained.
        source: name of the encoder that it starts from.
        objective: of a small one.
        layers: of one cut short.
    """

    method: str
    kind: Kind
    source: str
    objective: Objective = "plain"
    layers: int = 0

    @property
    def timed_as(self) -> str:
        """Name of its shape: how a small model was trained does not change how long it runs."""
        return self.source if self.kind == "small" else self.method


def model_specs(protocol: ExperimentProtocol) -> list[ModelSpec]:
    """All models, those first that others start or learn from."""
    found = [ModelSpec(LARGE, "large", protocol.large)]
    found += [ModelSpec(truncated(k), "truncated", protocol.large, layers=k) for k in protocol.truncated]
    found += [ModelSpec(name, "exits", protocol.large) for name in EARLY_EXITS]
    for small in protocol.small:
        found += [ModelSpec(stage(small, one), "small", small, one) for one in protocol.objectives]
    return found + [ModelSpec(stage(name, "plain"), "small", name) for name in protocol.complete]


def truncated(layers: int) -> str:
    """Name of a model cut short."""
    return f"truncated-{layers}"


def stage(model: str, objective: Objective) -> str:
    """Name of a small model trained in one way."""
    return f"{model}-{objective}"


@dataclass(frozen=True)
class ResultStore:
    """Where results lie.

    Attributes:
        output: folder of the result files.
        name: of the set of arrays.
    """

    output: Path
    name: str

    def arrays(self, task: str, seed: int, method: str) -> Path:
        """File of one model's arrays."""
        return self.output / "arrays" / self.name / f"{task}-{seed}-{method}.npz"

    def timings(self, task: str) -> Path:
        """File of a task's seconds."""
        return self.output / "timings" / self.name / f"{task}.json"

    @property
    def protocol(self) -> Path:
        """File of what was asked for."""
        return self.output / "protocol.json"

    def make_folders(self) -> None:
        """Make what is missing."""
        for kind in ("arrays", "timings"):
            (self.output / kind / self.name).mkdir(parents=True, exist_ok=True)
        (self.output / "pictures").mkdir(exist_ok=True)
