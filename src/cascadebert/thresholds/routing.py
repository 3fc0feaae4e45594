"""The routing rule: which texts exit at a stage and which are deferred to the next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cascadebert.thresholds.confidence import Score, scale_logits, softmax
from cascadebert.types import Bools, Floats, Logits


class StageDecision(NamedTuple):
    """Outputs of one stage for m texts, and which of them exit there."""

    probabilities: Floats  # (m, num_labels), temperature-scaled
    confidences: Floats  # (m,) in [0, 1], compared with the threshold
    exits: Bools  # (m,)


def exits_at_stage(confidences: Floats, threshold: float | Floats | None) -> Bools:
    """(m,) True where the confidence exceeds the threshold, or everywhere at the last stage (`None`).

    `threshold` is one number, or (m,) numbers where texts have thresholds of their own.
    """
    if threshold is None:
        return np.ones(len(confidences), dtype=np.bool_)
    return np.asarray(confidences > threshold)


def decide(
    logits: Logits,
    *,
    temperature: float,
    score: Score,
    threshold: float | Floats | None,
    earlier: Sequence[Floats] = (),
) -> StageDecision:
    """Scale (m, num_labels) logits, score them and compare with the threshold (Li et al. 2021, section 3.1).

    `earlier` are (m, num_labels) probabilities of each earlier stage; only a learned score reads them.
    """
    probabilities = softmax(scale_logits(logits, temperature))
    confidences = score.confidence([*earlier, probabilities])
    return StageDecision(probabilities, confidences, exits_at_stage(confidences, threshold))
