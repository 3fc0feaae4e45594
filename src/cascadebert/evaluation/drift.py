"""Whether the thresholds of a cascade hold on a second file: its stages run once on both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cascadebert.data.columns import Columns
from cascadebert.data.dataset import Examples, load_examples
from cascadebert.errors import DataError
from cascadebert.evaluation.drift_test import (
    CONFIDENCE_LEVEL,
    TOLERANCE,
    AgreementTarget,
    DriftConfig,
    DriftResult,
    compare_outputs,
)
from cascadebert.evaluation.evaluate import stage_outputs
from cascadebert.inference.cascade import Cascade
from cascadebert.persistence.folder import read_used_rows

if TYPE_CHECKING:
    import datasets

MANY_REPEATS = 0.1


def detect_drift(
    cascade: Cascade,
    reference: str | Path | datasets.Dataset | Examples,
    new: str | Path | datasets.Dataset | Examples,
    *,
    min_agreement: float | None = None,
    tolerance: float = TOLERANCE,
    confidence_level: float = CONFIDENCE_LEVEL,
    columns: Columns | None = None,
) -> tuple[DriftResult, tuple[str, ...]]:
    """Say whether a cascade's thresholds still hold on new rows. Labels are not looked at.

    The cascade's answers are compared with its last stage's own, and its exits and confidences on the one
    file with those on the other. Agreement with the last stage is not accuracy: without labels nobody can
    say whether the last stage itself is still right.

    Args:
        cascade: with the thresholds in question.
        reference: held-out rows on which they were known to hold, such as those they were picked on.
        new: rows of the traffic in question; both as in `load_examples`.
        min_agreement: share of rows whose answer must be the last stage's own. None for that of the
            certificate, or else for that of the reference less the tolerance.
        tolerance: the change of a share that does not count.
        confidence_level: at which all intervals hold together.
        columns: names of the columns in both, where not the usual ones.

    Returns:
        The verdict with its figures, and what must be said of the rows themselves, one sentence each.

    Raises:
        DataError: if rows cannot be used, are empty, or are pairs where the cascade reads single texts (or
            the other way round), before any stage has run.
        CascadeError: if the cascade has one stage only, or a number is out of range.
    """
    terms = DriftConfig(
        _level(cascade, min_agreement), tolerance=tolerance, confidence_level=confidence_level
    )
    files = [
        load_examples(source, columns=columns, labels=False, groups=False, split="validation")
        for source in (reference, new)
    ]
    for rows in files:
        _check_kind(cascade, rows)
    hashes = [rows.hashes() for rows in files]
    same = np.array_equal(np.unique(hashes[0]), np.unique(hashes[1]))
    old, now = (stage_outputs(cascade, rows.texts) for rows in files)
    found = compare_outputs(old, now, cascade.operating_point.thresholds, terms=terms, same_rows=same)
    return found, tuple(_notices(cascade, *files))


def _check_kind(cascade: Cascade, rows: Examples) -> None:
    if cascade.spec is None:
        return
    kinds = {1: "single texts", 2: "pairs of texts"}
    given, wanted = (1 if isinstance(rows.texts[0], str) else 2), cascade.spec.texts_per_row
    if given != wanted:
        raise DataError(
            f"{rows.source}: this cascade was made for {kinds[wanted]}, got {kinds[given]}. Name the text "
            "column with --text-column (twice for pairs)."
        )


def _level(cascade: Cascade, min_agreement: float | None) -> AgreementTarget | None:
    if min_agreement is not None:
        return AgreementTarget(min_agreement, "asked")
    certificate = cascade.operating_point.certificate
    kept = () if certificate is None else certificate.guarantees
    promised = [one.guarantee.level for one in kept if one.guarantee.name == "min_agreement"]
    return AgreementTarget(promised[0], "certificate") if promised else None


def _notices(cascade: Cascade, reference: Examples, new: Examples) -> Iterator[str]:
    """What makes rows speak less clearly than their number says."""
    for name, rows in (("reference", reference), ("new", new)):
        hashes = rows.hashes()
        repeated = len(hashes) - len(np.unique(hashes))
        if repeated > MANY_REPEATS * len(hashes):
            yield (
                f"{repeated:,} of the {len(rows):,} {name} rows repeat an earlier one. Intervals take each "
                "row as drawn by itself, which holds for traffic that repeats itself, not for a doubled file."
            )
        seen = {} if cascade.path is None else read_used_rows(cascade.path).seen(hashes)
        if seen.get("train"):
            yield (
                f"{seen['train']:,} of the {len(rows):,} {name} rows were trained on: stages are surer of "
                "these, so a difference may be theirs. Give rows that nothing was trained on."
            )
    shared = int(np.isin(new.hashes(), reference.hashes()).sum())
    if shared:
        yield f"{shared:,} of the {len(new):,} new rows are in the reference too."
    certificate = cascade.operating_point.certificate
    for kept in () if certificate is None else certificate.guarantees:
        if kept.guarantee.name != "min_agreement":
            yield f"the folder also promises {kept.guarantee.words}; only labelled rows can test that."
