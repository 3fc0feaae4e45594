"""Opens what people have as stages: folders, repositories of the Hub, adapters."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from cascadebert.errors import CascadeError, StageError, extra, reason
from cascadebert.inference.engines.static import MODEL_TYPE
from cascadebert.inference.engines.torch import load_classifier, quiet_transformers
from cascadebert.persistence.checkpoint_config import config_label_names, read_config, resolve_checkpoint
from cascadebert.training.tokenizer_files import copy_tokenizer, has_tokenizer

with extra("train"):
    import torch
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

MODEL2VEC_HEADS = ("head.safetensors", "pipeline.skops")
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ADAPTED = "base_model.model."  # what peft puts before the names of weights


@contextmanager
def opened_classifiers(names: Sequence[str | Path]) -> Iterator[list[Path]]:
    """The folders of fine-tuned classifiers; adapters are merged into their base model.

    Raises StageError if one is no checkpoint, or of a format whose head is not one of `transformers`.
    """
    with tempfile.TemporaryDirectory() as temporary:
        sources = [open_checkpoint(name, Path(temporary) / str(number)) for number, name in enumerate(names)]
        for name, source in zip(names, sources, strict=True):
            _check_head(name, source)
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
        except UnpicklingError as error:
            raise StageError(
                f"{file}: not weights that torch opens without running code in the file. Save the checkpoint "
                "again with transformers' save_pretrained."
            ) from error
        except Exception as error:  # of any kind, as the file may hold anything
            raise StageError(
                f"{file} is damaged, or was not downloaded completely ({reason(error)}). Download it again."
            ) from error


def _check_head(name: str | Path, path: Path) -> None:
    """Raise StageError for the classifiers of other libraries, with a way to one that can be used."""
    if (path / "config_setfit.json").is_file() or any(path.glob("model_head.*")):
        raise StageError(
            f"{name}: a SetFit model. Its head is a pickle, which can run any code and is not opened. Train "
            "the same encoder with `cascadebert fit`, or save both as one transformers classifier."
        )
    family = read_config(path).get("model_type") if (path / "config.json").is_file() else None
    if family == "model2vec" or any((path / file).is_file() for file in MODEL2VEC_HEADS):
        raise StageError(
            f"{name}: a model2vec model, which no engine runs. Train a stage of token embeddings "
            "with `cascadebert fit --stage static` instead."
        )


def _merge_adapter(path: Path, output: Path) -> Path:
    """Write the classifier that a PEFT adapter and its base model make."""
    if find_spec("peft") is None:
        raise StageError(f"{path}: an adapter, not a complete model. To merge it: pip install peft")
    if not (path / ADAPTER_WEIGHTS).is_file():
        raise StageError(f"{path}: an adapter without {ADAPTER_WEIGHTS}. Save it again with peft.")
    try:
        _write_merged(path, output)
    except CascadeError:
        raise
    except Exception as error:  # peft and the libraries below it raise many types
        raise StageError(
            f"{path}: an adapter that peft cannot merge into its base model ({reason(error)}). Save it again "
            "with peft, or merge it with `merge_and_unload`."
        ) from error
    return output


def _write_merged(path: Path, output: Path) -> None:
    from peft import PeftConfig, PeftModel, get_peft_model_state_dict

    config, tensors = PeftConfig.from_pretrained(str(path)), load_file(path / ADAPTER_WEIGHTS)
    base = _base_model(path, config.base_model_name_or_path)
    model, unknown = _load_base(base, _head_settings(path, base, tensors))
    if lost := unknown - {name.removeprefix(ADAPTED) for name in tensors}:
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


def _load_base(base: Path, settings: dict[str, Any]) -> tuple[PreTrainedModel, set[str]]:
    """The base model, and the names of its weights that are drawn at random as the checkpoint lacks them."""
    drawn = []
    for seed in (0, 1):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            drawn.append(dict((model := load_classifier(base, **settings)).named_parameters()))
    return model, {name for name, weight in drawn[0].items() if not torch.equal(weight, drawn[1][name])}


def _base_model(path: Path, name: str | None) -> Path:
    if not name:
        raise StageError(
            f"{path}: an adapter that names no base model. Write it into base_model_name_or_path in "
            f"{ADAPTER_CONFIG}."
        )
    try:
        return resolve_checkpoint(name)
    except StageError as error:
        raise StageError(
            f"{path}: an adapter whose base model {name!r} is not found. Correct base_model_name_or_path in "
            f"{ADAPTER_CONFIG}."
        ) from error


def _head_settings(path: Path, base: Path, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """The number of labels, and their names where they are known, if the adapter has the head.

    The last layer of the head has one row per label.
    """
    with quiet_transformers(), torch.device("meta"):
        config = AutoConfig.from_pretrained(base, local_files_only=True)
        model = AutoModelForSequenceClassification.from_config(config)
    body = f"{model.base_model_prefix}."
    layers = [name for name, weight in model.named_parameters() if weight.ndim == 2]
    head = [name for name in layers if not name.startswith(body)]
    if not head or ADAPTED + head[-1] not in tensors:
        return {}
    labels = len(tensors[ADAPTED + head[-1]])
    given = read_config(path) if (path / "config.json").is_file() else {}
    names = config_label_names(given, path) if "id2label" in given else ()
    if len(names) != labels:
        return {"num_labels": labels}
    columns = dict(enumerate(names))
    return {"num_labels": labels, "id2label": columns, "label2id": {name: i for i, name in columns.items()}}
