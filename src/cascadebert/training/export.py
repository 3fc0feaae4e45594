"""Exports checkpoints to ONNX, which engines without torch run."""

from __future__ import annotations

import contextlib
import inspect
import logging
import tempfile
import warnings
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from cascadebert.atomic import atomic_file
from cascadebert.errors import StageError, extra, reason
from cascadebert.inference.engines.base import ENGINE_FILE, TokenBatch
from cascadebert.inference.engines.load import load_engine, stage_kind
from cascadebert.inference.engines.torch import (
    load_classifier,
    model_inputs,
    plain_token,
    quiet_transformers,
    takes_token_types,
)
from cascadebert.inference.tokenizer import gives_token_types
from cascadebert.persistence.checkpoint_config import read_config

with extra("train"):
    import onnxscript  # noqa: F401  (torch's exporter needs it)
    import torch
    from transformers import PreTrainedModel

EXPORTED = frozenset(
    "albert bart bert big_bird biogpt bloom camembert data2vec-text deberta deberta-v2 distilbert electra "
    "ernie esm eurobert falcon gemma gemma2 gemma3_text gpt2 gpt_neo gpt_neox gte jina_embeddings_v3 llama "
    "megatron-bert mistral mobilebert modernbert modernbert-decoder mpnet mt5 nomic_bert opt phi qwen2 "
    "qwen3 rembert roberta roberta-prelayernorm roformer squeezebert stablelm t5 xlm xlm-roberta "
    "xlm-roberta-xl".split()
)
"""Families that are known to be exported (`make families`): they are not tried before training."""
PROBE_LENGTH, PROBE_TOLERANCE = 12, 1e-2


def write_engine_file(path: Path, engine: str) -> None:
    """Write the ONNX file into a checkpoint folder if the engine runs it; for "torch", remove it."""
    for leftover in path.glob(f".*.{ENGINE_FILE}"):  # of an interrupted export
        leftover.unlink()
    if engine == "torch":
        (path / ENGINE_FILE).unlink(missing_ok=True)
    elif stage_kind(path).own_engine is None and not (path / ENGINE_FILE).is_file():
        export_onnx(path)


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Suppress what torch's exporter logs, warns and prints about its own internals."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with quiet_transformers(), warnings.catch_warnings(), contextlib.redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def export_onnx(path: Path) -> None:
    """Write `model.onnx`, for any number of rows of any length, into the folder of a fine-tuned classifier.

    Raises StageError if torch cannot export the model.
    """
    with atomic_file(path / ENGINE_FILE) as file:
        _export(load_classifier(path), file, path)


def check_export(source: Path, engine: str, **config: Any) -> None:
    """Raise StageError if the engine needs an export that torch cannot make, or runs it otherwise.

    `config` is that of `load_classifier`. Families in `EXPORTED` are known to work and are not tried.
    """
    family = read_config(source).get("model_type")
    if engine == "torch" or stage_kind(source).own_engine is not None or family in EXPORTED:
        return
    model = load_classifier(source, **config)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model.config.save_pretrained(folder)
        _export(model, folder / ENGINE_FILE, source)
        ids = np.full((1, PROBE_LENGTH), plain_token(model))
        batch = TokenBatch(ids, np.ones_like(ids), np.zeros_like(ids))
        with torch.inference_mode():
            expected = model(**model_inputs(batch, takes_token_types(model))).logits.numpy()
        try:
            exported = load_engine(folder, engine=engine, precision="float32").logits(batch)
            same = np.allclose(exported, expected, rtol=PROBE_TOLERANCE, atol=PROBE_TOLERANCE)
        except Exception:  # each engine raises its own
            same = False
    if not same:
        raise StageError(
            f"{source}: {engine} does not run {family} models as torch does. Use --engine torch."
        )


def _export(model: PreTrainedModel, file: Path, path: Path) -> None:
    model.eval().requires_grad_(False)
    model.config.use_cache = False  # of decoders; a text is read once
    reads_mask = "attention_mask" in inspect.signature(model.forward).parameters  # unlike FNet
    types = takes_token_types(model, given=gives_token_types(path))
    names = ["input_ids"] + ["attention_mask"] * reads_mask + ["token_type_ids"] * types
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
    except Exception as error:  # what a model's own code raises when it is traced
        raise StageError(
            f"{path}: {model.config.model_type} models run with --engine torch only: torch cannot export "
            f"them.\n({reason(_cause(error))})"
        ) from error


def _cause(error: BaseException) -> BaseException:
    """The first error of a chain; the exporter's own tell about its steps only."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
