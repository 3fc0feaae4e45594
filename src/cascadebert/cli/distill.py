"""`cascadebert distill`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from cascadebert.cli import options as o
from cascadebert.cli.render import optional, print_json, print_notices, print_table
from cascadebert.evaluation.templates import percent
from cascadebert.timing import now
from cascadebert.training.config import DistillConfig

FAILED_LOSS = 0.9  # held-out loss above which almost nothing was learned
CORPUS = "Unlabeled text: txt, csv, jsonl or parquet file, or a folder of them."


def distill(
    large: Annotated[str, typer.Argument(metavar="LARGE", help="Encoder: folder or Hub repository.")],
    *,
    num_layers: Annotated[list[int], o.option("Number of layers; repeat it for several models.", "K")],
    output: o.Output,
    hidden_size: Annotated[list[int] | None, o.option("Width; once, or once per --num-layers.", "H")] = None,
    embedding_size: Annotated[int | None, o.option("Width of token embeddings (ELECTRA only).", "E")] = None,
    corpus: Annotated[str | None, o.option(CORPUS, "PATH")] = None,
    data_options: o.DataOptions,
    config: DistillConfig,
    overwrite: o.Overwrite = False,
) -> None:
    """Make complete small models from a large encoder and unlabeled text.

    Without --corpus, the first layers of the encoder are saved: NOT a complete model.
    """
    from cascadebert.training.distillation.distill import distill as run

    start = now()
    models = run(
        large,
        num_layers=num_layers,
        hidden_size=hidden_size,
        embedding_size=embedding_size,
        corpus=corpus,
        output=output,
        columns=data_options.columns(),
        overwrite=overwrite,
        config=config,
    )
    seconds = round(now() - start, 1)
    rows = [("model", "layers x width", "parameters", "of the large model's hidden states")]
    for model in models.students:
        explained = "not trained" if model.held_out_loss is None else percent(1 - model.held_out_loss)
        size = f"{model.layers} x {model.hidden}", f"{model.parameters / 1e6:.1f} M"
        rows.append((str(model.path), *size, explained))
        if model.held_out_loss is not None and model.held_out_loss > FAILED_LOSS:
            print_notices([f"{model.path}: almost nothing was learned. Lower --learning-rate."])
    print_table(*rows)
    if models.complete:
        rate, padding = optional(models.tokens_per_second, "{:,.0f}"), percent(models.padding)
        typer.echo(f"{models.tokens / 1e6:.1f} M tokens, {rate} per second; {padding} padding.")
    else:
        print_notices(["truncated models, NOT complete ones. Give --corpus to distill them."])
    print_json(asdict(models), seconds=seconds)
