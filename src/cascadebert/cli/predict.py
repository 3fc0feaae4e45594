"""`cascadebert predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cascadebert.cli import options as o
from cascadebert.cli.render import console, percentages, print_json, print_notices


def predict(
    folder: o.Folder,
    source: Annotated[Path, o.argument("IN", "csv, tsv, jsonl, parquet or a folder of parquet.")],
    *,
    output: Annotated[Path, o.option("File to write; its suffix is its format.", "OUT")],
    text_column: o.TextColumns = None,
    rejects: Annotated[Path | None, o.option("File for invalid rows, which else end the run.", "F")] = None,
    engine: o.EngineOptions,
    overwrite: o.Overwrite = False,
) -> None:
    """Add label, confidence and stage to every row of a file; resumes after an interruption."""
    from cascadebert.inference.predict_file import predict_file

    columns, cascade = o.columns_of(text_column), engine.load(folder)
    result = predict_file(cascade, source, output, columns=columns, rejects=rejects, overwrite=overwrite)
    exits = percentages(result.exit_rates)
    console().print(f"{result.n:,} predictions written to {output}; exits by stage: {exits}")
    if result.rejected:
        print_notices([f"{result.rejected:,} rows are invalid and were written to {rejects}"])
    values = {
        "output": str(output),
        "n": result.n,
        "exit_rates": result.exit_rates,
        "rejects": result.rejected,
    }
    print_json({**values, "uncertified_reason": cascade.uncertified_reason})
