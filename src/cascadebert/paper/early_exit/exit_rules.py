"""When a row may leave a model that can answer after any layer. Pure: arrays in, arrays out.

A rule sees only what the exits so far said of a row itself, so a row's exit does not depend on its
neighbours, and the same rule works on cached arrays and inside the running loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan
from typing import ClassVar, Protocol

import numpy as np

from cascadebert.errors import CascadeError
from cascadebert.paper.early_exit.exit_outputs import ExitOutputs
from cascadebert.types import Bools, Ints


class ExitRule(Protocol):
    """Decides after a layer which rows leave there; at the last layer all do, without being asked.

    Attributes:
        reads_lte: whether it looks at the learned chance of being wrong.
    """

    reads_lte: ClassVar[bool]

    def tried(self, exits: int) -> Bools:
        """(exits,) which exits' classifiers are computed for a row that comes that far."""
        ...

    def leaves(self, said: ExitOutputs, layer: int) -> Bools:
        """(n,) which rows leave.

        Args:
            said: by the exits tried so far; the newest is the last.
            layer: of the newest, counted from 1.
        """
        ...


@dataclass(frozen=True)
class EntropyThreshold:
    """Leave when the entropy is below a threshold (DeeBERT: Xin et al. 2020, section 3.2).

    Attributes:
        threshold: S, in nats; at 0 or less no row leaves early, above log(num_labels) all leave at once.

    >>> said = ExitOutputs.of(np.log([[[0.9, 0.1], [0.6, 0.4]]]))
    >>> EntropyThreshold(0.5).leaves(said, 1).tolist()
    [True, False]
    """

    threshold: float
    reads_lte: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _refuse_nan(self.threshold)

    def tried(self, exits: int) -> Bools:
        """All of them."""
        return np.ones(exits, dtype=np.bool_)

    def leaves(self, said: ExitOutputs, layer: int) -> Bools:
        """(n,) where the newest exit's entropy is below the threshold."""
        return np.asarray(said.entropies[-1] < self.threshold)


@dataclass(frozen=True)
class Patience:
    """Leave when the answer was the same `times` layers in a row (PABEE: Zhou et al. 2020).

    Attributes:
        times: t, how many consecutive times the answer must be that of the layer before; at least
            t + 1 layers run. At 0 all rows leave after the first layer.

    >>> said = ExitOutputs.of(np.log([[[0.9, 0.1], [0.9, 0.1]], [[0.6, 0.4], [0.4, 0.6]]]))
    >>> Patience(1).leaves(said, 2).tolist(), Patience(1).leaves(said.first(1), 1).tolist()
    ([True, False], [False, False])
    """

    times: int
    reads_lte: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.times < 0:
            raise CascadeError(f"patience is a number of layers from 0, not {self.times}")

    def tried(self, exits: int) -> Bools:
        """All of them."""
        return np.ones(exits, dtype=np.bool_)

    def leaves(self, said: ExitOutputs, layer: int) -> Bools:
        """(n,) where the newest t + 1 answers are one."""
        if said.exits <= self.times:
            return np.zeros(len(said), dtype=np.bool_)
        return np.asarray((said.answers[-self.times - 1 :] == said.answers[-1]).all(axis=0))


@dataclass(frozen=True)
class LearnedExitThreshold:
    """Leave when the learned chance of being wrong is below a threshold (BERxiT: Xin et al. 2021).

    The paper learns the chance of being right and asks for more than a threshold; this is that, turned round.

    Attributes:
        threshold: of u, in [0, 1].
    """

    threshold: float
    reads_lte: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _refuse_nan(self.threshold)

    def tried(self, exits: int) -> Bools:
        """All of them."""
        return np.ones(exits, dtype=np.bool_)

    def leaves(self, said: ExitOutputs, layer: int) -> Bools:
        """(n,) where the newest exit's u is below the threshold.

        Raises:
            CascadeError: if the model has not learned to exit.
        """
        if said.lte is None:
            raise CascadeError("this model has not learned when to exit; use EntropyBelow, or train BERxiT")
        return np.asarray(said.lte[-1] < self.threshold)


@dataclass(frozen=True)
class FixedLayer:
    """All rows leave after one layer; no other exit is computed. At the last, exits are switched off.

    Attributes:
        layer: counted from 1.
    """

    layer: int
    reads_lte: ClassVar[bool] = False

    def tried(self, exits: int) -> Bools:
        """This one alone.

        Raises:
            CascadeError: if the model has no such exit.
        """
        if not 1 <= self.layer <= exits:
            raise CascadeError(f"the model has exits 1 to {exits}, not {self.layer}")
        return np.asarray(np.arange(1, exits + 1) == self.layer)

    def leaves(self, said: ExitOutputs, layer: int) -> Bools:
        """(n,) all, at its layer."""
        return np.full(len(said), layer == self.layer)


def exit_layers(rule: ExitRule, said: ExitOutputs) -> Ints:
    """Where each row leaves, from what all exits said.

    Args:
        rule: the rule.
        said: by all exits of the model.

    Returns:
        (n,) layers, counted from 1.

    >>> said = ExitOutputs.of(np.log([[[0.9, 0.1], [0.6, 0.4]], [[0.5, 0.5], [0.5, 0.5]]]))
    >>> exit_layers(EntropyThreshold(0.5), said).tolist()
    [1, 2]
    """
    tried = rule.tried(said.exits)
    layers = np.full(len(said), said.exits, dtype=np.int64)
    staying = np.ones(len(said), dtype=np.bool_)
    for layer in np.flatnonzero(tried[:-1]) + 1:
        leaving = staying & rule.leaves(said.first(int(layer)), int(layer))
        layers[leaving] = layer
        staying &= ~leaving
    return layers


def _refuse_nan(threshold: float) -> None:
    if isnan(threshold):
        raise CascadeError("a threshold is a number, not NaN")
