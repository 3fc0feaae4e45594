"""From a checkpoint in torch to the file that engines without torch run."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

from cascadebert.errors import StageError, extra
from cascadebert.inference.engines.base import ENGINE_FILE
from cascadebert.inference.engines.torch import takes_token_types
from cascadebert.inference.engines.torch_checkpoint import load_classifier, quiet_transformers
from cascadebert.inference.stage_kind import stage_kind

with extra("train"):
    import onnxscript  # noqa: F401  (torch's exporter needs it)
    import torch
import shutil
import tempfile
from contextlib import contextmanager

from cascadebert.inference.cascade import Cascade
from cascadebert.persistence.checkpoint_config import resolve_checkpoint
from cascadebert.persistence.folder import SPEC_FILE

PART_FILE = f"{ENGINE_FILE}.part"


def write_engine_file(path: Path, engine: str) -> None:
    """Put into a checkpoint folder the file that an engine runs; take away one that it does not.

    Args:
        path: folder of a fine-tuned classifier.
        engine: "openvino", "onnxruntime" or "torch".
    """
    if engine == "torch":
        for left in (path / ENGINE_FILE, path / PART_FILE):
            left.unlink(missing_ok=True)
    elif stage_kind(path).own_engine is None and not (path / ENGINE_FILE).is_file():
        export_onnx(path)


@contextlib.contextmanager
def _calm_exporter() -> Iterator[None]:
    """Without what torch's exporter says of its own innards."""
    log = logging.getLogger("torch.onnx")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)


def export_onnx(path: Path) -> None:
    """Write `model.onnx` into a checkpoint folder: any number of rows of any length.

    Args:
        path: folder of a fine-tuned classifier.

    Raises:
        StageError: if torch cannot export it.
    """
    model = load_classifier(path).eval().requires_grad_(False)
    names = ["input_ids", "attention_mask"] + ["token_type_ids"] * takes_token_types(model)
    example = {name: torch.ones(2, 9, dtype=torch.int64) for name in names}
    part = path / PART_FILE
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    try:
        with quiet_transformers(), _calm_exporter():
            torch.onnx.export(
                model,
                (),
                part,
                kwargs=example,
                dynamic_shapes=dict.fromkeys(names, free),
                input_names=names,
                output_names=["logits"],
                external_data=False,
                verbose=False,
                dynamo=True,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        part.unlink(missing_ok=True)
        raise StageError(f"{path}: torch cannot export this model ({error}). Use --engine torch.") from error
    part.replace(path / ENGINE_FILE)


@contextmanager
def exported_for(path: str | Path, cascade: Cascade) -> Iterator[Path]:
    """The folder of a classifier with the file that the cascade's engine runs.

    Where that is missing it is made in a copy, which is gone afterwards; the folder itself stays as it is.

    Args:
        path: a fine-tuned classifier, or a saved cascade, which has all it needs.
        cascade: to be like.

    Raises:
        StageError: if the classifier cannot be exported.
        MissingExtra: if what exports it is not installed.
    """
    folder, engine = resolve_checkpoint(path), cascade.stages[-1].engine.name
    ready = (
        any((folder / name).is_file() for name in (SPEC_FILE, ENGINE_FILE))
        or stage_kind(folder).own_engine is not None
    )
    if ready or engine == "torch":
        yield folder
        return

    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / Path(str(path)).name
        shutil.copytree(folder, copy)
        write_engine_file(copy, engine)
        yield copy
