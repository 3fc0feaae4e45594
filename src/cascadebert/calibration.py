"""Post-hoc scaling of logits, fitted on tune rows. Pure: arrays in, a number out."""

from __future__ import annotations

import numpy as np

from cascadebert.errors import extra
from cascadebert.types import Floats, Ints, Logits

TEMPERATURE_RANGE = (0.1, 10.0)


def scale(logits: Logits, temperature: float) -> Floats:
    """Logits divided by the temperature, in float64.

    Args:
        logits: (n, num_labels).
        temperature: above 1 makes answers less sure, below 1 surer; the answer itself stays.
    """
    return np.asarray(logits, dtype=np.float64) / temperature


def negative_log_likelihood(logits: Floats, labels: Ints) -> float:
    """Mean of -log p(label), in nats.

    Args:
        logits: (n, num_labels).
        labels: (n,) label ids.
    """
    top = logits.max(axis=1)
    total = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
    return float(np.mean(total - logits[np.arange(len(labels)), labels]))


def fit_temperature(logits: Logits, labels: Ints) -> float:
    """The temperature that makes the labels likeliest (Guo et al. 2017, section 4.2).

    The likelihood of a model that never errs on these rows grows without end as the temperature
    falls, so the search is bounded to 0.1 .. 10.

    Args:
        logits: (n, num_labels) of one stage.
        labels: (n,) label ids.

    >>> sure = np.log(np.array([[0.99, 0.01]] * 4, dtype=np.float32))
    >>> 4.1 < fit_temperature(sure, np.array([0, 0, 0, 1])) < 4.3
    True
    """
    with extra("tune"):
        from scipy.optimize import minimize_scalar
    low, high = np.log(TEMPERATURE_RANGE)
    best = minimize_scalar(
        lambda log_t: negative_log_likelihood(scale(logits, float(np.exp(log_t))), labels),
        bounds=(low, high),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(best.x))
