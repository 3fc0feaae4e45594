"""How good a predictor is on labelled rows it has never seen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from cascadebert.data.columns import Columns
from cascadebert.data.dataset import Examples, load_examples
from cascadebert.errors import CascadeError, UndefinedMetric
from cascadebert.evaluation.cost_model import counted_costs
from cascadebert.evaluation.metrics import (
    accuracy,
    difficulty_inversion_score,
    expected_calibration_error,
    macro_f1,
)
from cascadebert.inference.cascade import Cascade
from cascadebert.inference.stage import Stage
from cascadebert.persistence.folder import read_used_rows
from cascadebert.thresholds.confidence import log_odds, max_probability, softmax
from cascadebert.thresholds.risk_control import StageOutputs
from cascadebert.thresholds.select import exit_stages, speedup
from cascadebert.thresholds.temperature import scale_logits
from cascadebert.types import Floats, Ints, Logits, Predictions, Report, StageReport, Texts

if TYPE_CHECKING:
    import datasets

    from cascadebert.inference.batching import TokenizedTexts


class Predictor(Protocol):
    """Anything that answers texts: a cascade, one stage alone, a baseline."""

    def predict(self, texts: Texts) -> Predictions:
        """Answers in the order of the texts."""
        ...


def evaluate(
    predictor: Predictor, data: str | Path | datasets.Dataset | Examples, *, columns: Columns | None = None
) -> Report:
    """Measure a predictor on labelled rows.

    A cascade's stages all run on all rows once, and the cascade's own answers follow from those arrays
    (they equal `predict`'s), so that each stage alone is reported beside it.

    Args:
        predictor: a `Cascade`, a `Stage`, or anything with `predict`.
        data: labelled rows, as in `load_examples`.
        columns: their columns, where not the usual ones.

    Raises:
        DataError: if a row has no label or one the predictor does not know.
    """
    examples = load_examples(data, columns=columns, split="validation")
    if isinstance(predictor, Cascade):
        labels = examples.label_ids(predictor.label_names)
        return report_on_logits(
            predictor, predictor.stage_logits(examples.texts), predictor.encode(examples.texts), labels
        )
    answers = predictor.predict(examples.texts)
    labels = examples.label_ids(answers.label_names)
    right = answers.label_ids == labels
    return Report(
        n=len(labels),
        accuracy=accuracy(answers.label_ids, labels),
        macro_f1=macro_f1(answers.label_ids, labels, len(answers.label_names)),
        ece=expected_calibration_error(max_probability(answers.probabilities), right),
    )


def evaluate_cascade(
    cascade: Cascade, data: str | Path, *, columns: Columns | None = None
) -> tuple[Report, dict[str, int]]:
    """Measure a saved cascade on labelled rows, and count those among them that it was made from.

    Args:
        cascade: from a folder.
        data: as for `evaluate`.
        columns: names of the columns, where not the usual ones.

    Returns:
        The report, and how many of the rows were used to train, tune and certify.
    """
    examples = load_examples(data, columns=columns, split="validation")
    assert cascade.path is not None
    return evaluate(cascade, examples), read_used_rows(cascade.path).seen(examples.hashes())


def report_on_logits(cascade: Cascade, logits: Logits, encoded: list[TokenizedTexts], labels: Ints) -> Report:
    """The report of a cascade from its cached logits; no model runs.

    Args:
        cascade: with the operating point to report on.
        logits: (num_stages, n, num_labels) from `Cascade.stage_logits`.
        encoded: each stage's tokens of the same rows.
        labels: (n,) label ids.
    """
    probabilities = scaled_probabilities(cascade, logits)
    exits = exit_stages(cascade.score.all_stages(probabilities), cascade.operating_point.thresholds)
    confidences = max_probability(probabilities)
    rows = np.arange(len(labels))
    predicted = probabilities.argmax(axis=2)
    answers = predicted[exits, rows]
    rates = np.bincount(exits, minlength=len(cascade.stages)) / len(rows)
    return Report(
        n=len(rows),
        accuracy=accuracy(answers, labels),
        macro_f1=macro_f1(answers, labels, len(cascade.label_names)),
        ece=expected_calibration_error(confidences[exits, rows], answers == labels),
        exit_rates=tuple(float(rate) for rate in rates),
        layers_speedup=_speedup_or_none(cascade.stages, encoded, exits, "layers"),
        flops_speedup=_speedup_or_none(cascade.stages, encoded, exits, "flops"),
        stages=tuple(
            _stage_report(scale_logits(one, temperature), sure, said == labels)
            for one, temperature, sure, said in zip(
                logits, cascade.temperatures, confidences, predicted, strict=True
            )
        ),
    )


def stage_outputs(cascade: Cascade, texts: Texts, truth: Ints | None = None) -> StageOutputs:
    """What every stage says of every row, and how sure it is of it.

    Args:
        cascade: its stages, temperatures and score.
        texts: n texts or pairs.
        truth: (n,) label ids where they are known.
    """
    probabilities = scaled_probabilities(cascade, cascade.stage_logits(texts))
    sure = cascade.score.all_stages(probabilities)
    return StageOutputs(sure, probabilities.argmax(axis=2), truth, cascade.label_names)


def scaled_probabilities(cascade: Cascade, logits: Logits) -> Floats:
    """(num_stages, n, num_labels) probabilities, each stage at its own temperature."""
    return np.stack(
        [softmax(scale_logits(one, t)) for one, t in zip(logits, cascade.temperatures, strict=True)]
    )


def _stage_report(logits: Floats, confidences: Floats, right: np.ndarray) -> StageReport:
    try:
        dis = difficulty_inversion_score(log_odds(logits), ~right)
    except UndefinedMetric:
        dis = None
    return StageReport(float(right.mean()), expected_calibration_error(confidences, right), dis)


def _speedup_or_none(
    stages: tuple[Stage, ...],
    encoded: list[TokenizedTexts],
    exits: Ints,
    cost_unit: Literal["layers", "flops"],
) -> float | None:
    try:
        return speedup(exits, counted_costs(stages, encoded, cost_unit).rows)
    except CascadeError:
        return None
