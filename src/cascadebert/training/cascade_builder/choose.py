"""The choice among the candidates that were made, on the tuning set, and what is left to gain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cascadebert.atomic import atomic_file
from cascadebert.data.dataset import Examples
from cascadebert.evaluation.cost_model import LatencyModel, measure_latency
from cascadebert.evaluation.evaluate import scaled_probabilities
from cascadebert.inference.cascade import Cascade
from cascadebert.inference.stage import Stage
from cascadebert.thresholds.operating_point import OperatingPoint, Target
from cascadebert.thresholds.select import TuningArrays, pareto_front
from cascadebert.thresholds.stage_choice import (
    CandidateStages,
    CrossValidatedChoice,
    StageChoice,
    choose_stages,
    fastest_choice,
)
from cascadebert.training.cascade_builder.candidates import Candidate
from cascadebert.training.cascade_builder.result import ChosenCascade, TriedChain
from cascadebert.training.checkpoints import fingerprint
from cascadebert.training.stage_check import StageFiles
from cascadebert.tuning.tune import CachedOutputs, recalibrate
from cascadebert.types import Floats, Logits, ScoreName

SCORES: tuple[ScoreName, ...] = ("max_probability", "margin", "learned")
USUAL_AGREEMENT = 0.97  # that candidates are weighed at where the target is another quantity
TIMED_TEXTS = 192  # while candidates are made; the choice times more


@dataclass(frozen=True)
class Made:
    """A stage that is ready, with its outputs on the tuning set."""

    candidate: Candidate
    files: StageFiles
    stage: Stage  # with the classifier's order of labels
    logits: Logits  # (n, num_labels)


def tuning_logits(stage: Stage, tune: Examples, work: Path) -> Logits:
    """(n, num_labels) logits of a stage on the tuning set, kept in the work directory."""
    engine = stage.engine
    key = fingerprint(stage.path.name, stage.tokenizer.key, engine.name, engine.precision, tune.sha256())
    file = work / f"logits-{key}.npy"
    if not file.is_file():
        logits = stage.logits(stage.encode(tune.texts))
        with atomic_file(file) as temporary:
            np.save(temporary, logits)
    found: Logits = np.load(file, allow_pickle=False)
    return found


def time_stages(made: Sequence[Made], tune: Examples, *, texts: int | None = None) -> LatencyModel:
    """The latency of the stages, timed in turn on `texts` of the tuning set or on up to 1,024."""
    stages = tuple(one.stage for one in made)
    sample = np.linspace(0, len(tune) - 1, min(len(tune), texts or len(tune))).astype(np.int64)
    some = [tune.texts[i] for i in sample.tolist()]
    return measure_latency(stages, some, [stage.encode(some) for stage in stages])


def candidate_stages(made: Sequence[Made], tune: Examples, latency: LatencyModel) -> CandidateStages:
    """Outputs and costs of the stages on the tuning set, in their order, the classifier last."""
    stages = tuple(one.stage for one in made)
    cascade = Cascade(stages, (1.0,) * len(stages), OperatingPoint((1.0,) * (len(stages) - 1)))
    encoded = cascade.encode(tune.texts)
    labels = None if tune.labels is None else tune.label_ids(cascade.label_names)
    cached = CachedOutputs(np.stack([one.logits for one in made]), encoded, labels, latency)
    probabilities = scaled_probabilities(recalibrate(cascade, cached), cached.logits)
    return CandidateStages(probabilities, *latency.parts(encoded), latency.keys, labels)


def in_order(made: Sequence[Made], candidates: CandidateStages) -> tuple[list[Made], CandidateStages]:
    """The stages and their arrays from the fastest to the slowest, the classifier last."""
    seconds = (candidates.model_costs + candidates.tokenizing_costs).mean(axis=1)
    order = [*np.argsort(seconds[:-1], kind="stable").tolist(), len(made) - 1]
    return [made[i] for i in order], replace(
        candidates,
        probabilities=candidates.probabilities[order],
        model_costs=candidates.model_costs[order],
        tokenizing_costs=candidates.tokenizing_costs[order],
        tokenizers=tuple(candidates.tokenizers[i] for i in order),
    )


def level_of(target: Target) -> float:
    """The agreement with the classifier at which candidates are weighed before the choice."""
    return target.value if target.name == "min_agreement" else USUAL_AGREEMENT


def expected_seconds(candidates: CandidateStages, level: float, max_stages: int) -> float:
    """Seconds a text of the fastest cascade at a level of agreement, or of the classifier alone."""
    alone = candidates.last_stage_cost
    if len(candidates.tokenizers) < 2:
        return alone
    choice = fastest_choice(candidates, Target(min_agreement=level), max_stages=max_stages)
    return min(alone, alone / choice.selection.speedup)


def least_seconds(
    candidates: CandidateStages,
    model_seconds: Floats,
    level: float,
    max_stages: int,
    *,
    same_tokenizer: bool = True,
) -> float:
    """A lower bound of `expected_seconds` with a further candidate.

    It is the time of a cascade that ends in a stage with the classifier's predictions and the (n,) seconds of
    the candidate: the candidate cannot do better than predict as the classifier does. Unless it has the
    classifier's tokenizer, its tokens are taken to cost nothing.
    """
    costs, tokenizing = candidates.model_costs.copy(), candidates.tokenizing_costs.copy()
    costs[-1] = model_seconds
    tokenizing[-1] *= same_tokenizer
    further = replace(candidates, model_costs=costs, tokenizing_costs=tokenizing)
    return min(expected_seconds(candidates, level, max_stages), expected_seconds(further, level, max_stages))


def choose(
    made: Sequence[Made], candidates: CandidateStages, target: Target, chains: Sequence[tuple[int, ...]]
) -> ChosenCascade:
    """Choose one of the chains, score and thresholds as one; see `choose_stages`."""
    found = choose_stages(candidates, target, chains=chains, scores=SCORES)
    names = [one.candidate.name for one in made]

    def chain(choice: StageChoice) -> TriedChain:
        return TriedChain(
            stages=tuple(names[i] for i in choice.stages),
            score=choice.score.name,
            speedup=choice.selection.speedup,
            agreement=1 - choice.selection.loss,
            exit_rates=choice.selection.exit_rates,
        )

    best = chain(found.choice)
    return ChosenCascade(
        stages=best.stages,
        score=best.score,
        level=found.level,
        held_out=found.held_out,
        meets_target=found.meets_target,
        tried=tuple(sorted(map(chain, found.tried), key=lambda one: -one.speedup)),
        curve=_curve(candidates, found),
    )


def _curve(candidates: CandidateStages, found: CrossValidatedChoice) -> tuple[tuple[float, float], ...]:
    """Expected speed-up and agreement of all thresholds of the chosen stages that none other beats."""
    chain = np.array(found.choice.stages)
    probabilities = candidates.probabilities[chain]
    predictions = probabilities.argmax(axis=2)
    changed = (predictions != predictions[-1]).astype(np.float64)
    costs = candidates.costs(found.choice.stages, np.arange(candidates.n))
    confidences = found.choice.score.all_stages(probabilities)
    front = pareto_front(TuningArrays(confidences, changed, costs, candidates.last_stage_cost))
    return tuple(zip(front.speedups.tolist(), (1 - front.losses).tolist(), strict=True))
