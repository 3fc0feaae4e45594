"""Choice of stages, score and thresholds as one, on cached outputs of every candidate: no model is run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations, product

import numpy as np

from cascadebert.errors import CascadeError
from cascadebert.thresholds.confidence import Score
from cascadebert.thresholds.deferral_score import score_outputs
from cascadebert.thresholds.operating_point import Target
from cascadebert.thresholds.select import (
    InfeasibleTarget,
    ParetoFront,
    ThresholdSelection,
    TuningArrays,
    exit_stages,
    pareto_front,
    select_on_front,
    speedup,
)
from cascadebert.types import Floats, Ints, ScoreName

FOLDS = 10
LEVELS = (0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.985, 0.99, 0.9925, 0.995, 0.9975, 1.0)  # of agreement


@dataclass(frozen=True)
class CandidateStages:
    """Outputs and costs of every stage that may be part of a cascade, for the same n examples.

    The last one ends every cascade, and the others stand before it in their order. Raises CascadeError if
    shapes differ.
    """

    probabilities: Floats  # (num_stages, n, num_labels), scaled
    model_costs: Floats  # (num_stages, n) of the models alone
    tokenizing_costs: Floats  # (num_stages, n) of each stage's tokenizer
    tokenizers: tuple[str, ...]  # (num_stages,) equal for stages that share their tokens
    labels: Ints | None = None  # (n,) label ids, where known

    def __post_init__(self) -> None:
        shape = self.probabilities.shape[:2]
        others = self.model_costs.shape, self.tokenizing_costs.shape, (len(self.tokenizers), shape[1])
        labels = () if self.labels is None else ((shape[0], len(self.labels)),)
        if set(others) | set(labels) != {shape}:
            raise CascadeError(f"candidates of shape {shape} with costs and labels of {sorted(set(others))}")

    @property
    def n(self) -> int:
        """Number of examples."""
        return int(self.probabilities.shape[1])

    @property
    def last_stage_cost(self) -> float:
        """Mean cost of an example when the last stage runs alone, tokenization included."""
        return float((self.model_costs[-1] + self.tokenizing_costs[-1]).mean())

    def chains(self, max_stages: int) -> list[tuple[int, ...]]:
        """Every cascade of two to `max_stages` stages, by their indices."""
        last = len(self.probabilities) - 1
        counts = range(1, min(max_stages, last + 1))
        return [(*chosen, last) for count in counts for chosen in combinations(range(last), count)]

    def costs(self, chain: Sequence[int], examples: Ints) -> Floats:
        """(stages of the chain, n) costs; the first stage with a tokenizer pays for it."""
        costs = self.model_costs[np.ix_(np.asarray(chain), examples)]
        for i, stage in enumerate(chain):
            if self.tokenizers[stage] not in [self.tokenizers[other] for other in chain[:i]]:
                costs[i] += self.tokenizing_costs[stage, examples]
        return np.asarray(costs)


@dataclass(frozen=True)
class StageChoice:
    """A cascade, and its metrics on the examples that it was chosen on."""

    stages: tuple[int, ...]  # indices among the candidates
    score: Score
    selection: ThresholdSelection  # its losses are disagreement with the last stage


@dataclass(frozen=True)
class HeldOutMetrics:
    """Metrics of the whole choice on examples that it was not made on, by cross-validation."""

    agreement: float  # fraction of the predictions that equal the last stage's
    agreement_error: float  # standard error
    accuracy: float | None  # None without labels
    accuracy_drop: float | None  # below the last stage's
    drop_error: float | None  # standard error
    speedup: float  # mean over folds


@dataclass(frozen=True)
class CrossValidatedChoice:
    """The fastest cascade that meets a target on held-out examples."""

    choice: StageChoice
    tried: tuple[StageChoice, ...]  # the best of every chain and score, at the same level
    level: float | None  # of agreement that was asked for; None for a speed-up
    held_out: HeldOutMetrics
    meets_target: bool  # on held-out examples


def choose_stages(
    candidates: CandidateStages,
    target: Target,
    *,
    max_stages: int = 3,
    chains: Sequence[tuple[int, ...]] | None = None,
    scores: Sequence[ScoreName] = ("max_probability",),
) -> CrossValidatedChoice:
    """Choose stages, score and thresholds that meet a target on held-out examples, at the least cost.

    The best of many cascades is optimistically biased on the examples that it was chosen on. So agreement
    with the last stage is asked for at rising levels, until the whole choice, made on nine tenths of the
    examples, meets the target on the other tenth (ten-fold). So new examples are about as likely to fall
    short of the target as to exceed it: a certificate is what makes sure. For a speed-up there is one level:
    the cascade of the least disagreement that reaches it. `chains` limits the choice to these cascades; by
    default all of up to `max_stages` stages are considered.

    Raises CascadeError if there is no other stage or an accuracy target comes without labels, and
    InfeasibleTarget if no cascade reaches a speed-up.
    """
    if len(candidates.tokenizers) < 2:
        raise CascadeError("a choice needs at least one stage beside the last")
    if target.name in ("max_accuracy_drop", "min_accuracy") and candidates.labels is None:
        raise CascadeError(f"{target.option} needs labels. Give labels, or {Target(min_agreement=1).option}.")
    levels: tuple[float | None, ...] = (None,) if target.name == "speedup" else LEVELS
    if target.name == "min_agreement":
        levels = (target.value, *(level for level in LEVELS if level > target.value))
    search = partial(_search, candidates, chains or candidates.chains(max_stages), scores)
    n = candidates.n
    folds = np.array_split(np.random.default_rng(0).permutation(n), min(FOLDS, n))
    searched = [(fold, search(np.setdiff1d(np.arange(n), fold))) for fold in folds]
    for level in levels:
        asked = target if level is None else Target(min_agreement=level)
        held_out = _cross_validate(candidates, searched, asked)
        meets = _meets(held_out, target)
        if meets:
            break
    tried = _choices(search(np.arange(n)), asked)
    return CrossValidatedChoice(_best(tried, asked), tuple(tried), level, held_out, meets)


def fastest_choice(candidates: CandidateStages, target: Target, *, max_stages: int = 3) -> StageChoice:
    """The fastest cascade that meets a target on the examples themselves, by maximum probability.

    It is optimistic, and takes a fraction of the time of `choose_stages`. Raises InfeasibleTarget if no
    cascade reaches a speed-up.
    """
    chains = candidates.chains(max_stages)
    searched = _search(candidates, chains, ("max_probability",), np.arange(candidates.n))
    return _best(_choices(searched, target), target)


@dataclass(frozen=True)
class _Searched:
    """All that one chain with one score can reach on some examples."""

    stages: tuple[int, ...]
    score: Score
    arrays: TuningArrays
    front: ParetoFront


def _search(
    candidates: CandidateStages,
    chains: Sequence[tuple[int, ...]],
    scores: Sequence[ScoreName],
    examples: Ints,
) -> list[_Searched]:
    """The Pareto front of every chain with every score on these examples."""
    predictions = candidates.probabilities.argmax(axis=2)[:, examples]
    changed = (predictions != predictions[-1]).astype(np.float64)
    found = []
    for chain, name in product(chains, scores):
        scored = score_outputs(name, candidates.probabilities[np.ix_(np.asarray(chain), examples)])
        costs = candidates.costs(chain, examples)
        arrays = TuningArrays(scored.confidences, changed[list(chain)], costs, candidates.last_stage_cost)
        found.append(_Searched(chain, scored.score, arrays, pareto_front(arrays)))
    return found


def _choices(searched: Sequence[_Searched], target: Target) -> list[StageChoice]:
    """The best thresholds of every chain and score. Raises InfeasibleTarget if none meets the target."""
    found, missed = list[StageChoice](), list[InfeasibleTarget]()
    for one in searched:
        try:
            found.append(StageChoice(one.stages, one.score, select_on_front(one.arrays, one.front, target)))
        except InfeasibleTarget as error:
            missed.append(error)
    if not found:
        raise max(missed, key=lambda error: error.nearest.speedup)
    return found


def _best(choices: Sequence[StageChoice], target: Target) -> StageChoice:
    """The choice of least disagreement for a speed-up, otherwise the fastest; of equals the shortest."""
    if target.name == "speedup":
        return min(choices, key=lambda choice: (choice.selection.loss, len(choice.stages)))
    return max(choices, key=lambda choice: (choice.selection.speedup, -len(choice.stages)))


def _cross_validate(
    candidates: CandidateStages, searched: Sequence[tuple[Ints, Sequence[_Searched]]], target: Target
) -> HeldOutMetrics:
    """Metrics of the best choice on each fold of the examples, made on the others."""
    n, speedups = candidates.n, []
    predictions = candidates.probabilities.argmax(axis=2)
    answers = np.empty(n, dtype=np.int64)
    for fold, of_rest in searched:
        choice = _best(_choices(of_rest, target), target)
        chain = np.array(choice.stages)
        confidences = choice.score.all_stages(candidates.probabilities[np.ix_(chain, fold)])
        exits = exit_stages(confidences, choice.selection.thresholds)
        answers[fold] = predictions[chain[exits], fold]
        costs = candidates.costs(choice.stages, fold)
        speedups.append(speedup(exits, costs, candidates.last_stage_cost))
    agrees = (answers == predictions[-1]).astype(np.float64)
    agreement, error = _mean(agrees)
    speed, labels = float(np.mean(speedups)), candidates.labels
    if labels is None:
        return HeldOutMetrics(agreement, error, None, None, None, speed)
    drop, drop_error = _mean((predictions[-1] == labels).astype(np.float64) - (answers == labels))
    return HeldOutMetrics(agreement, error, float((answers == labels).mean()), drop, drop_error, speed)


def _mean(values: Floats) -> tuple[float, float]:
    """The mean and its standard error."""
    return float(values.mean()), float(values.std() / np.sqrt(len(values)))


def _meets(metrics: HeldOutMetrics, target: Target) -> bool:
    values = {
        "speedup": metrics.speedup,
        "min_agreement": metrics.agreement,
        "min_accuracy": metrics.accuracy,
        "max_accuracy_drop": None if metrics.accuracy_drop is None else -metrics.accuracy_drop,
    }
    value, limit = values[target.name], target.value
    limit = -limit if target.name == "max_accuracy_drop" else limit
    return value is not None and value >= limit - 1e-12
