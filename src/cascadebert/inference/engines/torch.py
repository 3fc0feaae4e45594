"""Runs any `AutoModelForSequenceClassification` in torch, on the CPU or a CUDA device.

A checkpoint is rejected if its encoder weights are missing, unexpected or of another depth: the method's own
release passed the large model's configuration to every stage, so a 2-layer checkpoint silently became 12
layers, ten of them random.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np

from cascadebert.errors import StageError, extra, reason
from cascadebert.inference.engines.base import TokenBatch, check_precision
from cascadebert.inference.tokenizer import gives_token_types
from cascadebert.persistence.checkpoint_config import read_config
from cascadebert.types import Logits, PaddingSide, Texts

with extra("train"):
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel
    from transformers.modeling_outputs import SequenceClassifierOutput
    from transformers.utils import logging as transformers_logging

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
BUFFERS = ("position_ids", "token_type_ids", "inv_freq")
POOLER = "pooler"
PLAIN_OUTPUTS = {
    "return_dict": True,
    "output_hidden_states": False,
    "output_attentions": False,
    "chunk_size_feed_forward": 0,  # chunks save memory, and fail where they do not divide the length
}  # settings of a configuration that change the form of the outputs, not the logits

# fuses small operations, for any number of rows and any length
compile_module = functools.partial(torch.compile, dynamic=True)


def has_cuda() -> bool:
    """True if torch finds a CUDA device."""
    return bool(torch.cuda.is_available())


def precisions() -> tuple[str, ...]:
    """The precisions that this device multiplies in, the most exact first; float32 alone on a processor."""
    native = has_cuda() and torch.cuda.is_bf16_supported(including_emulation=False)
    return ("float32", "bfloat16") if native else ("float32",)


def resolve_precision(precision: str) -> str:
    """The precision requested; "auto" is bfloat16 on a CUDA device that supports it, else float32.

    Raises StageError if the precision is unknown.
    """
    return check_precision("torch", precision, PRECISIONS, auto=precisions()[-1])


class TorchEngine:
    """A checkpoint in evaluation mode; compiled if it runs in bfloat16 on a CUDA device."""

    name = "torch"
    streams = 1

    def __init__(self, path: Path, *, precision: str = "auto") -> None:
        self.precision = resolve_precision(precision)
        self.device = "cuda" if has_cuda() else "cpu"
        model = load_classifier(path).eval()
        self.max_length = max_positions(model)
        padding, rows = model.config.get_text_config().pad_token_id, len(token_table(model))
        if padding is not None and padding >= rows:
            raise StageError(
                f"{path}: config.json says pad_token_id: {padding}, but the model embeds {rows:,} tokens. "
                "Correct it, or make the model a stage with fit or assemble, which do."
            )
        model.to(self.device, PRECISIONS[self.precision])
        compiles = self.device == "cuda" and self.precision == "bfloat16"
        self._model: Callable[..., Any] = compile_module(model) if compiles else model
        self._token_types = takes_token_types(model, given=gives_token_types(path))

    @torch.inference_mode()
    def logits(self, batch: TokenBatch) -> Logits:
        """(rows, num_labels) in float32."""
        inputs = model_inputs(batch, self._token_types)
        outputs = self._model(**{name: tensor.to(self.device) for name, tensor in inputs.items()})
        return np.asarray(outputs.logits.float().cpu().numpy())


def takes_token_types(model: PreTrainedModel, *, given: bool = False) -> bool:
    """True if the model tells the two texts of a pair apart by token types.

    One without a table of types may still read them (XLNet, GPT-2): where they are `given` by its tokenizer.
    """
    accepted = "token_type_ids" in inspect.signature(model.forward).parameters
    types = getattr(model.config, "type_vocab_size", None)
    return accepted and (given if types is None else types > 1)


def model_inputs(batch: TokenBatch, token_types: bool) -> dict[str, torch.Tensor]:
    """A token batch as the keyword arguments of a `transformers` model."""
    names = ["input_ids", "attention_mask"] + ["token_type_ids"] * token_types
    return {name: torch.from_numpy(getattr(batch, name)) for name in names}


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Suppress the load reports and progress bars of `transformers`; its errors still propagate."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def load_classifier(path: Path, **config: Any) -> PreTrainedModel:
    """Load a complete classifier in float32.

    `config` replaces entries of the checkpoint's configuration. With it a new head may be created (for
    training); without it the head must be in the checkpoint. Raises StageError if the folder does not open,
    weights are missing or unexpected, or the depth differs from the configuration's.
    """
    given = read_config(path)  # reports what is no checkpoint, or a quantized one
    for name, plain in PLAIN_OUTPUTS.items():
        if not isinstance(given.get(name, plain), (type(plain), NoneType)):
            kind = type(plain).__name__
            raise StageError(f"{path}: config.json says {name}: {given[name]!r:.40}; expected a {kind}")
    try:
        with quiet_transformers():
            AutoConfig.from_pretrained(path, local_files_only=True)  # also checks what is replaced below
            loaded, info = AutoModelForSequenceClassification.from_pretrained(
                path,
                dtype=torch.float32,
                output_loading_info=True,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # reported below
                **PLAIN_OUTPUTS,
                **config,
            )
    except Exception as error:  # transformers and the libraries below it raise many types
        raise StageError(f"{path}: not a classifier that transformers can open ({reason(error)})") from error
    model: PreTrainedModel = loaded
    _check_complete(path, model, info, new_head=bool(config))
    if model.config.is_encoder_decoder:
        model.forward = functools.partial(_classify_at_last_end, model)
    return model


def layer_lists(model: torch.nn.Module) -> dict[str, torch.nn.ModuleList]:
    """The `ModuleList`s of a model, by name."""
    return {name: part for name, part in model.named_modules() if isinstance(part, torch.nn.ModuleList)}


def _count(layers: torch.nn.ModuleList) -> int:
    """The number of layers, of all blocks where a list holds lists."""
    return sum(_count(part) if isinstance(part, torch.nn.ModuleList) else 1 for part in layers)


def _check_complete(path: Path, model: PreTrainedModel, info: dict[str, Any], *, new_head: bool) -> None:
    prefix, config = f"{model.base_model_prefix}.", model.config
    missing = sorted(info["missing_keys"])
    mismatched = sorted(info["mismatched_keys"], key=lambda entry: str(entry[0]))
    if new_head:
        missing = [key for key in missing if key.startswith(prefix) and not key.startswith(prefix + POOLER)]
        mismatched = [entry for entry in mismatched if entry[0].startswith(prefix)]
    else:
        _check_has_head(path, model, missing)
    _check_shapes(path, config.num_labels or 0, mismatched)
    encoder = {name for name, _ in model.base_model.named_children()} - {POOLER}
    unexpected = [
        key
        for key in sorted(info["unexpected_keys"])
        if key.removeprefix(prefix).split(".")[0] in encoder and not key.endswith(BUFFERS)
    ]
    for problem, keys in (("missing", missing), ("unexpected", unexpected)):
        if keys:
            raise StageError(
                f"{path}: {len(keys)} weights are {problem}, such as {keys[0]}. A stage must be complete: "
                "its weights and its own config.json belong together."
            )
    _check_depth(path, model)


def _check_has_head(path: Path, model: PreTrainedModel, missing: Sequence[str]) -> None:
    prefix = f"{model.base_model_prefix}."
    head = {name for name, _ in model.named_parameters() if not name.startswith(prefix)}
    if head and head <= set(missing) and all(key in head or POOLER in key for key in missing):
        made_for = ", ".join(model.config.architectures or ()) or "an encoder"
        raise StageError(
            f"{path}: no weights of a classification head, such as {min(head)}: it was saved as {made_for}, "
            "and never fine-tuned as a classifier. Train it with `cascadebert fit`."
        )


def _check_shapes(path: Path, num_labels: int, mismatched: Sequence[tuple[str, Any, Any]]) -> None:
    if not mismatched:
        return
    name, saved, expected = mismatched[0]
    if saved[1:] == expected[1:] and expected[0] == num_labels:
        raise StageError(
            f"{path}: the head gives {saved[0]} logits ({name}), but its config.json names {num_labels} "
            "labels. Name as many in id2label, and leave out num_labels."
        )
    raise StageError(
        f"{path}: config.json does not fit the weights: {name} is {list(saved)}, not {list(expected)}. "
        "A stage must be complete: its weights and its own config.json belong together."
    )


def _check_depth(path: Path, model: PreTrainedModel) -> None:
    config = model.config
    depths = {_count(layers) for layers in layer_lists(model.base_model).values()} or {0}
    runs_layers_once = not hasattr(config, "num_hidden_groups")  # unlike ALBERT
    if runs_layers_once and config.num_hidden_layers not in depths:
        raise StageError(
            f"{path}: config.json says {config.num_hidden_layers} layers, the model has {max(depths)}"
        )


class _TableReads(TorchDispatchMode):
    """Records, for every table that one row of tokens is looked up in, its size and the highest index."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.highest: dict[int, int] = {}
        self.sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.embedding.default and args[1].numel() == args[1].shape[-1]:
            table, indices = args[:2]
            self.highest[table.data_ptr()] = int(indices.max())
            self.sizes[table.data_ptr()] = len(table)
        return func(*args, **(kwargs or {}))


@torch.inference_mode()
def max_positions(model: PreTrainedModel) -> int | None:
    """The most tokens that a model's position tables hold; None if it has none.

    The model is run on one row of 4 tokens and one of 8: where the highest index that is looked up in a table
    grows with them, the table holds positions. This finds, too, where the model starts to count. Raises
    StageError if the model does not run.
    """
    reads = []
    for length in (4, 8):
        ids = torch.full((1, length), plain_token(model), device=model.device)
        try:
            with quiet_transformers(), _TableReads() as read:
                model(input_ids=ids, attention_mask=torch.ones_like(ids))
        except Exception as error:  # what a model's own code raises for a configuration that it cannot run
            raise StageError(f"{model.name_or_path}: the model does not run ({reason(error)})") from error
        reads.append(read)
    short, long = reads
    limits = [
        long.sizes[table] - (highest - 7)  # the first index that is used
        for table, highest in long.highest.items()
        if highest - short.highest.get(table, highest) == 4
    ]
    return min(limits, default=None)


def token_table(model: PreTrainedModel) -> torch.Tensor:
    """(tokens, width) the embeddings of tokens."""
    table: torch.Tensor = model.get_input_embeddings().get_parameter("weight")
    return table


def plain_token(model: PreTrainedModel) -> int:
    """A token id that is not padding: the end token, which encoder-decoders need, where there is one."""
    config = model.config.get_text_config()
    end = getattr(config, "eos_token_id", None)
    ends = end if isinstance(end, list) else [end]
    rows = range(len(token_table(model)))
    return next(int(i) for i in (*ends, 0, 1) if i in rows and i != config.pad_token_id)


def _classify_at_last_end(
    model: PreTrainedModel, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
) -> SequenceClassifierOutput:
    """The forward of an encoder-decoder (BART, T5), for rows of different numbers of end tokens too.

    That of `transformers` gives the same logits row by row, but raises where the numbers in a batch differ:
    as soon as one text contains the end token itself.
    """
    ends = input_ids == model.config.eos_token_id
    if not torch.compiler.is_exporting() and not bool(ends.any(dim=1).all()):
        raise StageError(
            f"a {model.config.model_type} model reads its answer at the end token; a text has none"
        )
    shift = getattr(model, "_shift_right", None)  # T5; BART does this itself
    hidden = model.base_model(
        input_ids=input_ids,
        attention_mask=attention_mask,
        decoder_input_ids=shift(input_ids) if shift else None,
        use_cache=False,
    )[0]
    rows, positions = (torch.arange(size, device=hidden.device) for size in input_ids.shape)
    last = (positions * ends).argmax(dim=1)
    head: Callable[[torch.Tensor], torch.Tensor] = model.get_submodule("classification_head")
    return SequenceClassifierOutput(logits=head(hidden[rows, last]))


def load_pipeline(
    path: Path, *, max_length: int, padding_side: PaddingSide = "right"
) -> Callable[[Texts, int], list[int]]:
    """The usual way to run a classifier, `transformers.pipeline` in float32: the baseline of benchmarks.

    Batches are padded at the right unless `padding_side` is "left", with the model's own padding token: the
    tokenizer of a decoder may have none. Returns a function of (texts or pairs, batch size) that gives label
    ids of the checkpoint's own.
    """
    from transformers import pipeline  # slow to import

    model = load_classifier(path)
    model.config.update({"use_cache": False, "use_mems_eval": False})  # no outputs but logits (XLNet, GPT-2)
    with quiet_transformers():
        classify = pipeline("text-classification", model=model, tokenizer=str(path))
    tokenizer: Any = classify.tokenizer
    tokenizer.padding_side = "left" if padding_side == "left" else "right"
    if tokenizer.pad_token is None:
        # past the setter, which takes tokens only: this row of the token table has none
        vars(tokenizer)["pad_token_id"] = model.config.get_text_config().pad_token_id
    label_ids = {name: int(i) for i, name in (classify.model.config.id2label or {}).items()}

    def predict(texts: Texts, batch_size: int) -> list[int]:
        inputs: list[Any] = [
            text if isinstance(text, str) else {"text": text[0], "text_pair": text[1]} for text in texts
        ]
        with quiet_transformers():
            outputs = classify(inputs, batch_size=batch_size, truncation=True, max_length=max_length)
        return [label_ids[output["label"]] for output in outputs]

    return predict
