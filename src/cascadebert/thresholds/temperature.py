"""Temperature scaling of logits, fitted on the tuning set."""

from __future__ import annotations

import numpy as np

from cascadebert.errors import extra
from cascadebert.types import Floats, Ints, Logits

TEMPERATURE_RANGE = (0.01, 100.0)


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
