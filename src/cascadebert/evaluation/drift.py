"""Drift detection for a saved cascade: runs its stages on two datasets and compares their outputs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cascadebert.data.columns import Columns
from cascadebert.data.dataset import DataSource, Examples
from cascadebert.errors import DataError
from cascadebert.evaluation.drift_statistics import (
    CONFIDENCE_LEVEL,
    TOLERANCE,
    AgreementTarget,
    DriftConfig,
    DriftResult,
    compare_outputs,
)
from cascadebert.evaluation.evaluate import load_for, stage_outputs
from cascadebert.inference.cascade import Cascade
from cascadebert.persistence.folder import read_used_rows

MAX_DUPLICATES = 0.1  # fraction of a dataset


def detect_drift(
    cascade: Cascade,
    reference: DataSource,
    new: DataSource,
    *,
    min_agreement: float | None = None,
    tolerance: float = TOLERANCE,
    confidence_level: float = CONFIDENCE_LEVEL,
    columns: Columns | None = None,
) -> tuple[DriftResult, tuple[str, ...]]:
    """Test without labels whether a cascade's thresholds hold on new data; also returns notices on the data.

    The reference is held-out data on which the thresholds were known to hold, such as the tuning set; `new`
    is a random sample of the traffic in question. `min_agreement` is the required fraction of predictions
    that equal the last stage's; None means that of the certificate, or else the reference's minus the
    tolerance. Agreement is not accuracy: only labels can tell whether the last stage is still right.

    Raises DataError if data cannot be used, is empty, or holds pairs where the cascade reads single texts (or
    the reverse), before any stage runs; CascadeError if there is only one stage, or a number is out of range.
    """
    level = _agreement_target(cascade, min_agreement)
    config = DriftConfig(level, tolerance=tolerance, confidence_level=confidence_level)
    samples = [load_for(cascade, source, columns=columns, labels=False) for source in (reference, new)]
    for sample in samples:
        try:
            cascade.check_input_kind(sample.texts)
        except DataError as error:
            raise DataError(
                f"{sample.source}: {error}. Name the text column with --text-column (twice for pairs)."
            ) from None
    hashes = [np.unique(sample.hashes()) for sample in samples]
    old, now = (stage_outputs(cascade, sample.texts) for sample in samples)
    thresholds, same = cascade.operating_point.thresholds, np.array_equal(hashes[0], hashes[1])
    result = compare_outputs(old, now, thresholds, config=config, same_rows=same)
    return result, tuple(_notices(cascade, *samples))


def _agreement_target(cascade: Cascade, min_agreement: float | None) -> AgreementTarget | None:
    if min_agreement is not None:
        return AgreementTarget(min_agreement, "requested")
    for guarantee in cascade.operating_point.guarantees:
        if guarantee.name == "min_agreement":
            return AgreementTarget(guarantee.level, "certificate")
    return None


def _notices(cascade: Cascade, reference: Examples, new: Examples) -> Iterator[str]:
    for name, sample in (("reference", reference), ("new", new)):
        hashes = sample.hashes()
        duplicates = len(hashes) - len(np.unique(hashes))
        if duplicates > MAX_DUPLICATES * len(hashes):
            yield (
                f"{duplicates:,} of the {len(sample):,} {name} examples repeat an earlier one. Intervals "
                "assume independent draws, as in traffic that repeats itself but not in a duplicated file."
            )
        used = {} if cascade.path is None else read_used_rows(cascade.path).count_overlap(hashes)
        if used.get("train"):
            yield (
                f"{used['train']:,} of the {len(sample):,} {name} examples were trained on: stages are more "
                "confident on them, which can explain a difference. Use data that nothing was trained on."
            )
    shared = int(np.isin(new.hashes(), reference.hashes()).sum())
    if shared:
        yield f"{shared:,} of the {len(new):,} new examples are in the reference too."
    for guarantee in cascade.operating_point.guarantees:
        if guarantee.name != "min_agreement":
            yield f"the folder also guarantees {guarantee.description}; that can only be tested with labels."
