"""`cascadebert predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cascadebert.cli import options as o
from cascadebert.cli.render import percentages, print_json, print_notices

SOURCE = "csv, tsv, jsonl or parquet file, or a folder of parquet files."


def predict(
    folder: o.Folder,
    source: Annotated[Path, typer.Argument(metavar="IN", help=SOURCE)],
    *,
    output: Annotated[Path, o.option("File to write; its suffix sets its format.", "OUT")],
    data_options: o.DataOptions,
    rejects: Annotated[
        Path | None, o.option("File for invalid rows, which otherwise end the run.", "FILE")
    ] = None,
    engine: o.EngineOptions,
    overwrite: o.Overwrite = False,
) -> None:
    """Add label, confidence and stage to every row of a file; resumes after an interruption."""
    from cascadebert.inference.predict_file import predict_file
    from cascadebert.inference.stage import truncation_notices

    columns, cascade = data_options.columns(), engine.load(folder)
    result = predict_file(cascade, source, output, columns=columns, rejects=rejects, overwrite=overwrite)
    exits = percentages(result.exit_rates)
    typer.echo(f"{result.n:,} predictions written to {output}; exits by stage: {exits}")
    if result.rejected:
        print_notices([f"{result.rejected:,} rows are invalid and were written to {rejects}"])
    print_notices(truncation_notices(cascade.stages, result.truncated, result.n))
    values = {"output": output, "n": result.n, "exit_rates": result.exit_rates, "rejects": result.rejected}
    values["truncated"] = result.truncated
    print_json(values, uncertified_reason=cascade.uncertified_reason)
