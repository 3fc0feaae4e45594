"""Makes a cascade of existing classifiers: only thresholds are selected."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cascadebert.data.columns import Columns
from cascadebert.data.dataset import Examples, load_examples, shorten
from cascadebert.errors import StageError
from cascadebert.inference.cascade import Cascade
from cascadebert.inference.engines.load import resolve_engine
from cascadebert.persistence.checkpoint_config import resolve_checkpoint
from cascadebert.persistence.folder import UsedRows, ensure_writable_directory
from cascadebert.thresholds.operating_point import Target
from cascadebert.training.build_cascade import build_cascade, prepare_stages
from cascadebert.training.checkpoints import (
    check_stage_order,
    check_tokenizer,
    copy_checkpoint,
    count_flops,
    weight_files,
)
from cascadebert.tuning.tune import needs_labels
from cascadebert.types import CostUnit, ScoreChoice

if TYPE_CHECKING:
    import datasets


def assemble(
    stages: Sequence[str | Path],
    *,
    data: str | Path | datasets.Dataset | Examples,
    target: Target,
    output: str | Path,
    columns: Columns | None = None,
    max_length: int | None = None,
    cost_unit: CostUnit = "flops",
    score: ScoreChoice = "max_probability",
    engine: str = "auto",
    precision: str = "auto",
    overwrite: bool = False,
) -> Cascade:
    """Take fine-tuned classifiers as they are, select thresholds on held-out examples, and save one folder.

    Args:
        stages: Two or more fine-tuned checkpoints from small to large: folders or repositories of the Hub,
            whose labels have the same names, in any order.
        data: Examples that no stage was trained on. Without labels the target must be a speed-up or
            agreement with the last stage.
        target: The requirement to meet on those examples.
        output: The folder to write.
        columns: Names of the columns, if they are not the usual ones.
        max_length: Maximum tokens per text; by default 128.
        cost_unit: The unit of cost that the speed-up refers to.
        score: The score to compare with thresholds; "auto" selects one on the examples.
        engine: The engine to run on: "openvino", "onnxruntime", "torch", or "auto": the first that is
            installed, but torch where there is a CUDA device.
        precision: "float32", "bfloat16", or "auto" for the engine's own choice on this processor.
        overwrite: Replace an existing output folder.

    Returns:
        The saved cascade, loaded.

    Raises:
        CascadeError: If data, stages or target cannot be used; nothing is written.
    """
    output = Path(output)
    ensure_writable_directory(output, overwrite=overwrite)
    engine, precision = resolve_engine(engine, precision)
    examples = load_examples(data, columns=columns, labels=needs_labels(target), split="validation")
    names = [str(stage) for stage in stages]
    sources = [resolve_checkpoint(stage) for stage in stages]
    ensure_writable_directory(output, overwrite=overwrite, sources=sources)
    for source in sources:
        weight_files(source)
        check_tokenizer(source)
    check_stage_order(names, [count_flops(source) for source in sources])
    with tempfile.TemporaryDirectory(dir=output.absolute().parent, prefix=f".{output.name}-") as temporary:
        copies = [Path(temporary) / f"stage-{number}" for number in range(1, len(sources) + 1)]
        for source, copy in zip(sources, copies, strict=True):
            copy_checkpoint(source, copy)
        loaded = prepare_stages(copies, names, max_length=max_length, engine=engine, precision=precision)
        _check_labels(examples, loaded[-1].label_names, names[-1])
        empty = np.empty(0, dtype=np.uint64)
        return build_cascade(
            loaded,
            examples,
            target=target,
            cost_unit=cost_unit,
            score=score,
            output=output,
            rows=UsedRows(empty, examples.hashes(), empty),
            provenance={"made_by": "assemble", "rows": {"tune": len(examples)}},
            overwrite=overwrite,
        )


def _check_labels(examples: Examples, names: tuple[str, ...], stage: str) -> None:
    labels = sorted(set(examples.labels or ()))
    if not set(labels) <= set(names):
        raise StageError(
            f"the labels of {examples.source} are not those of the stages. {examples.source}, column "
            f"'{examples.label_column}': {shorten(labels)}. {stage}: {shorten(names)}. "
            "Write the stages' names into the data."
        )
