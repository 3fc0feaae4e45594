"""From logits to a confidence in [0, 1]. Pure: arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cascadebert.types import Floats, Histogram, Ints, ScoreName

SCORES: tuple[ScoreName, ...] = ("max_probability", "margin", "entropy", "learned")
LEAST = 1e-12
BINS, DIGITS = 20, 6


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


def margin(probabilities: Floats) -> Floats:
    """The highest probability less the second.

    Args:
        probabilities: (..., num_labels).

    >>> np.round(margin(np.array([[0.5, 0.3, 0.2]])), 4).tolist()
    [0.2]
    """
    ordered = np.partition(probabilities, -2, axis=-1)
    return np.asarray(ordered[..., -1] - ordered[..., -2])


def entropy(probabilities: Floats) -> Floats:
    """How spread the probabilities are, in nats: 0 is sure, log(num_labels) is even.

    Args:
        probabilities: (..., num_labels).

    >>> np.round(entropy(np.array([[0.5, 0.5], [1.0, 0.0]])), 4).tolist()
    [0.6931, 0.0]
    """
    held = np.clip(probabilities, LEAST, None)
    return np.asarray(np.abs((probabilities * np.log(held)).sum(axis=-1)))


def normalized_confidence(probabilities: Floats) -> Floats:
    """One less the entropy of the probabilities over the most it can be: 1 is sure, 0 is even.

    DeeBERT's rule (Xin et al. 2020, section 3.2) turned round, so that more is surer.

    Args:
        probabilities: (..., num_labels).

    >>> np.round(normalized_confidence(np.array([[0.5, 0.5], [1.0, 0.0]])), 4).tolist()
    [0.0, 1.0]
    """
    share = entropy(probabilities) / np.log(probabilities.shape[-1])
    return np.asarray(np.clip(1 - share, 0.0, 1.0))


@dataclass(frozen=True)
class Score:
    """How sure a stage is of its answer.

    Attributes:
        name: "max_probability", "margin", "entropy" (see `normalized_confidence`), or "learned": the chance that the last
            stage would say the same, from the probabilities of all stages so far.
        weights: of "learned", one row per stage but the last: the constant, then one per column of `deferral_features`.
    """

    name: ScoreName = "max_probability"
    weights: tuple[tuple[float, ...], ...] = ()

    def confidence(self, seen: Sequence[Floats]) -> Floats:
        """(m,) how sure the last of the stages seen is of its answers, in [0, 1].

        Args:
            seen: (m, num_labels) probabilities of each stage so far, on the same rows. The last stage of a
                cascade, for which nothing is learned, gives its highest probability.

        >>> Score("margin").confidence([np.array([[0.8, 0.2]])]).round(4).tolist()
        [0.6]
        """
        if self.name == "margin":
            return margin(seen[-1])
        if self.name == "entropy":
            return normalized_confidence(seen[-1])
        if len(seen) > len(self.weights):
            return max_probability(seen[-1])
        constant, *others = self.weights[len(seen) - 1]
        return np.asarray(1 / (1 + np.exp(-(constant + deferral_features(seen) @ np.array(others)))))

    def all_stages(self, probabilities: Floats) -> Floats:
        """(num_stages, n) of every stage on every row.

        Args:
            probabilities: (num_stages, n, num_labels).
        """
        return np.stack([self.confidence(list(probabilities[: i + 1])) for i in range(len(probabilities))])


def deferral_features(seen: Sequence[Floats]) -> Floats:
    """(m, 4 * stages seen - 1) what a learned score goes by.

    Of each stage so far: log-odds of its answer, margin, certainty; and of each but the last, whether it
    gave the same answer as the last one seen.

    Args:
        seen: (m, num_labels) probabilities of each stage so far.
    """
    columns = []
    for probabilities in seen:
        top = np.clip(max_probability(probabilities), LEAST, 1 - LEAST)
        columns += [np.log(top / (1 - top)), margin(probabilities), normalized_confidence(probabilities)]
    answer = seen[-1].argmax(axis=-1)
    columns += [(one.argmax(axis=-1) == answer).astype(np.float64) for one in seen[:-1]]
    return np.stack(columns, axis=-1)


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


def histogram(confidences: Floats) -> Histogram:
    """Confidences in at most 20 bins of about equal counts.

    Edges have six digits, so that equal rows whose confidences differ in the last bit share a bin.

    Args:
        confidences: (n,) with n of at least 1.

    >>> found = histogram(np.array([0.5, 0.75, 1.0, 1.0]))
    >>> found.edges, found.counts
    ((0.5, 0.75, 1.0), (1, 1, 2, 0))
    """
    shares = np.arange(1, BINS) / BINS
    edges = np.unique(np.quantile(confidences, shares, method="inverted_cdf").round(DIGITS))
    counts = bin_counts(confidences, edges)
    return Histogram(tuple(edges.tolist()), tuple(counts.tolist()))


def bin_counts(confidences: Floats, edges: Floats) -> Ints:
    """(bins,) counts of confidences between edges, as `Histogram` has them."""
    return np.asarray(np.bincount(np.searchsorted(edges, confidences), minlength=len(edges) + 1))
