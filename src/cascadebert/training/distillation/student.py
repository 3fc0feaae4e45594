"""Smaller models of the same family as a large one, initialized from its weights where shapes allow."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cascadebert.errors import StageError, extra, reason
from cascadebert.inference.engines.torch import POOLER, layer_lists, quiet_transformers

with extra("train"):
    import torch
    from torch import Tensor, nn
    from transformers import AutoModel, PreTrainedConfig, PreTrainedModel


# in proportion to the width, in configurations that have them
SCALED_SIZES = (
    "num_attention_heads num_key_value_heads intermediate_size hidden_dim pooler_hidden_size".split()
)

# lists with an entry per layer, in configurations that have them
LAYER_LISTS = ("layer_types", "attention_window")


@dataclass(frozen=True)
class StudentSize:
    """Depth and widths of a student."""

    layers: int
    hidden: int
    embedding: int | None = None  # width of the token table, in families that keep it apart (ELECTRA)

    @property
    def name(self) -> str:
        """Short name, such as `2x128`."""
        return f"{self.layers}x{self.hidden}"


def open_encoder(source: Path) -> PreTrainedModel:
    """A bare encoder in float32; its pooler is None unless it came from the checkpoint.

    Raises StageError if the folder does not open, or encoder weights are missing or unexpected.
    """
    try:
        with quiet_transformers():
            loaded, info = AutoModel.from_pretrained(
                source, dtype=torch.float32, output_loading_info=True, local_files_only=True
            )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise StageError(f"{source}: not an encoder that transformers can open ({error})") from error
    model: PreTrainedModel = loaded
    stack = layer_stack(model)
    missing = sorted(key for key in info["missing_keys"] if not key.startswith(POOLER))
    unexpected = sorted(key for key in info["unexpected_keys"] if f"{stack}." in key)
    for state, keys in (("missing", missing), ("unexpected", unexpected)):
        if keys:
            raise StageError(
                f"{source}: {len(keys)} weights are {state}, such as {keys[0]}. Weights and config.json "
                "belong together."
            )
    if len(missing) < len(info["missing_keys"]):
        setattr(model, POOLER, None)
    return model


def spread_layers(depth: int, layers: int) -> tuple[int, ...]:
    """Evenly spaced layers of `depth`, the first and the last among them; a single layer is the last.

    >>> spread_layers(6, 2), spread_layers(6, 3), spread_layers(6, 1)
    ((0, 5), (0, 2, 5), (5,))
    """
    return tuple(int(i) for i in np.linspace(depth - 1, 0, layers))[::-1]


def make_student(
    teacher: PreTrainedModel, size: StudentSize, *, layers: Sequence[int], seed: int = 0
) -> PreTrainedModel:
    """A model of the teacher's family at another size.

    Weights of equal shape are copied, layer i of the student from layer `layers[i]` of the teacher. Embedding
    tables, less their mean, are projected on the principal directions of the teacher's token table (which
    keep as much of it as any linear map can). All other weights are random, but a pooler is left out where it
    would be: fine-tuning makes a new one.
    """
    stack = layer_stack(teacher)
    layer_number = re.compile(rf"^{re.escape(stack)}\.(\d+)\.")
    config = _student_config(teacher.config, size, layers)
    with quiet_transformers(), torch.random.fork_rng():
        torch.manual_seed(seed)
        student: PreTrainedModel = AutoModel.from_config(config, dtype=torch.float32)
    sources, weights = teacher.state_dict(), student.state_dict()
    tables = {f"{name}.weight" for name, part in student.named_modules() if isinstance(part, nn.Embedding)}
    projection = principal_directions(sources[token_table(teacher)], weights[token_table(student)].shape[1])
    for name, weight in weights.items():
        source = sources.get(layer_number.sub(lambda found: f"{stack}.{layers[int(found[1])]}.", name))
        if source is None:
            continue
        if source.shape == weight.shape:
            weight.copy_(source)
        elif name in tables and source.shape[0] == weight.shape[0]:
            weight.copy_((source - source.mean(dim=0)) @ projection)
    narrower = size.hidden < teacher.config.hidden_size
    if getattr(student, POOLER, None) is not None and (narrower or getattr(teacher, POOLER, None) is None):
        setattr(student, POOLER, None)
    return student


def layer_stack(model: PreTrainedModel) -> str:
    """The name of the one list of layers. Raises StageError if not exactly one has the configured depth."""
    depth = model.config.num_hidden_layers
    stacks = [name for name, stack in layer_lists(model).items() if len(stack) == depth]
    if len(stacks) != 1:
        raise StageError(f"{type(model).__name__} has no single stack of {depth} layers that could be cut")
    return stacks[0]


def check_size(config: PreTrainedConfig, size: StudentSize) -> None:
    """Raise StageError, with the possible sizes, unless the student is smaller and has whole heads."""
    depth, width = config.num_hidden_layers, config.hidden_size
    if not 1 <= size.layers <= depth:
        raise StageError(
            f"the large model has {depth} layers; --num-layers must be 1 to {depth}, not {size.layers}"
        )
    if not hasattr(config, "num_attention_heads"):  # FNet
        raise StageError(f"{config.model_type} models have no attention heads, and so no smaller models")
    head, hidden = width // config.num_attention_heads, size.hidden
    if not head <= hidden <= width or hidden % head:
        raise StageError(
            f"the large model is {width} wide with heads of {head}; --hidden-size must be a multiple of "
            f"{head} up to {width}, not {hidden}"
        )
    if size.layers == depth and hidden == width:
        raise StageError(
            f"{depth} layers of width {width} are the large model itself. Give fewer or narrower."
        )
    if size.embedding is not None and not hasattr(config, "embedding_size"):
        raise StageError(
            f"in {config.model_type} models the token table is as wide as a layer; leave out --embedding-size"
        )
    if size.embedding is not None and not 1 <= size.embedding <= config.embedding_size:
        raise StageError(f"--embedding-size must be 1 to {config.embedding_size}, not {size.embedding}")
    try:
        with quiet_transformers(), torch.device("meta"):
            AutoModel.from_config(_student_config(config, size, spread_layers(depth, size.layers)))
    except Exception as error:  # what a model's own code raises for a configuration that it cannot have
        raise StageError(
            f"no {config.model_type} model can be made at {size.name} ({reason(error)})"
        ) from error


def _student_config(config: PreTrainedConfig, size: StudentSize, layers: Sequence[int]) -> PreTrainedConfig:
    """The teacher's configuration at the student's size; heads stay as wide, all else is in proportion."""
    width, hidden = config.hidden_size, size.hidden
    sizes: dict[str, Any] = {"num_hidden_layers": size.layers, "hidden_size": hidden}
    for name in SCALED_SIZES:
        if getattr(config, name, None) is not None:
            sizes[name] = max(1, getattr(config, name) * hidden // width)
    if hasattr(config, "embedding_size"):
        separate = config.embedding_size != width
        sizes["embedding_size"] = size.embedding or (config.embedding_size if separate else hidden)
    for name in LAYER_LISTS:
        if isinstance(entries := getattr(config, name, None), list):
            sizes[name] = [entries[i] for i in layers]
    named = {config.attribute_map.get(name, name): value for name, value in sizes.items()}
    return type(config).from_dict({**config.to_dict(), **named})


def token_table(model: PreTrainedModel) -> str:
    """The name of the weight of the token embeddings."""
    table = model.get_input_embeddings()
    return next(f"{name}.weight" for name, part in model.named_modules() if part is table)


def principal_directions(table: Tensor, width: int) -> Tensor:
    """(table's width, width) orthonormal directions that keep most of the variance of an embedding table."""
    centered = (table - table.mean(dim=0)).double()
    _, vectors = torch.linalg.eigh(centered.T @ centered)
    directions: Tensor = vectors[:, -width:].flip(1).float()
    return directions
