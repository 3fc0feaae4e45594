"""`cascadebert distill`."""

from __future__ import annotations

from typing import Annotated

from cascadebert.cli import options as o
from cascadebert.cli.render import print_distilled_models
from cascadebert.timing import now
from cascadebert.training.config import DistillConfig


def distill(
    large: Annotated[str, o.argument("LARGE", "Encoder: folder or Hub repository.")],
    *,
    num_layers: Annotated[list[int], o.option("Depth; repeat it for several models.", "K")],
    output: o.Output,
    hidden_size: Annotated[list[int] | None, o.option("Width; once, or once for each depth.", "H")] = None,
    embedding_size: Annotated[int | None, o.option("Width of token embeddings (ELECTRA only).", "E")] = None,
    corpus: Annotated[str | None, o.option("Text: txt, jsonl, parquet or a folder of them.", "F")] = None,
    text_column: o.TextColumns = None,
    config: DistillConfig,
    overwrite: o.Overwrite = False,
) -> None:
    """Make complete small models from a large encoder and unlabelled text.

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
        columns=o.columns_of(text_column),
        overwrite=overwrite,
        config=config,
    )
    print_distilled_models(models, seconds=now() - start)
