"""Which confidence score to compare with thresholds, and how the learned one is learned. Pure: arrays in."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cascadebert.errors import extra
from cascadebert.thresholds.confidence import SCORES, Score, deferral_features
from cascadebert.thresholds.select import exit_stages, pareto_front
from cascadebert.types import Floats, Ints, ScoreName

FOLDS = 5
BUDGETS = 20
SEED = 0
SURE = 1.96


@dataclass(frozen=True)
class ScoredOutputs:
    """A score, and the confidences that thresholds are picked on.

    Attributes:
        score: to be used on new rows.
        confidences: (num_stages, n) on the rows at hand; a learned score's come, row by row, from a model
            that has not seen the row.
        notices: how it was chosen, one sentence each.
    """

    score: Score
    confidences: Floats
    notices: tuple[str, ...] = ()


def score_outputs(name: ScoreName, probabilities: Floats) -> ScoredOutputs:
    """A score by its name; a learned one is fitted to these rows.

    Learned deferral: per stage a logistic regression on `deferral_features` of the stages so far tells the chance that
    the last stage would give the same answer (a post-hoc deferral rule in the sense of Jitkrittum et al.
    2023, "When Does Confidence-Based Cascade Deferral Suffice?"). No labels are needed.

    Args:
        name: which.
        probabilities: (num_stages, n, num_labels) on tune rows.
    """
    plain = Score(name)
    if name != "learned":
        return ScoredOutputs(plain, plain.all_stages(probabilities))
    answers = probabilities.argmax(axis=2)
    confidences, weights, stuck = plain.all_stages(probabilities), [], []
    for stage in range(len(probabilities) - 1):
        columns = deferral_features(list(probabilities[: stage + 1]))
        same = answers[stage] == answers[-1]
        weights.append(_fitted(columns, same))
        for fold in _folds(len(same)):
            rest = np.setdiff1d(np.arange(len(same)), fold)
            constant, *others = _fitted(columns[rest], same[rest])
            confidences[stage, fold] = 1 / (1 + np.exp(-(constant + columns[fold] @ np.array(others))))
        if same.all() or not same.any():
            stuck.append(
                f"stage {stage + 1} agrees with the last on all or none of the {len(same):,} rows: there is "
                "nothing to learn, and its score is the same for every row"
            )
    return ScoredOutputs(replace(plain, weights=tuple(weights)), confidences, tuple(stuck))


def select_score(
    probabilities: Floats, losses: Floats, costs: Floats, *, last_stage_cost: float | None = None
) -> ScoredOutputs:
    """The score with the least loss over all budgets; max probability unless another is surely better.

    For each score, thresholds for 20 budgets between the first stage's cost and the last's are picked on four
    fifths of the rows and judged on the others; a row's loss is the mean over budgets: the area under the
    curve of loss against cost. A score must beat max probability by more than 1.96 standard errors of the
    paired difference over the rows.

    Args:
        probabilities: (num_stages, n, num_labels) on tune rows.
        losses: (num_stages, n) of the answers.
        costs: (num_stages, n) or (num_stages,).
        last_stage_cost: mean cost of a row at the last stage alone, where it is not its part of `costs`.
    """
    found = {name: score_outputs(name, probabilities) for name in SCORES}
    lost = {name: _row_losses(one.confidences, losses, costs, last_stage_cost) for name, one in found.items()}
    plain = lost["max_probability"]
    best = min(SCORES[1:], key=lambda name: lost[name].mean())
    gains = plain - lost[best]
    gain, error = float(gains.mean()), SURE * float(gains.std()) / np.sqrt(len(gains))
    surely = gain - error > 0
    said = (
        f"score: {best if surely else 'max_probability'}; the best of the others, {best}, gains "
        f"{100 * gain:+.2f} points ({100 * (gain - error):+.2f} to {100 * (gain + error):+.2f}), the mean "
        "over budgets, cross-validated"
    )
    chosen = found[best] if surely else found["max_probability"]
    return replace(chosen, notices=(*chosen.notices, said))


def _fitted(columns: Floats, same: np.ndarray) -> tuple[float, ...]:
    """Constant and weights of a logistic regression; a constant alone where all rows are alike."""
    if same.all() or not same.any():
        chance = (same.sum() + 1) / (len(same) + 2)
        return (float(np.log(chance / (1 - chance))), *[0.0] * columns.shape[1])
    with extra("tune"):
        from sklearn.linear_model import LogisticRegression
    middle, spread = columns.mean(axis=0), columns.std(axis=0) + 1e-9
    model = LogisticRegression(max_iter=1000).fit((columns - middle) / spread, same)
    weights = model.coef_[0] / spread
    constant = float(model.intercept_[0] - weights @ middle)
    return (constant, *(float(weight) for weight in weights))


def _folds(n: int) -> list[Ints]:
    return [np.asarray(part) for part in np.array_split(np.random.default_rng(SEED).permutation(n), FOLDS)]


def _row_losses(confidences: Floats, losses: Floats, costs: Floats, last_stage_cost: float | None) -> Floats:
    """(n,) mean loss over budgets, at thresholds picked without the row."""
    stages, n = confidences.shape
    costs = np.broadcast_to(costs[:, None], (stages, n)) if costs.ndim == 1 else costs
    whole = float(costs[-1].mean()) if last_stage_cost is None else last_stage_cost
    budgets = np.linspace(float(costs[0].mean()), whole, BUDGETS + 2)[1:-1]
    found = np.zeros(n)
    for fold in _folds(n):
        rest = np.setdiff1d(np.arange(n), fold)
        curve = pareto_front(confidences[:, rest], losses[:, rest], costs[:, rest], last_stage_cost=whole)
        for budget in budgets:
            place = min(int(np.searchsorted(curve.speedups, whole / budget)), len(curve.speedups) - 1)
            exits = exit_stages(confidences[:, fold], tuple(curve.thresholds[place].tolist()))
            found[fold] += losses[exits, fold] / BUDGETS
    return found
