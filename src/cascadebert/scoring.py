"""Answer every row of a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cascadebert.cascade import Cascade
from cascadebert.data import load_examples
from cascadebert.tables import Table, check_writable, read_table, write_table
from cascadebert.tasks import Columns, find_text
from cascadebert.types import Predictions

ADDED = ("label", "confidence", "stage")


def score_file(
    cascade: Cascade,
    source: Path,
    output: Path,
    *,
    columns: Columns | None = None,
    overwrite: bool = False,
) -> Predictions:
    """Write the rows of a file with the cascade's `label`, `confidence` and `stage` added.

    A column of the input that has one of these names is kept as `input_label` and so on.

    Args:
        cascade: what answers.
        source: csv, tsv, jsonl or parquet.
        output: csv, tsv, jsonl or parquet; written aside and renamed.
        columns: names of the text columns, where not the usual ones.
        overwrite: replace an existing output.

    Raises:
        DataError: naming the row and column of the first bad cell; nothing is written.
    """
    check_writable(output, overwrite=overwrite)
    table = read_table(source)
    wanted = Columns(text=find_text(list(table.columns), columns or Columns(), table.source))
    texts = Table({name: table.columns[name] for name in wanted.text}, table.source)
    answers = cascade.predict(load_examples(texts, columns=wanted, labels=False).texts)
    kept = {_free_name(name, table): cells for name, cells in table.columns.items()}
    added = {
        "label": answers.labels.tolist(),
        "confidence": np.round(answers.confidences, 6).tolist(),
        "stage": answers.stages.tolist(),
    }
    write_table(Table({**kept, **added}, table.source), output)
    return answers


def _free_name(name: str, table: Table) -> str:
    """The name of an input column in the output, out of the way of what is added."""
    if name not in ADDED:
        return name
    name = f"input_{name}"
    while name in table.columns:
        name = f"input_{name}"
    return name
