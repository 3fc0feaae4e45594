"""A small stage cut out of a large one: some of its layers, as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cascadebert.engines.checkpoint import layer_lists, quiet
from cascadebert.errors import StageError, extra
from cascadebert.folder import aside, check_free
from cascadebert.stage import local_folder
from cascadebert.training.sources import copy_tokenizer

with extra("train"):
    import torch
    from transformers import AutoModel, PreTrainedModel

NOT_COMPLETE = (
    "This model is the first {layers} of the {depth} layers of {name}, copied as they are. It is NOT a "
    "complete model in the sense of CascadeBERT: its layers were trained to feed the ones cut off, and "
    "fine-tuning has to make up for that. A model pre-trained at this depth (such as "
    "google/bert_uncased_L-2_H-768_A-12), or one distilled to it, makes a better first stage."
)


def shrink(large: str | Path, *, layers: int, output: str | Path, overwrite: bool = False) -> str:
    """Save the first `layers` layers of an encoder as a model of its own ("BERT-kL" in Li et al. 2021).

    Embeddings, pooler and tokenizer are kept.

    Args:
        large: the encoder: a folder or a repository of the Hub.
        layers: how many of its layers to keep.
        output: the folder to write.
        overwrite: replace an existing one.

    Raises:
        StageError: if the encoder does not open or has not more than `layers` layers.

    Returns:
        What must be known about the new model, in words; its README.md says the same.
    """
    source, output = local_folder(large), Path(output)
    check_free(output, overwrite=overwrite, kind="model", sources=[source])
    with aside(output, overwrite=overwrite, kind="model") as new:
        model = _open(source)
        depth = model.config.num_hidden_layers
        if not 1 <= layers < depth:
            raise StageError(f"{large} has {depth} layers; --layers must be 1 to {depth - 1}, not {layers}")
        with quiet():
            _cut(model, layers).save_pretrained(new)
        copy_tokenizer(source, new)
        said = NOT_COMPLETE.format(layers=layers, depth=depth, name=Path(str(large)).name)
        (new / "README.md").write_text(f"# {output.name}\n\n{said}\n", "utf-8")
    return said


def _open(source: Path) -> PreTrainedModel:
    try:
        with quiet():
            model, info = AutoModel.from_pretrained(
                source, dtype=torch.float32, output_loading_info=True, local_files_only=True
            )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise StageError(f"{source}: not an encoder that transformers can open ({error})") from error
    missing = sorted(key for key in info["missing_keys"] if not key.startswith("pooler"))
    if missing:
        raise StageError(f"{source}: {len(missing)} weights are missing, such as {missing[0]}")
    opened: PreTrainedModel = model
    return opened


def _cut(model: PreTrainedModel, layers: int) -> PreTrainedModel:
    """A new model of the first layers, every weight copied by name."""
    depth = model.config.num_hidden_layers
    stacks = [name for name, stack in layer_lists(model).items() if len(stack) == depth]
    if len(stacks) != 1:
        raise StageError(f"{type(model).__name__} has no single stack of {depth} layers that could be cut")
    sizes: dict[str, Any] = {"num_hidden_layers": layers}
    kinds = getattr(model.config, "layer_types", None)
    if kinds is not None:
        sizes["layer_types"] = kinds[:layers]
    config = type(model.config).from_dict({**model.config.to_dict(), **sizes})
    with quiet():
        small = AutoModel.from_config(config, dtype=torch.float32)
    prefix = f"{stacks[0]}."
    kept = {
        name: weight
        for name, weight in model.state_dict().items()
        if not name.startswith(prefix) or int(name.removeprefix(prefix).split(".")[0]) < layers
    }
    small.load_state_dict(kept, strict=True)
    cut: PreTrainedModel = small
    return cut
