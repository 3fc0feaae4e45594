"""Post-hoc scaling of logits, fitted on tune rows. Pure: arrays in, a number out."""

from __future__ import annotations

import numpy as np

from cascadebert.errors import extra
from cascadebert.types import Floats, Ints, Logits

TEMPERATURE_RANGE = (0.01, 100.0)


def scale_logits(logits: Logits, temperature: float) -> Floats:
    """Logits divided by the temperature, in float64.

    Args:
        logits: (n, num_labels).
        temperature: above 1 makes answers less sure, below 1 surer; the answer itself stays.
    """
    return np.asarray(logits, dtype=np.float64) / temperature


def negative_log_likelihood(logits: Floats, labels: Ints, *, smoothing: float = 0.0) -> float:
    """Mean of -log p(label), in nats.

    Args:
        logits: (n, num_labels), num_labels >= 2.
        labels: (n,) label ids.
        smoothing: share of each row's weight that its other labels have together.
    """
    top = logits.max(axis=1)
    total = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
    own = logits[np.arange(len(labels)), labels]
    others = (logits.sum(axis=1) - own) / (logits.shape[1] - 1)
    return float(np.mean(total - (1 - smoothing) * own - smoothing * others))


def fit_temperature(logits: Logits, labels: Ints) -> float:
    """The temperature that makes the labels likeliest (Guo et al. 2017, section 4.2).

    For a stage that never errs on these rows that likelihood grows without end as the temperature falls,
    until all confidences are 1.0 and no threshold tells rows apart. So each label counts (n + 1) / (n + 2)
    and the others share the rest, after Platt 1999: n rows without an error mean a confidence of about
    1 - 1/n, not 1.

    Args:
        logits: (n, num_labels) of one stage.
        labels: (n,) label ids.

    >>> sure = np.log(np.array([[0.99, 0.01]] * 400, dtype=np.float32))
    >>> 4.1 < fit_temperature(sure, np.array([0, 0, 0, 1] * 100)) < 4.3
    True
    """
    with extra("tune"):
        from scipy.optimize import minimize_scalar
    smoothing = 1 / (len(labels) + 2)
    low, high = np.log(TEMPERATURE_RANGE)
    best = minimize_scalar(
        lambda log_t: negative_log_likelihood(
            scale_logits(logits, float(np.exp(log_t))), labels, smoothing=smoothing
        ),
        bounds=(low, high),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(best.x))
