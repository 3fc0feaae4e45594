"""Exports checkpoints to ONNX, which engines without torch run."""

from __future__ import annotations

import contextlib
import inspect
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cascadebert.atomic import atomic_file
from cascadebert.errors import StageError, extra
from cascadebert.inference.cascade import Cascade
from cascadebert.inference.engines.base import ENGINE_FILE, TokenBatch
from cascadebert.inference.engines.load import load_engine, stage_kind
from cascadebert.inference.engines.torch import (
    load_classifier,
    max_positions,
    model_inputs,
    plain_token,
    quiet_transformers,
    takes_token_types,
    token_table,
)
from cascadebert.persistence.checkpoint_config import read_config, resolve_checkpoint
from cascadebert.persistence.folder import SPEC_FILE

with extra("train"):
    import onnxscript  # noqa: F401  (torch's exporter needs it)
    import torch
    from transformers import PreTrainedModel

CHECKED_LENGTH, TOLERANCE = 1024, 1e-2
EXPORTED = frozenset(
    "albert bart bert big_bird biogpt bloom camembert data2vec-text deberta deberta-v2 distilbert electra "
    "ernie esm eurobert falcon gemma gemma2 gemma3_text gpt2 gpt_neo gpt_neox gte jina_embeddings_v3 llama "
    "mbart megatron-bert mistral mobilebert modernbert modernbert-decoder mpnet mt5 nomic_bert opt phi qwen2 "
    "qwen3 rembert roberta roberta-prelayernorm roformer squeezebert stablelm t5 xlm xlm-roberta "
    "xlm-roberta-xl".split()
)
"""Families whose export the tests run: they are not tried before training."""


def write_engine_file(path: Path, engine: str) -> None:
    """Write the ONNX file into a checkpoint folder if the engine runs it; for "torch", remove it."""
    for leftover in path.glob(f".*.{ENGINE_FILE}"):  # of an interrupted export
        leftover.unlink()
    if engine == "torch":
        (path / ENGINE_FILE).unlink(missing_ok=True)
    elif stage_kind(path).own_engine is None and not (path / ENGINE_FILE).is_file():
        export_onnx(path)
        check_logits(path, engine)


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Suppress what torch's exporter logs and warns about its own internals."""
    exporter_log = logging.getLogger("torch.onnx")
    level = exporter_log.level
    exporter_log.setLevel(logging.ERROR)
    try:
        with quiet_transformers(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter_log.setLevel(level)


def export_onnx(path: Path) -> None:
    """Write `model.onnx`, for any number of rows of any length, into the folder of a fine-tuned classifier.

    Raises StageError if torch cannot export the model.
    """
    with atomic_file(path / ENGINE_FILE) as file:
        _export(load_classifier(path), file, path)


def check_logits(path: Path, engine: str) -> None:
    """Compare an engine's logits with torch's: of rows of two lengths, and of one as long as the model reads.

    Raises StageError, and removes the file, if they differ: OpenVINO computes FNet's transform otherwise.
    """
    model, exported = load_classifier(path).eval(), load_engine(path, engine=engine, precision="float32")
    token, rng = plain_token(model), np.random.default_rng(0)
    size, longest = len(token_table(model)), max_positions(model) or CHECKED_LENGTH
    for rows, length in ((2, 12), (1, min(longest, CHECKED_LENGTH))):
        mask = np.arange(length) < np.array([[length], [length - 5]][:rows])
        ids = np.where(mask, rng.integers(0, size, mask.shape), model.config.pad_token_id or 0)
        ids[:, 0] = token
        batch = TokenBatch(ids, mask.astype(np.int64), np.zeros_like(ids))
        with torch.inference_mode():
            wanted = model(**model_inputs(batch, takes_token_types(model))).logits.numpy()
        if not np.allclose(exported.logits(batch), wanted, rtol=TOLERANCE, atol=TOLERANCE):
            (path / ENGINE_FILE).unlink()
            raise StageError(
                f"{path}: at {length} tokens {engine} computes other logits than torch for this "
                f"{model.config.model_type} model. Use --engine torch."
            )


def check_export(source: Path, engine: str, **config: Any) -> None:
    """Raise StageError if the engine needs an export that torch cannot make, by trying it.

    `config` is that of `load_classifier`. Families in `EXPORTED` are known to work.
    """
    family = read_config(source).get("model_type")
    if engine == "torch" or stage_kind(source).own_engine is not None or family in EXPORTED:
        return
    with tempfile.TemporaryDirectory() as temporary:
        _export(load_classifier(source, **config), Path(temporary) / ENGINE_FILE, source)


def _export(model: PreTrainedModel, file: Path, path: Path) -> None:
    model.eval().requires_grad_(False)
    model.config.use_cache = False  # of decoders; a text is read once
    reads_mask = "attention_mask" in inspect.signature(model.forward).parameters  # unlike FNet
    names = ["input_ids"] + ["attention_mask"] * reads_mask + ["token_type_ids"] * takes_token_types(model)
    any_shape = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    try:
        with _quiet_exporter():
            torch.onnx.export(
                model,
                (),
                file,
                kwargs={name: torch.full((2, 9), plain_token(model)) for name in names},
                dynamic_shapes=dict.fromkeys(names, any_shape),
                input_names=names,
                output_names=["logits"],
                external_data=False,
                verbose=False,
                dynamo=True,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        raise StageError(
            f"{path}: {model.config.model_type} models run with --engine torch only: torch cannot export them"
        ) from error


@contextlib.contextmanager
def exported_for(path: str | Path, cascade: Cascade) -> Iterator[Path]:
    """The folder of a fine-tuned classifier (or saved cascade) with the file that the cascade's engine runs.

    If the file is missing it is exported in a temporary copy; the folder itself is not changed. Raises
    StageError if the classifier cannot be exported, MissingExtra if the exporter is not installed.
    """
    folder, engine = resolve_checkpoint(path), cascade.stages[-1].engine.name
    has_file = any((folder / name).is_file() for name in (SPEC_FILE, ENGINE_FILE))
    if engine == "torch" or has_file or stage_kind(folder).own_engine is not None:
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / Path(path).name
        shutil.copytree(folder, copy)
        write_engine_file(copy, engine)
        yield copy
