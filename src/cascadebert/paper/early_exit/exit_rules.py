"""Exit rules of a model that can predict after any layer.

A rule sees only the outputs of the exits so far for a text itself, so the exit of a text does not depend on
the rest of its batch, and the same rule works on stored outputs and inside the running model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import isnan

import numpy as np

from cascadebert.errors import CascadeError
from cascadebert.paper.early_exit.exit_outputs import ExitOutputs
from cascadebert.types import Bools, Ints


class ExitRule(ABC):
    """Decides after a layer which texts exit there; at the last layer all of them do."""

    needs_lte = False

    def evaluated_exits(self, num_exits: int) -> Bools:
        """(num_exits,) True for exits whose classifiers are computed for a text that reaches them."""
        return np.ones(num_exits, dtype=np.bool_)

    @abstractmethod
    def should_exit(self, outputs: ExitOutputs, layer: int) -> Bools:
        """(n,) True for texts that exit after `layer`, counted from 1; its outputs are the last."""


@dataclass(frozen=True)
class _ThresholdRule(ExitRule):
    threshold: float

    def __post_init__(self) -> None:
        if isnan(self.threshold):
            raise CascadeError("a threshold is a number, not NaN")


@dataclass(frozen=True)
class EntropyThreshold(_ThresholdRule):
    """Exit when the entropy is below a threshold S in nats (DeeBERT: Xin et al. 2020, section 3.2).

    At 0 or less no text exits early, above log(num_labels) all exit at once.

    >>> outputs = ExitOutputs.from_logits(np.log([[[0.9, 0.1], [0.6, 0.4]]]))
    >>> EntropyThreshold(0.5).should_exit(outputs, 1).tolist()
    [True, False]
    """

    def should_exit(self, outputs: ExitOutputs, layer: int) -> Bools:
        """(n,) True where the entropy of the newest exit is below the threshold."""
        return np.asarray(outputs.entropies[-1] < self.threshold)


@dataclass(frozen=True)
class LearnedExitThreshold(_ThresholdRule):
    """Exit when the learned probability u of an error is below a threshold (BERxiT: Xin et al. 2021).

    The paper learns the probability of being right, 1 - u, and requires more than a threshold.
    """

    needs_lte = True

    def should_exit(self, outputs: ExitOutputs, layer: int) -> Bools:
        """(n,) True where u of the newest exit is below the threshold.

        Raises CascadeError if the model has not learned to exit.
        """
        if outputs.lte is None:
            raise CascadeError(
                "this model has not learned when to exit; use EntropyThreshold, or train BERxiT"
            )
        return np.asarray(outputs.lte[-1] < self.threshold)


@dataclass(frozen=True)
class Patience(ExitRule):
    """Exit when the prediction has repeated `times` layers in a row (PABEE: Zhou et al. 2020).

    At least `times + 1` layers run; at 0 all texts exit after the first layer.

    >>> outputs = ExitOutputs.from_logits(np.log([[[0.9, 0.1], [0.9, 0.1]], [[0.6, 0.4], [0.4, 0.6]]]))
    >>> Patience(1).should_exit(outputs, 2).tolist(), Patience(1).should_exit(outputs.first(1), 1).tolist()
    ([True, False], [False, False])
    """

    times: int

    def __post_init__(self) -> None:
        if self.times < 0:
            raise CascadeError(f"patience is a number of layers from 0, not {self.times}")

    def should_exit(self, outputs: ExitOutputs, layer: int) -> Bools:
        """(n,) True where the newest `times + 1` predictions are equal."""
        if outputs.num_exits <= self.times:
            return np.zeros(len(outputs), dtype=np.bool_)
        newest = outputs.predictions[-self.times - 1 :]
        return np.asarray((newest == newest[-1]).all(axis=0))


@dataclass(frozen=True)
class FixedLayer(ExitRule):
    """All texts exit after one layer, counted from 1; no other exit is computed.

    At the last layer this switches early exit off.
    """

    layer: int

    def evaluated_exits(self, num_exits: int) -> Bools:
        """(num_exits,) True at the layer. Raises CascadeError if the model has no such exit."""
        if not 1 <= self.layer <= num_exits:
            raise CascadeError(f"the model has exits 1 to {num_exits}, not {self.layer}")
        return np.asarray(np.arange(1, num_exits + 1) == self.layer)

    def should_exit(self, outputs: ExitOutputs, layer: int) -> Bools:
        """(n,) True at the layer."""
        return np.full(len(outputs), layer == self.layer)


def exit_layers(rule: ExitRule, outputs: ExitOutputs) -> Ints:
    """(n,) layer after which each text exits, counted from 1, from the outputs of all exits of the model.

    >>> outputs = ExitOutputs.from_logits(np.log([[[0.9, 0.1], [0.6, 0.4]], [[0.5, 0.5], [0.5, 0.5]]]))
    >>> exit_layers(EntropyThreshold(0.5), outputs).tolist()
    [1, 2]
    """
    layers = np.full(len(outputs), outputs.num_exits, dtype=np.int64)
    active = np.ones(len(outputs), dtype=np.bool_)
    for layer in (np.flatnonzero(rule.evaluated_exits(outputs.num_exits)[:-1]) + 1).tolist():
        exiting = active & rule.should_exit(outputs.first(layer), layer)
        layers[exiting] = layer
        active &= ~exiting
    return layers
