"""Confidence scores in [0, 1] from temperature-scaled logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cascadebert.errors import extra
from cascadebert.types import Floats, Histogram, Ints, Logits, ScoreName

SCORES: tuple[ScoreName, ...] = ("max_probability", "margin", "entropy", "learned")
EPSILON = 1e-12
HISTOGRAM_BINS, EDGE_DIGITS = 20, 6
TEMPERATURE_RANGE = (0.01, 100.0)


def softmax(logits: NDArray[np.floating]) -> Floats:
    """Probabilities along the last axis, in float64 and without overflow.

    >>> softmax(np.array([[1000.0, 1000.0]])).tolist()
    [[0.5, 0.5]]
    """
    shifted = np.asarray(logits, dtype=np.float64)
    shifted = np.exp(shifted - shifted.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def max_probability(probabilities: Floats) -> Floats:
    """Highest probability along the last axis, CascadeBERT's score (Li et al. 2021, section 3)."""
    return np.asarray(probabilities.max(axis=-1))


def margin(probabilities: Floats) -> Floats:
    """Highest probability minus the second along the last axis.

    >>> np.round(margin(np.array([[0.5, 0.3, 0.2]])), 4).tolist()
    [0.2]
    """
    ordered = np.partition(probabilities, -2, axis=-1)
    return np.asarray(ordered[..., -1] - ordered[..., -2])


def entropy(probabilities: Floats) -> Floats:
    """Entropy along the last axis in nats, from 0 to log(num_labels).

    >>> np.round(entropy(np.array([[0.5, 0.5], [1.0, 0.0]])), 4).tolist()
    [0.6931, 0.0]
    """
    logarithms = np.log(np.clip(probabilities, EPSILON, None))
    return np.asarray(np.abs((probabilities * logarithms).sum(axis=-1)))


def normalized_confidence(probabilities: Floats) -> Floats:
    """One minus the entropy over its maximum: DeeBERT's score (Xin et al. 2020, section 3.2), reversed.

    >>> np.round(normalized_confidence(np.array([[0.5, 0.5], [1.0, 0.0]])), 4).tolist()
    [0.0, 1.0]
    """
    normalized = entropy(probabilities) / np.log(probabilities.shape[-1])
    return np.asarray(np.clip(1 - normalized, 0.0, 1.0))


def sigmoid_of_linear(weights: Sequence[float], features: Floats) -> Floats:
    """(m,) probabilities of a logistic regression with `weights` (constant first) on (m, k) features."""
    constant, *coefficients = weights
    return np.asarray(1 / (1 + np.exp(-(constant + features @ np.array(coefficients)))))


@dataclass(frozen=True)
class Score:
    """A confidence score: one of the closed forms, or learned deferral (see `score_outputs`)."""

    name: ScoreName = "max_probability"
    # of "learned", per stage but the last: the constant, then one weight per column of `deferral_features`
    weights: tuple[tuple[float, ...], ...] = ()

    def confidence(self, probabilities: Sequence[Floats]) -> Floats:
        """(m,) confidence in [0, 1] of the last given stage, from (m, num_labels) of each stage up to it.

        With a learned score, the last stage of a cascade has its highest probability.

        >>> Score("margin").confidence([np.array([[0.8, 0.2]])]).round(4).tolist()
        [0.6]
        """
        if self.name == "margin":
            return margin(probabilities[-1])
        if self.name == "entropy":
            return normalized_confidence(probabilities[-1])
        if len(probabilities) > len(self.weights):
            return max_probability(probabilities[-1])
        return sigmoid_of_linear(self.weights[len(probabilities) - 1], deferral_features(probabilities))

    def all_stages(self, probabilities: Floats) -> Floats:
        """(num_stages, n) confidences from (num_stages, n, num_labels) probabilities."""
        return np.stack([self.confidence(list(probabilities[: i + 1])) for i in range(len(probabilities))])


def deferral_features(probabilities: Sequence[Floats]) -> Floats:
    """(m, 4 * stages - 1) features of the learned score, from (m, num_labels) of each stage up to a stage.

    Per stage: log-odds of its prediction, margin, `normalized_confidence`; and per stage but the last one,
    1 where it has the same prediction as that one.
    """
    columns = []
    for stage in probabilities:
        top = np.clip(max_probability(stage), EPSILON, 1 - EPSILON)
        columns += [np.log(top / (1 - top)), margin(stage), normalized_confidence(stage)]
    predictions = [stage.argmax(axis=-1) for stage in probabilities]
    columns += [(earlier == predictions[-1]).astype(np.float64) for earlier in predictions[:-1]]
    return np.stack(columns, axis=-1)


def log_odds(logits: NDArray[np.floating]) -> Floats:
    """log(p / (1 - p)) of the predicted class, from (..., num_labels >= 2) logits.

    The order is that of the maximum probability, without its ties where it saturates at 1.0.

    >>> np.round(log_odds(np.array([[0.0, np.log(3.0)], [0.0, 50.0]])), 4).tolist()
    [1.0986, 50.0]
    """
    ordered = np.sort(np.asarray(logits, dtype=np.float64), axis=-1)
    top, rest = ordered[..., -1], ordered[..., :-1]
    of_others = rest[..., -1] + np.log(np.exp(rest - rest[..., -1:]).sum(axis=-1))
    return np.asarray(top - of_others)


def histogram(confidences: Floats) -> Histogram:
    """Histogram of (n >= 1,) confidences in at most 20 bins of about equal counts.

    Edges have six digits, so that equal texts whose confidences differ in the last bit share a bin.

    >>> result = histogram(np.array([0.5, 0.75, 1.0, 1.0]))
    >>> result.edges, result.counts
    ((0.5, 0.75, 1.0), (1, 1, 2, 0))
    """
    quantiles = np.arange(1, HISTOGRAM_BINS) / HISTOGRAM_BINS
    edges = np.unique(np.quantile(confidences, quantiles, method="inverted_cdf").round(EDGE_DIGITS))
    return Histogram(tuple(edges.tolist()), tuple(bin_counts(confidences, edges).tolist()))


def bin_counts(confidences: Floats, edges: Floats) -> Ints:
    """(bins,) counts of confidences between edges, as `Histogram` defines them."""
    return np.asarray(np.bincount(np.searchsorted(edges, confidences), minlength=len(edges) + 1))


def scale_logits(logits: Logits, temperature: float) -> Floats:
    """(n, num_labels) logits divided by the temperature, in float64. Predictions stay the same."""
    return np.asarray(logits, dtype=np.float64) / temperature


def negative_log_likelihood(logits: Floats, labels: Ints, *, smoothing: float = 0.0) -> float:
    """Mean of -log p(label) in nats, for (n, num_labels >= 2) logits and (n,) label ids.

    `smoothing` is the part of each example's weight that its other labels share.
    """
    highest = logits.max(axis=1)
    normalizer = highest + np.log(np.exp(logits - highest[:, None]).sum(axis=1))
    of_label = logits[np.arange(len(labels)), labels]
    of_others = (logits.sum(axis=1) - of_label) / (logits.shape[1] - 1)
    return float(np.mean(normalizer - (1 - smoothing) * of_label - smoothing * of_others))


def fit_temperature(logits: Logits, labels: Ints) -> float:
    """Temperature of maximum likelihood (Guo et al. 2017, section 4.2) for (n, num_labels) logits.

    If a stage makes no error on these examples, that likelihood grows without bound as the temperature falls,
    until all confidences are 1.0 and no threshold separates them. So each label has weight (n + 1) / (n + 2)
    and the others share the rest (Platt 1999): n examples without an error give a confidence of about
    1 - 1/n instead of 1.

    >>> logits = np.log(np.array([[0.99, 0.01]] * 400, dtype=np.float32))
    >>> 4.1 < fit_temperature(logits, np.array([0, 0, 0, 1] * 100)) < 4.3
    True
    """
    with extra("tune"):
        from scipy.optimize import minimize_scalar
    smoothing = 1 / (len(labels) + 2)

    def loss(log_temperature: float) -> float:
        scaled = scale_logits(logits, float(np.exp(log_temperature)))
        return negative_log_likelihood(scaled, labels, smoothing=smoothing)

    bounds = tuple(np.log(TEMPERATURE_RANGE))
    best = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(best.x))
