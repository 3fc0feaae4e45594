"""From logits to a confidence in [0, 1]. Pure: arrays in, arrays out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cascadebert.types import Floats


def softmax(logits: NDArray[np.floating]) -> Floats:
    """Probabilities along the last axis, in float64 and without overflow.

    Args:
        logits: (..., num_labels).

    >>> softmax(np.array([[1000.0, 1000.0]])).tolist()
    [[0.5, 0.5]]
    """
    shifted = np.asarray(logits, dtype=np.float64)
    shifted = np.exp(shifted - shifted.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def max_probability(probabilities: Floats) -> Floats:
    """The probability of the predicted class: CascadeBERT's confidence (Li et al. 2021, section 3).

    Args:
        probabilities: (..., num_labels).

    >>> max_probability(np.array([[0.25, 0.75], [0.5, 0.5]])).tolist()
    [0.75, 0.5]
    """
    return np.asarray(probabilities.max(axis=-1))


def log_odds(logits: NDArray[np.floating]) -> Floats:
    """log(p / (1 - p)) of the predicted class, straight from logits.

    It orders rows as the maximum probability does, but stays apart where probabilities saturate
    at 1.0 and tie.

    Args:
        logits: (..., num_labels), num_labels >= 2.

    >>> np.round(log_odds(np.array([[0.0, np.log(3.0)], [0.0, 50.0]])), 4).tolist()
    [1.0986, 50.0]
    """
    ordered = np.sort(np.asarray(logits, dtype=np.float64), axis=-1)
    top, rest = ordered[..., -1], ordered[..., :-1]
    others = rest[..., -1] + np.log(np.exp(rest - rest[..., -1:]).sum(axis=-1))
    return np.asarray(top - others)
