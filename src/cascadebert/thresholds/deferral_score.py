"""Choice of the confidence score, and fitting of the learned one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cascadebert.errors import extra
from cascadebert.thresholds.confidence import SCORES, Score, deferral_features, sigmoid_of_linear
from cascadebert.thresholds.select import TuningArrays, exit_stages, pareto_front
from cascadebert.types import Bools, Floats, Ints, ScoreName

FOLDS = 5
BUDGETS = 20
SEED = 0
Z_95 = 1.96


@dataclass(frozen=True)
class ScoredOutputs:
    """A score, and the confidences on the tuning set for the threshold search."""

    score: Score
    confidences: Floats  # (num_stages, n); of a learned score by models that were not fitted to the example
    notices: tuple[str, ...] = ()


def score_outputs(name: ScoreName, probabilities: Floats) -> ScoredOutputs:
    """The named score of (num_stages, n, num_labels) probabilities; "learned" is fitted to them.

    Learned deferral: per stage, a logistic regression on `deferral_features` estimates the probability that
    the last stage has the same prediction (a post-hoc deferral rule in the sense of Jitkrittum et al. 2023,
    "When Does Confidence-Based Cascade Deferral Suffice?"). It needs no labels.
    """
    score = Score(name)
    confidences = score.all_stages(probabilities)
    if name != "learned":
        return ScoredOutputs(score, confidences)
    predictions = probabilities.argmax(axis=2)
    weights, notices = [], []
    for stage in range(len(probabilities) - 1):
        features = deferral_features(list(probabilities[: stage + 1]))
        agrees = predictions[stage] == predictions[-1]
        weights.append(_fit_logistic(features, agrees))
        for fold, rest in _folds(len(agrees)):
            of_rest = _fit_logistic(features[rest], agrees[rest])
            confidences[stage, fold] = sigmoid_of_linear(of_rest, features[fold])
        if agrees.all() or not agrees.any():
            notices.append(
                f"stage {stage + 1} agrees with the last stage on all or none of the {len(agrees):,} "
                "examples: there is nothing to learn, and its score is the same for every text"
            )
    return ScoredOutputs(replace(score, weights=tuple(weights)), confidences, tuple(notices))


def select_score(
    probabilities: Floats, losses: Floats, costs: Floats, *, last_stage_cost: float | None = None
) -> ScoredOutputs:
    """The score of lowest loss over all budgets; max probability unless another is significantly better.

    For each score, thresholds for 20 budgets between the cost of the first stage and that of the last are
    selected on four fifths of the examples and evaluated on the others. The loss of an example is its mean
    over budgets, the area under the curve of loss against cost. A score replaces max probability if it is
    better by more than 1.96 standard errors of the paired difference over the examples.

    `probabilities` are (num_stages, n, num_labels) on the tuning set; see `select_thresholds` for the rest.
    """
    scored = {name: score_outputs(name, probabilities) for name in SCORES}
    mean_losses = {
        name: _loss_over_budgets(TuningArrays(outputs.confidences, losses, costs, last_stage_cost))
        for name, outputs in scored.items()
    }
    best = min(SCORES[1:], key=lambda name: mean_losses[name].mean())
    gains = mean_losses["max_probability"] - mean_losses[best]
    gain, error = float(gains.mean()), Z_95 * float(gains.std()) / np.sqrt(len(gains))
    selected = best if gain - error > 0 else "max_probability"
    notice = (
        f"score: {selected}; the best of the others, {best}, gains {100 * gain:+.2f} points "
        f"({100 * (gain - error):+.2f} to {100 * (gain + error):+.2f}), mean over budgets, cross-validated"
    )
    return replace(scored[selected], notices=(*scored[selected].notices, notice))


def _fit_logistic(features: Floats, agrees: Bools) -> tuple[float, ...]:
    """Constant and weights of a logistic regression; only a constant where all examples have one class."""
    if agrees.all() or not agrees.any():
        chance = (agrees.sum() + 1) / (len(agrees) + 2)
        return (float(np.log(chance / (1 - chance))), *[0.0] * features.shape[1])
    with extra("tune"):
        from sklearn.linear_model import LogisticRegression
    mean, spread = features.mean(axis=0), features.std(axis=0) + 1e-9
    model = LogisticRegression(max_iter=1000).fit((features - mean) / spread, agrees)
    weights = model.coef_[0] / spread
    constant = float(model.intercept_[0] - weights @ mean)
    return (constant, *(float(weight) for weight in weights))


def _folds(n: int) -> list[tuple[Ints, Ints]]:
    """Indices of each fold and of the rest."""
    folds = np.array_split(np.random.default_rng(SEED).permutation(n), FOLDS)
    return [(fold, np.setdiff1d(np.arange(n), fold)) for fold in folds]


def _loss_over_budgets(arrays: TuningArrays) -> Floats:
    """(n,) mean loss over budgets, at thresholds selected without the example."""
    n, highest = arrays.losses.shape[1], arrays.mean_last_stage_cost
    budgets = np.linspace(float(arrays.costs[0].mean()), highest, BUDGETS + 2)[1:-1]
    mean_loss = np.zeros(n)
    for fold, rest in _folds(n):
        front = pareto_front(replace(arrays.take(rest), last_stage_cost=highest))
        indices = np.searchsorted(front.speedups, highest / budgets).clip(max=len(front.speedups) - 1)
        for thresholds in front.thresholds[indices]:
            exits = exit_stages(arrays.confidences[:, fold], tuple(thresholds.tolist()))
            mean_loss[fold] += arrays.losses[exits, fold] / BUDGETS
    return mean_loss
