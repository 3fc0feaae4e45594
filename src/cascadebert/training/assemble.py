"""Make a cascade of classifiers that exist already: only thresholds are picked."""

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
    """Take fine-tuned classifiers as they are, pick thresholds on held-out rows, save one folder.

    Args:
        stages: two or more fine-tuned checkpoints from small to large: folders or repositories of the Hub,
            whose labels are the same by name, in any order.
        data: rows that none of them was trained on. Without labels the target is a speed-up or agreement
            with the last stage.
        target: what must hold on those rows.
        output: the folder to write.
        columns: names of the columns, where not the usual ones.
        max_length: longest row in tokens; default 128.
        cost_unit: what speed-up is counted in.
        score: what to compare with thresholds; "auto" picks one on the tune rows.
        engine: what will run it: "openvino", "onnxruntime", "torch", or "auto": the first that is
            installed, but torch where there is a CUDA device.
        precision: "float32", "bfloat16", or "auto" for the engine's own choice on this processor.
        overwrite: replace an existing output folder.

    Raises:
        CascadeError: one of its kinds, for data, stages or targets that cannot be used; nothing is written.

    Returns:
        The saved cascade, loaded.
    """
    output = Path(output)
    ensure_writable_directory(output, overwrite=overwrite)
    engine, precision = resolve_engine(engine, precision)
    rows = load_examples(data, columns=columns, labels=needs_labels(target), split="validation")
    names = [str(stage) for stage in stages]
    sources = [resolve_checkpoint(stage) for stage in stages]
    ensure_writable_directory(output, overwrite=overwrite, sources=sources)
    for source in sources:
        weight_files(source)
        check_tokenizer(source)
    check_stage_order(names, [count_flops(source) for source in sources])
    with tempfile.TemporaryDirectory(dir=output.absolute().parent, prefix=f".{output.name}-") as folder:
        copies = [Path(folder) / f"stage-{number}" for number in range(1, len(sources) + 1)]
        for source, copy in zip(sources, copies, strict=True):
            copy_checkpoint(source, copy)
        opened = prepare_stages(copies, names, max_length=max_length, engine=engine, precision=precision)
        _refuse_labels(rows, opened[-1].label_names, names[-1])
        none = np.empty(0, dtype=np.uint64)
        return build_cascade(
            opened,
            rows,
            target=target,
            cost_unit=cost_unit,
            score=score,
            output=output,
            rows=UsedRows(none, rows.hashes(), none),
            provenance={"made_by": "assemble", "rows": {"tune": len(rows)}},
            overwrite=overwrite,
        )


def _refuse_labels(rows: Examples, names: tuple[str, ...], stage: str) -> None:
    unknown = sorted(set(rows.labels or ()) - set(names))
    if unknown:
        raise StageError(
            f"the labels of {rows.source} are not those of the stages. {rows.source}, column "
            f"'{rows.label_column}': {shorten(sorted(set(rows.labels or ())))}. {stage}: {shorten(names)}. "
            "Write the stages' names into the data."
        )
