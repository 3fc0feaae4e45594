"""Distribution-free risk control: guarantees for new data from losses on a certification set.

A guarantee bounds a risk (a mean loss). Operating points are ordered beforehand on other examples, most
conservative first; on the certification set each is tested in turn at the full delta until one fails
(fixed-sequence testing in Learn-then-Test, Angelopoulos et al. 2021, arXiv 2110.01052, section 2.4). With
probability 1 - delta the guarantee holds at every accepted point, whatever the distribution of the data, if
examples are independent draws from it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np

from cascadebert.errors import CascadeError, extra
from cascadebert.thresholds.operating_point import Guarantee, GuaranteeResult
from cascadebert.thresholds.select import ParetoFront, TuningArrays, check_finite, exit_stages, pareto_front
from cascadebert.types import Floats, Ints

ORDER_SEED = 0
MAX_POINTS = 100
TIE_BREAKER = 1e-6
MAX_SAMPLE_SIZE = 1_000_000


@dataclass(frozen=True)
class StageOutputs:
    """Outputs of every stage for every example, before any threshold.

    Raises CascadeError if n is 0, shapes differ, or a confidence is not finite.
    """

    confidences: Floats  # (num_stages, n) in [0, 1]
    predictions: Ints  # (num_stages, n) label ids
    labels: Ints | None  # (n,) true label ids, or None where they are not known
    label_names: tuple[str, ...]

    def __post_init__(self) -> None:
        shape = self.confidences.shape
        if len(shape) != 2 or not shape[1] or self.predictions.shape != shape:
            raise CascadeError(
                f"confidences and predictions must both have shape (num_stages, n) with n of at least 1, not "
                f"{shape} and {self.predictions.shape}"
            )
        check_finite(self.confidences, "confidences")


@dataclass(frozen=True)
class CertificationResult:
    """Result of testing a path."""

    accepted: int  # points, from the start of the path, at which every guarantee holds
    results: tuple[GuaranteeResult, ...]  # at the last of them, or at the first point if none is accepted


def stage_losses(outputs: StageOutputs, guarantee: Guarantee) -> Floats:
    """(num_stages, n) loss of each prediction, whose mean over the examples at their exits is the risk.

    NaN where the guarantee is not about the prediction: at the last stage for `min_early_exit_accuracy`, for
    other labels in `max_false_negative_rate`. Raises CascadeError if labels are needed but absent or unknown.
    """
    predictions, labels = outputs.predictions, outputs.labels
    if guarantee.name == "min_agreement":
        return np.asarray(predictions != predictions[-1], dtype=np.float64)
    if labels is None:
        raise CascadeError(
            f"{guarantee.description} needs labels. Give labeled examples; only agreement needs none."
        )
    wrong = np.asarray(predictions != labels, dtype=np.float64)
    if guarantee.name == "max_accuracy_drop":
        return np.asarray(wrong - wrong[-1])
    if guarantee.name == "min_early_exit_accuracy":
        wrong[-1] = np.nan
    if guarantee.label is not None:
        names = outputs.label_names
        if guarantee.label not in names:
            raise CascadeError(
                f"{guarantee.description}: there is no such label. Labels: {', '.join(names[:20])}"
            )
        wrong[:, labels != names.index(guarantee.label)] = np.nan
    return wrong


def point_losses(outputs: StageOutputs, guarantee: Guarantee, thresholds: Sequence[float]) -> Floats:
    """(m,) losses at one operating point of the m examples that the guarantee is about, in random order."""
    exits = exit_stages(outputs.confidences, tuple(thresholds))
    losses = stage_losses(outputs, guarantee)[exits, np.arange(len(exits))]
    # a file may be sorted, but bets must be placed in an order that is independent of the losses
    return np.random.default_rng(ORDER_SEED).permutation(losses[~np.isnan(losses)])


def operating_path(
    outputs: StageOutputs,
    guarantees: Sequence[Guarantee],
    costs: Floats,
    delta: float,
    *,
    last_stage_cost: float | None = None,
) -> ParetoFront:
    """The operating points to test, most conservative first, from the tuning set alone.

    They are Pareto-optimal in cost and in the losses of the guarantees, each relative to what it allows.
    Losses are smoothed beforehand by an isotonic regression on the confidence, per stage, so that points do
    not look safe by the luck of few examples, and examples without any loss still differ. At most 100 points,
    evenly spaced in cost, at which some example exits early; the first is the one of the lowest p-value for
    all guarantees. `costs` and `last_stage_cost` are those of `select_thresholds`, `delta` that of the test.
    Raises CascadeError if no thresholds let an example exit early.
    """
    losses = np.zeros(outputs.confidences.shape)
    for guarantee in guarantees:
        of_guarantee = np.nan_to_num(stage_losses(outputs, guarantee))
        for stage, confidences in enumerate(outputs.confidences[:-1]):
            losses[stage] += _smoothed(confidences, of_guarantee[stage]) / guarantee.max_risk
        losses[-1] += of_guarantee[-1] / guarantee.max_risk
    front = pareto_front(TuningArrays(outputs.confidences, losses, costs, last_stage_cost))
    has_exits = [bool((outputs.confidences[:-1] > point[:, None]).any()) for point in front.thresholds]
    indices = np.flatnonzero(has_exits)
    if not len(indices):
        raise CascadeError("no thresholds let a text exit early")
    relative_costs = 1 / front.speedups[indices]
    spaced = np.linspace(relative_costs[0], relative_costs[-1], MAX_POINTS)
    positions = np.searchsorted(-relative_costs, -spaced).clip(0, len(indices) - 1)
    indices = indices[np.unique(positions)]
    p_values = list(_p_values(outputs, guarantees, front.thresholds[indices], delta / len(guarantees)))
    indices = indices[int(np.argmin(p_values)) :]
    return ParetoFront(front.thresholds[indices], front.speedups[indices], front.losses[indices])


def _smoothed(confidences: Floats, losses: Floats) -> Floats:
    """Expected loss, non-increasing in the confidence; ties are broken by the confidence."""
    with extra("tune"):
        from sklearn.isotonic import IsotonicRegression
    fitted = IsotonicRegression(increasing=False).fit_transform(confidences, losses)
    return np.asarray(fitted + TIE_BREAKER * (1 - confidences), dtype=np.float64)


def _p_values(
    outputs: StageOutputs, guarantees: Sequence[Guarantee], path: Floats, delta: float
) -> Iterator[float]:
    """Largest p-value over the guarantees, point by point."""
    for point in path:
        yield max(p_value(item, point_losses(outputs, item, point), delta) for item in guarantees)


def certify(
    outputs: StageOutputs, path: Floats, guarantees: Sequence[Guarantee], *, delta: float
) -> CertificationResult:
    """Test operating points on examples that played no part in their selection.

    Args:
        outputs: of the certification set.
        path: (points, num_stages - 1) thresholds from `operating_path` on other examples.
        guarantees: each is tested at an equal part of delta (Bonferroni).
        delta: probability that any guarantee is broken at any accepted point.

    Returns:
        The number of accepted points, those before the first at which a test fails, with the bounds there.

    Raises:
        CascadeError: if a guarantee needs labels that are absent or unknown.
    """
    delta = delta / len(guarantees)
    accepted = fixed_sequence(_p_values(outputs, guarantees, path, delta), delta)
    last = path[max(accepted - 1, 0)]
    results = []
    for guarantee in guarantees:
        losses = point_losses(outputs, guarantee, last)
        bound = guarantee.bound(risk_bound(guarantee, losses, delta))
        results.append(GuaranteeResult(guarantee, len(losses), bound))
    return CertificationResult(accepted, tuple(results))


def fixed_sequence(p_values: Iterable[float], delta: float) -> int:
    """Number of accepted points: those before the first p-value above delta.

    >>> fixed_sequence([0.01, 0.04, 0.2, 0.01], 0.05)
    2
    """
    return sum(1 for _ in takewhile(lambda value: value <= delta, p_values))


def p_value(guarantee: Guarantee, losses: Floats, delta: float) -> float:
    """p-value of "the guarantee is broken" from (m,) losses of `point_losses`; 1 for m = 0."""
    if not len(losses):
        return 1.0
    if guarantee.name == "max_accuracy_drop":
        return float(betting_p_values(losses[None], guarantee.max_risk, delta)[0])
    return float(binomial_p_values(losses.sum(), np.asarray(len(losses)), guarantee.max_risk))


def risk_bound(guarantee: Guarantee, losses: Floats, delta: float) -> float:
    """Upper bound of the mean loss at confidence 1 - delta from (m,) losses; 1 for m = 0."""
    if not len(losses):
        return 1.0
    if guarantee.name == "max_accuracy_drop":
        return betting_bound(losses, delta)
    return binomial_bound(int(losses.sum()), len(losses), delta)


def binomial_p_values(errors: Ints | Floats, n: Ints, level: float) -> Floats:
    """Exact p-values of "the risk exceeds the level", for (points,) errors among (points,) examples.

    The lower tail of the binomial distribution, the most powerful test for losses of 0 and 1.

    >>> np.round(binomial_p_values(np.array([0, 5]), np.array([100, 100]), 0.05), 4).tolist()
    [0.0059, 0.616]
    """
    with extra("tune"):
        from scipy.stats import binom
    return np.asarray(binom.cdf(errors, n, level), dtype=np.float64)


def binomial_bound(errors: int, n: int, delta: float) -> float:
    """Lowest level that `binomial_p_values` accepts: the upper bound of Clopper and Pearson (1934).

    >>> round(binomial_bound(0, 100, 0.05), 4)
    0.0295
    """
    with extra("tune"):
        from scipy.stats import beta
    return 1.0 if errors >= n else float(beta.ppf(1 - delta, errors + 1, n - errors))


def betting_p_values(losses: Floats, level: float, delta: float) -> Floats:
    """p-values of "the mean exceeds the level" for (points, n) losses in [-1, 1], such as paired differences.

    A gambler bets against the claim, example by example, an amount that depends on earlier ones only; the
    capital exceeds 1 / p with probability at most p if the claim is true (Ville's inequality). The amounts
    are the predictable plug-in of Waudby-Smith & Ramdas (2023, "Estimating means of bounded random variables
    by betting", section 3.1 and appendix B) for an error of `delta`; they adapt to the variance, as
    differences are mostly 0. The order of examples must not depend on losses; `level` is in (-1, 1).
    """
    scaled, mean = (losses + 1) / 2, (level + 1) / 2
    n = scaled.shape[1]
    count = np.arange(1, n + 1)
    means = (0.5 + np.cumsum(scaled, axis=1)) / (count + 1)
    variances = (0.25 + np.cumsum((scaled - means) ** 2, axis=1)) / (count + 1)
    earlier = np.concatenate([np.full((len(scaled), 1), 0.25), variances[:, :-1]], axis=1)
    amounts = np.minimum(np.sqrt(2 * np.log(1 / delta) / (n * earlier)), 0.5 / (1 - mean))
    capital = np.cumsum(np.log1p(amounts * (mean - scaled)), axis=1)
    return np.asarray(np.exp(-np.maximum(capital.max(axis=1), 0.0)))


def betting_bound(losses: Floats, delta: float) -> float:
    """Lowest level that `betting_p_values` accepts, to four digits, for (n,) losses of one point."""
    low, high = float(losses.mean()), 1.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        accepted = betting_p_values(losses[None], middle, delta)[0] <= delta
        low, high = (low, middle) if accepted else (middle, high)
    return high


def required_sample_size(guarantee: Guarantee, expected: float, delta: float) -> int | None:
    """Examples after which a guarantee is accepted if losses occur evenly spread at the `expected` mean.

    Only examples that the guarantee is about count. None if more than a million are required.

    >>> [required_sample_size(Guarantee("min_agreement", 0.98), rate, 0.05) for rate in (0.0, 0.01, 0.02)]
    [149, 569, None]
    """
    with extra("tune"):
        from scipy.special import betainc

    def is_enough(n: int) -> bool:
        if guarantee.name != "max_accuracy_drop":
            errors = n * expected  # the binomial tail is interpolated, so that the result is monotonic in n
            return float(betainc(n - errors, errors + 1, 1 - guarantee.max_risk)) <= delta
        losses = np.diff(np.floor(np.arange(n + 1) * expected + 0.5))
        return float(betting_p_values(losses[None], guarantee.max_risk, delta)[0]) <= delta

    high = 1
    while not is_enough(high):
        high *= 2
        if expected >= guarantee.max_risk or high > MAX_SAMPLE_SIZE:
            return None
    return bisect_left(range(high), True, lo=high // 2 + 1, key=is_enough)
