"""What holds on new data, with a stated confidence. Pure: losses on rows kept for it in, bounds out.

A promise is that a risk (a mean loss) is at most a level. Operating points are ordered beforehand, safest
first, on other rows; on the rows kept for it each is tested in turn at the whole of delta until one fails
(fixed-sequence testing in Learn-then-Test, Angelopoulos et al. 2021, arXiv 2110.01052, section 2.4). With
probability 1 - delta every accepted point keeps the promise, whatever the data's distribution, if rows are
independent draws from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cascadebert.errors import CascadeError, extra
from cascadebert.thresholds.certificate import Guarantee
from cascadebert.thresholds.select import ParetoFront, exit_stages, pareto_front
from cascadebert.types import Floats, Ints

ORDER_SEED = 0
MOST_POINTS = 100
TIE = 1e-6
MOST_ROWS = 1_000_000


@dataclass(frozen=True)
class StageOutputs:
    """What every stage says of every row, before any threshold.

    Attributes:
        confidences: (num_stages, n) in [0, 1].
        labels: (num_stages, n) ids of the answers.
        truth: (n,) label ids, or None where they are not known.
        names: the label of each id.

    Raises:
        CascadeError: if there is no row, shapes differ, or a confidence is not finite.
    """

    confidences: Floats
    labels: Ints
    truth: Ints | None
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        shape = self.confidences.shape
        if len(shape) != 2 or not shape[1] or self.labels.shape != shape:
            raise CascadeError(
                f"confidences and labels must both have shape (num_stages, n) with n of at least 1, not "
                f"{shape} and {self.labels.shape}"
            )
        if not np.isfinite(self.confidences).all():
            stage, row = np.argwhere(~np.isfinite(self.confidences))[0]
            bad = self.confidences[stage, row]
            raise CascadeError(
                f"confidences of stage {stage + 1}, row {row + 1}: {bad} is not a finite number"
            )


@dataclass(frozen=True)
class CertificationResult:
    """What the certify rows said of a path.

    Attributes:
        accepted: points of the path, from its start, at which every promise holds.
        rows: per promise, the rows it speaks of at the last accepted point (or the first, if none is).
        bounds: per promise, the bound of its mean loss there, by itself, at its share of delta.
    """

    accepted: int
    rows: tuple[int, ...]
    bounds: tuple[float, ...]


def stage_losses(answers: StageOutputs, guarantee: Guarantee) -> Floats:
    """(num_stages, n) loss of each stage's answer, whose mean over the rows as answered is the risk.

    For the accuracy of early exits the last stage's answers count as no loss; for a label's misses rows of
    other labels do.

    Raises:
        CascadeError: if the promise speaks of labels that are not given, or not known.
    """
    if guarantee.name == "min_agreement":
        return np.asarray(answers.labels != answers.labels[-1], dtype=np.float64)
    if answers.truth is None:
        raise CascadeError(
            f"{guarantee.words} needs labels. Give labelled rows; agreement with the last stage needs none."
        )
    wrong = np.asarray(answers.labels != answers.truth, dtype=np.float64)
    if guarantee.name == "max_accuracy_drop":
        return np.asarray(wrong - wrong[-1])
    if guarantee.name == "min_early_exit_accuracy":
        wrong[-1] = 0.0
    if guarantee.name == "max_false_negative_rate":
        wrong[:, answers.truth != _label_id(answers, guarantee)] = 0.0
    return wrong


def point_losses(answers: StageOutputs, guarantee: Guarantee, thresholds: Sequence[float]) -> Floats:
    """(m,) losses at one operating point of the m rows that the promise speaks of.

    All rows, but for early exits the rows that leave early, and for a label's misses that label's rows.
    """
    exits = exit_stages(answers.confidences, tuple(thresholds))
    losses = stage_losses(answers, guarantee)[exits, np.arange(len(exits))]
    if guarantee.name == "min_early_exit_accuracy":
        return np.asarray(losses[exits < len(answers.labels) - 1])
    if guarantee.name == "max_false_negative_rate":
        return np.asarray(losses[answers.truth == _label_id(answers, guarantee)])
    return np.asarray(losses)


def _label_id(answers: StageOutputs, guarantee: Guarantee) -> int:
    if guarantee.label not in answers.names:
        raise CascadeError(
            f"{guarantee.words}: there is no such label. Labels: {', '.join(answers.names[:20])}"
        )
    return answers.names.index(guarantee.label)


def operating_path(
    answers: StageOutputs,
    guarantees: Sequence[Guarantee],
    costs: Floats,
    delta: float,
    *,
    last_stage_cost: float | None = None,
) -> ParetoFront:
    """The operating points to test, safest first, from tune rows alone.

    The best trades of cost against the promises' losses, each in units of what it allows. Losses are
    smoothed beforehand: per stage an isotonic regression on its confidence, so that points do not look safe
    by the luck of few rows, and rows without any loss are still told apart. At most 100 points, evenly spaced
    in cost, that let some row leave early; it starts where the tune rows speak most clearly for all promises.

    Args:
        answers: on the tune rows.
        promises: what is to hold.
        costs: (num_stages, n) or (num_stages,).
        delta: of the test to come.
        last_stage_cost: mean cost of a row at the last stage alone, where it is not its part of `costs`.

    Raises:
        CascadeError: if no thresholds let a row leave early.
    """
    losses = np.zeros(answers.confidences.shape)
    for guarantee in guarantees:
        found = stage_losses(answers, guarantee)
        for stage, sure in enumerate(answers.confidences[:-1]):
            losses[stage] += _smoothed(sure, found[stage]) / guarantee.risk
        losses[-1] += found[-1] / guarantee.risk
    curve = pareto_front(answers.confidences, losses, costs, last_stage_cost=last_stage_cost)
    leaving = [bool((answers.confidences[:-1] > point[:, None]).any()) for point in curve.thresholds]
    places = np.flatnonzero(leaving)
    if not len(places):
        raise CascadeError("no thresholds let a row leave early")
    wanted = np.linspace(1 / curve.speedups[places[0]], 1 / curve.speedups[places[-1]], MOST_POINTS)
    places = places[np.unique(np.searchsorted(-1 / curve.speedups[places], -wanted).clip(0, len(places) - 1))]
    share = delta / len(guarantees)
    worst = [
        max(p_value(guarantee, point_losses(answers, guarantee, point), share) for guarantee in guarantees)
        for point in curve.thresholds[places]
    ]
    kept = places[int(np.argmin(worst)) :]
    return ParetoFront(curve.thresholds[kept], curve.speedups[kept], curve.losses[kept])


def _smoothed(confidences: Floats, losses: Floats) -> Floats:
    """Expected loss by confidence, falling; rows of like loss are told apart by a trifle."""
    with extra("tune"):
        from sklearn.isotonic import IsotonicRegression
    fitted = IsotonicRegression(increasing=False).fit_transform(confidences, losses)
    return np.asarray(fitted + TIE * (1 - confidences), dtype=np.float64)


def certify(
    answers: StageOutputs, path: Floats, guarantees: Sequence[Guarantee], *, delta: float
) -> CertificationResult:
    """Test a path on rows that had no say in it.

    Args:
        answers: on the certify rows.
        path: (points, num_stages - 1) thresholds from `operating_path`, frozen.
        promises: what is to hold; each is tested at an equal share of delta (Bonferroni).
        delta: the chance that any promise is broken at any accepted point.

    Returns:
        The points up to the first at which a test fails.
    """
    share = delta / len(guarantees)
    accepted = 0
    for point in path:
        if any(p_value(one, point_losses(answers, one, point), share) > share for one in guarantees):
            break
        accepted += 1
    last = path[max(accepted - 1, 0)]
    seen = [point_losses(answers, guarantee, last) for guarantee in guarantees]
    bounds = tuple(risk_bound(one, losses, share) for one, losses in zip(guarantees, seen, strict=True))
    return CertificationResult(accepted, tuple(len(losses) for losses in seen), bounds)


def p_value(guarantee: Guarantee, losses: Floats, delta: float) -> float:
    """Of "the promise is broken", from the (m,) losses of the rows it speaks of; 1 without rows."""
    if not len(losses):
        return 1.0
    if guarantee.name == "max_accuracy_drop":
        return float(betting_p_values(_shuffled(losses)[None], guarantee.risk, delta)[0])
    return float(binomial_p_values(losses.sum(), np.asarray(len(losses)), guarantee.risk))


def risk_bound(guarantee: Guarantee, losses: Floats, delta: float) -> float:
    """Upper bound of the mean loss at confidence 1 - delta; the most there is without rows."""
    if not len(losses):
        return 1.0
    if guarantee.name == "max_accuracy_drop":
        return betting_bound(_shuffled(losses), delta)
    return binomial_bound(int(losses.sum()), len(losses), delta)


def _shuffled(losses: Floats) -> Floats:
    """A file may be sorted; bets are placed in an order that has nothing to do with the rows."""
    return np.random.default_rng(ORDER_SEED).permutation(losses)


def binomial_p_values(errors: Ints | Floats, n: Ints, level: float) -> Floats:
    """Exact p-values of "the risk exceeds the level", for losses of 0 and 1.

    The chance of so few errors or fewer in n rows if each had the chance `level`: the tail of the binomial
    distribution, which no other test of these counts beats.

    Args:
        errors: (points,) rows with loss 1.
        n: (points,) rows.
        level: in (0, 1).

    >>> np.round(binomial_p_values(np.array([0, 5]), np.array([100, 100]), 0.05), 4).tolist()
    [0.0059, 0.616]
    """
    with extra("tune"):
        from scipy.stats import binom
    return np.asarray(binom.cdf(errors, n, level), dtype=np.float64)


def binomial_bound(errors: int, n: int, delta: float) -> float:
    """The least level that would be accepted: Clopper and Pearson's (1934) upper bound of a share.

    >>> round(binomial_bound(0, 100, 0.05), 4)
    0.0295
    """
    with extra("tune"):
        from scipy.stats import beta
    return 1.0 if errors >= n else float(beta.ppf(1 - delta, errors + 1, n - errors))


def betting_p_values(losses: Floats, level: float, delta: float) -> Floats:
    """p-values of "the mean exceeds the level", for losses in [-1, 1] such as paired differences.

    One bets against the claim, row by row, an amount that only depends on rows before; the capital grows
    beyond 1 / p with probability at most p if the claim is true (Ville). The amounts are the predictable
    plug-in of Waudby-Smith & Ramdas (2023, "Estimating means of bounded random variables by betting",
    section 3.1 and appendix B), which adapts to the variance: differences are mostly 0.

    Args:
        losses: (points, n) of the same rows in an order that has nothing to do with them.
        level: in (-1, 1).
        delta: the error for which the amounts are best.
    """
    shares, mean = (losses + 1) / 2, (level + 1) / 2
    n = shares.shape[1]
    count = np.arange(1, n + 1)
    means = (0.5 + np.cumsum(shares, axis=1)) / (count + 1)
    spread = (0.25 + np.cumsum((shares - means) ** 2, axis=1)) / (count + 1)
    before = np.concatenate([np.full((len(shares), 1), 0.25), spread[:, :-1]], axis=1)
    amounts = np.minimum(np.sqrt(2 * np.log(1 / delta) / (n * before)), 0.5 / (1 - mean))
    capital = np.cumsum(np.log1p(amounts * (mean - shares)), axis=1)
    return np.asarray(np.exp(-np.maximum(capital.max(axis=1), 0.0)))


def betting_bound(losses: Floats, delta: float) -> float:
    """The least level that would be accepted, to four digits, for one point's (n,) losses in [-1, 1]."""
    low, high = float(losses.mean()), 1.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        accepted = betting_p_values(losses[None], middle, delta)[0] <= delta
        low, high = (low, middle) if accepted else (middle, high)
    return high


def fixed_sequence(p_values: Floats, delta: float) -> int:
    """How many points from the start are accepted: those before the first whose p-value exceeds delta.

    >>> fixed_sequence(np.array([0.01, 0.04, 0.2, 0.01]), 0.05)
    2
    """
    failed = np.flatnonzero(p_values > delta)
    return int(failed[0]) if len(failed) else len(p_values)


def required_sample_size(guarantee: Guarantee, expected: float, delta: float) -> int | None:
    """Rows after which a promise is accepted if losses come at their expected rate, evenly spread.

    Args:
        promise: what is to hold.
        expected: the mean loss that is believed to be true.
        delta: of the promise.

    Returns:
        The number of rows the promise speaks of, or None if it is more than a million.

    >>> [required_sample_size(Guarantee("min_agreement", 0.98), rate, 0.05) for rate in (0.0, 0.01, 0.02)]
    [149, 569, None]
    """
    with extra("tune"):
        from scipy.special import betainc

    def enough(n: int) -> bool:
        if guarantee.name != "max_accuracy_drop":
            lost = n * expected  # the binomial tail between whole numbers: the answer rises with n
            return float(betainc(n - lost, lost + 1, 1 - guarantee.risk)) <= delta
        losses = np.diff(np.floor(np.arange(n + 1) * expected + 0.5))
        return float(betting_p_values(losses[None], guarantee.risk, delta)[0]) <= delta

    high = 1
    while not enough(high):
        high *= 2
        if expected >= guarantee.risk or high > MOST_ROWS:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
