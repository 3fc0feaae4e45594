"""Opens what people have as stages: folders, repositories of the Hub, adapters."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cascadebert.errors import StageError, extra
from cascadebert.inference.engines.static import MODEL_TYPE
from cascadebert.inference.engines.torch import load_classifier, quiet_transformers
from cascadebert.persistence.checkpoint_config import read_config, resolve_checkpoint
from cascadebert.training.tokenizer_files import copy_tokenizer, has_tokenizer

with extra("train"):
    import torch
    from safetensors.torch import load_file
    from transformers import PreTrainedModel

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@contextmanager
def opened_classifiers(names: Sequence[str | Path]) -> Iterator[list[Path]]:
    """The folders of fine-tuned classifiers; adapters are merged into their base model.

    Raises StageError if one is no checkpoint, or of a format whose head is not one of `transformers`.
    """
    with tempfile.TemporaryDirectory() as temporary:
        sources = [open_checkpoint(name, Path(temporary) / str(number)) for number, name in enumerate(names)]
        for source in sources:
            _check_head(source)
        yield sources


def open_checkpoint(name: str | Path, temporary: Path) -> Path:
    """The folder of a checkpoint; that of an adapter is made in `temporary`, merged into its base model.

    Raises StageError if there is none, its weights are not only tensors, or an adapter cannot be merged.
    """
    if str(name) == MODEL_TYPE and not Path(name).is_dir():
        raise StageError(
            f"a {MODEL_TYPE} stage is trained, which `assemble` does not do. Make the cascade with `fit`, or "
            "give the folder of a trained one, such as my-cascade/stage-1."
        )
    path = resolve_checkpoint(name)
    if (path / ADAPTER_CONFIG).is_file():
        return _merge_adapter(path, temporary / path.name)
    _check_pickles(path)
    return path


def _check_pickles(path: Path) -> None:
    """Raise StageError if weights that torch saved hold anything but tensors: nothing else is opened."""
    if any(path.glob("model*.safetensors")):
        return
    for file in path.glob("pytorch_model*.bin"):
        try:
            torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # of any kind, as the file may hold anything
            raise StageError(
                f"{file}: not weights that torch opens without running code in the file. Save the checkpoint "
                "again with transformers' save_pretrained."
            ) from error


def _check_head(path: Path) -> None:
    """Raise StageError for the classifiers of other libraries, with a way to one that can be used."""
    if any(path.glob("model_head.*")):
        raise StageError(
            f"{path}: a SetFit model. Its head is a pickle, which can run any code and is not opened. Train "
            "the same encoder with `cascadebert fit`, or save both as one transformers classifier."
        )
    if any((path / name).is_file() for name in ("head.safetensors", "pipeline.skops")):
        raise StageError(
            f"{path}: a model2vec classifier, whose head no engine runs. Train a stage of token embeddings "
            "with `cascadebert fit --stage static` instead."
        )


def _merge_adapter(path: Path, output: Path) -> Path:
    """Write the classifier that a PEFT adapter and its base model make."""
    if find_spec("peft") is None:
        raise StageError(f"{path}: an adapter, not a complete model. To merge it: pip install peft")
    from peft import PeftConfig, PeftModel, get_peft_model_state_dict

    if not (path / ADAPTER_WEIGHTS).is_file():
        raise StageError(f"{path}: an adapter without {ADAPTER_WEIGHTS}. Save it again with peft.")
    config, tensors = PeftConfig.from_pretrained(str(path)), load_file(path / ADAPTER_WEIGHTS)
    base = _base_model(path, config.base_model_name_or_path)
    model, unknown = _load_base(base, _head_settings(path, config, tensors))
    if lost := unknown - {name.removeprefix("base_model.model.") for name in tensors}:
        raise StageError(
            f"{path}: neither the adapter nor {base} holds the weights {', '.join(sorted(lost))}. Train the "
            "adapter again with them in modules_to_save."
        )
    with quiet_transformers(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what does not fit is detected here
        adapted = PeftModel.from_pretrained(model, str(path))
    if set(get_peft_model_state_dict(adapted)) != set(tensors):
        raise StageError(f"{path}: the tensors of {ADAPTER_WEIGHTS} are not those that {base} takes")
    with quiet_transformers():
        adapted.merge_and_unload().save_pretrained(output)
    copy_tokenizer(path if has_tokenizer(path) else base, output)
    return output


def _load_base(base: Path, settings: dict[str, Any]) -> tuple[PreTrainedModel, set[str]]:
    """The base model, and the names of its weights that are drawn at random as the checkpoint lacks them."""
    drawn = []
    for seed in (0, 1):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            drawn.append(dict((model := load_classifier(base, **settings)).named_parameters()))
    return model, {name for name, weight in drawn[0].items() if not torch.equal(weight, drawn[1][name])}


def _base_model(path: Path, name: str | None) -> Path:
    try:
        return resolve_checkpoint(name or "")
    except StageError as error:
        raise StageError(
            f"{path}: an adapter whose base model {name!r} is not found. Correct base_model_name_or_path in "
            f"{ADAPTER_CONFIG}."
        ) from error


def _head_settings(path: Path, config: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    """The number of labels, and their names where they are known, if the adapter has the head.

    The head is what the adapter stores as a whole; its last layer has one row per label.
    """
    heads = [
        tensor
        for name, tensor in tensors.items()
        if tensor.ndim == 2 and set(config.modules_to_save or ()) & set(name.split("."))
    ]
    if not heads:
        return {}
    labels = min(len(head) for head in heads)
    named = read_config(path).get("id2label") if (path / "config.json").is_file() else None
    names = {int(i): name for i, name in (named or {}).items()}
    if len(names) != labels:
        return {"num_labels": labels}
    return {"num_labels": labels, "id2label": names, "label2id": {name: i for i, name in names.items()}}
