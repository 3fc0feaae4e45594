"""Evaluation of predictors on held-out labeled rows."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Literal, Protocol

import numpy as np

from cascadebert.data.columns import Columns, or_remembered
from cascadebert.data.dataset import DataSource, Examples, Hashes, load_examples
from cascadebert.errors import CascadeError, DataError
from cascadebert.evaluation.cost_model import counted_costs
from cascadebert.evaluation.metrics import expected_calibration_error, inversion_score_or_none, macro_f1
from cascadebert.inference.batching import TokenizedTexts
from cascadebert.inference.cascade import Cascade
from cascadebert.inference.tokenizer import StageTokenizer
from cascadebert.persistence.folder import read_used_rows
from cascadebert.thresholds.confidence import max_probability, scale_logits, softmax
from cascadebert.thresholds.risk_control import StageOutputs
from cascadebert.thresholds.select import exit_stages, speedup
from cascadebert.types import Floats, Ints, Logits, Predictions, Report, StageReport, Texts


class Predictor(Protocol):
    """Anything that predicts labels of texts: a cascade, a single stage, a baseline."""

    def predict(self, texts: Texts) -> Predictions:
        """Predictions in the order of the texts."""
        ...


def evaluate(predictor: Predictor, data: DataSource, *, columns: Columns | None = None) -> Report:
    """Measure a predictor on labeled rows.

    All stages of a cascade run once on all rows. The cascade's own predictions follow from these arrays
    (they equal those of `predict`), so the report also covers each stage alone.

    Args:
        predictor: a `Cascade`, a `Stage`, or any object with `predict`.
        data: labeled rows, as for `load_examples`.
        columns: names of their columns, where they are not the usual ones.

    Returns:
        Accuracy, macro F1 and expected calibration error; for a cascade also exit rates, speed-ups and
        one `StageReport` per stage.

    Raises:
        DataError: if a row has no label, or a label that the predictor does not know.
    """
    if isinstance(predictor, Cascade):
        examples = load_for(predictor, data, columns=columns)
        labels = examples.label_ids(predictor.label_names)
        logits, encoded = predictor.stage_logits(examples.texts), predictor.encode(examples.texts)
        return report_on_logits(predictor, logits, encoded, labels)
    examples = load_examples(data, columns=columns, split="validation")
    predictions = predictor.predict(examples.texts)
    labels = examples.match_labels(predictions.label_names).label_ids(predictions.label_names)
    confidences = max_probability(predictions.probabilities)
    return Report(**_metrics(predictions.label_ids, confidences, labels))


def evaluate_cascade(
    cascade: Cascade, data: DataSource, *, columns: Columns | None = None
) -> tuple[Report, dict[str, int]]:
    """Report of a saved cascade, and how many of the rows were used to train, tune and certify it."""
    examples = load_for(cascade, data, columns=columns)
    assert cascade.path is not None
    return evaluate(cascade, examples), read_used_rows(cascade.path).count_overlap(examples.hashes())


def load_for(
    cascade: Cascade, data: DataSource, *, columns: Columns | None = None, labels: bool = True
) -> Examples:
    """Examples for a cascade, with its names for their labels; these may be absent if not required.

    Raises DataError, with the row, if a cell cannot be used, a label is unknown or a text has no tokens.
    """
    columns = or_remembered(columns, cascade.remembered_columns)
    examples = load_examples(data, columns=columns, labels=labels, groups=False, split="validation")
    check_has_tokens(examples, (stage.tokenizer for stage in cascade.stages))
    return examples.match_labels(cascade.label_names, required=labels)


def check_has_tokens(examples: Examples, tokenizers: Iterable[StageTokenizer]) -> None:
    """Raise DataError with the first row of which a tokenizer leaves no token."""
    for tokenizer in tokenizers:
        for index in tokenizer.without_tokens(examples.texts)[:1]:
            raise DataError(
                f"{examples.describe(index, f'no tokens in {examples.texts[index]!r:.40}')}. "
                "Fix or remove the row."
            )


def leave_out(examples: Examples, hashes: Hashes, reason: str) -> tuple[Examples, tuple[str, ...]]:
    """The examples without those of the given hashes, and a notice. Raises DataError if none is left."""
    left_out = np.isin(examples.hashes(), hashes)
    if not left_out.any():
        return examples, ()
    if left_out.all():
        raise DataError(
            f"{examples.source}: all of its {len(examples):,} examples were {reason}, so they tell nothing "
            "about new data. Give held-out examples that were not used."
        )
    notice = f"{left_out.sum():,} of {len(examples):,} examples left out: {reason}."
    return examples.take(np.flatnonzero(~left_out)), (notice,)


def report_on_logits(cascade: Cascade, logits: Logits, encoded: list[TokenizedTexts], labels: Ints) -> Report:
    """Report of a cascade from cached (num_stages, n, num_labels) logits and (n,) labels; no model runs."""
    probabilities = scaled_probabilities(cascade, logits)
    exits = exit_stages(cascade.score.all_stages(probabilities), cascade.operating_point.thresholds)
    rows, confidences = np.arange(len(labels)), max_probability(probabilities)
    predicted = probabilities.argmax(axis=2)
    correct = predicted == labels
    return Report(
        **_metrics(predicted[exits, rows], confidences[exits, rows], labels),
        exit_rates=exit_rates(exits, len(cascade.stages)),
        **_counted_speedups(cascade, encoded, exits),
        stages=tuple(
            StageReport(
                accuracy=float(correct[stage].mean()),
                ece=expected_calibration_error(confidences[stage], correct[stage]),
                dis=inversion_score_or_none(scale_logits(logits[stage], temperature), correct[stage]),
            )
            for stage, temperature in enumerate(cascade.temperatures)
        ),
    )


def stage_outputs(cascade: Cascade, texts: Texts, labels: Ints | None = None) -> StageOutputs:
    """Predictions and confidences of every stage for every text; (n,) label ids where known."""
    probabilities = scaled_probabilities(cascade, cascade.stage_logits(texts))
    confidences = cascade.score.all_stages(probabilities)
    return StageOutputs(confidences, probabilities.argmax(axis=2), labels, cascade.label_names)


def scaled_probabilities(cascade: Cascade, logits: Logits) -> Floats:
    """(num_stages, n, num_labels) probabilities, each stage at its own temperature."""
    return softmax(scale_stages(logits, cascade.temperatures))


def scale_stages(logits: Logits, temperatures: tuple[float, ...]) -> Floats:
    """(num_stages, n, num_labels) logits, each stage's divided by its temperature, in float64."""
    return np.stack([scale_logits(stage, t) for stage, t in zip(logits, temperatures, strict=True)])


def exit_rates(exits: Ints, num_stages: int) -> tuple[float, ...]:
    """(num_stages,) fraction of rows that exit at each stage, from (n,) stages counted from 0."""
    return tuple((np.bincount(exits, minlength=num_stages) / len(exits)).tolist())


def _metrics(predicted: Ints, confidences: Floats, labels: Ints) -> dict[str, Any]:
    correct = predicted == labels
    return {
        "n": len(labels),
        "accuracy": float(correct.mean()),
        "macro_f1": macro_f1(predicted, labels),
        "ece": expected_calibration_error(confidences, correct),
    }


def _counted_speedups(cascade: Cascade, encoded: list[TokenizedTexts], exits: Ints) -> dict[str, Any]:
    units: tuple[Literal["layers", "flops"], ...] = ("layers", "flops")
    speedups = {}
    for unit in units:
        with suppress(CascadeError):  # the stages have none, or none that can be compared
            speedups[f"{unit}_speedup"] = speedup(exits, counted_costs(cascade.stages, encoded, unit).rows)
    return speedups
