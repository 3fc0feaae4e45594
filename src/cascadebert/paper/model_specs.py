"""Models that the experiment trains, and their names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cascadebert.paper.protocol import EARLY_EXITS, LARGE, ExperimentProtocol, ObjectiveName


@dataclass(frozen=True)
class ModelSpec:
    """One model of a task and seed."""

    method: str  # its name
    kind: Literal["large", "truncated", "exits", "small"]
    source: str  # name of the pretrained encoder
    objective: ObjectiveName = "plain"  # of a small model
    layers: int = 0  # of a truncated model

    @property
    def timed_as(self) -> str:
        """Name in the timings: the objective of a small model does not change how long it runs."""
        return self.source if self.kind == "small" else self.method


def model_specs(protocol: ExperimentProtocol) -> list[ModelSpec]:
    """All models; those that others start or learn from come first."""
    specs = [large_spec(protocol)]
    specs += [ModelSpec(truncated_name(k), "truncated", protocol.large, layers=k) for k in protocol.truncated]
    specs += [ModelSpec(name, "exits", protocol.large) for name in EARLY_EXITS]
    specs += [small_spec(small, objective) for small in protocol.small for objective in protocol.objectives]
    return specs + [small_spec(small, "plain") for small in protocol.complete]


def large_spec(protocol: ExperimentProtocol) -> ModelSpec:
    """The large model."""
    return ModelSpec(LARGE, "large", protocol.large)


def small_spec(encoder: str, objective: ObjectiveName) -> ModelSpec:
    """A complete small model trained with an objective."""
    return ModelSpec(small_name(encoder, objective), "small", encoder, objective)


def truncated_name(layers: int) -> str:
    """Name of a truncated model, such as "truncated-2"."""
    return f"truncated-{layers}"


def small_name(encoder: str, objective: ObjectiveName) -> str:
    """Name of a small model trained with an objective, such as "1x384-dar"."""
    return f"{encoder}-{objective}"
