"""A smaller model of the same kind as a large one, started from its weights where shapes allow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cascadebert.errors import StageError, extra
from cascadebert.inference.engines.torch_checkpoint import POOLER, layer_lists, quiet_transformers
from cascadebert.types import Ints

with extra("train"):
    import torch
    from torch import Tensor, nn
    from transformers import AutoModel, PreTrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class StudentSize:
    """Depth and widths of a student.

    Attributes:
        layers: number of transformer layers.
        hidden: width of a layer.
        embedding: width of the token table, in families that keep it apart (ELECTRA); default the
            teacher's own where it has one, else `hidden`.
    """

    layers: int
    hidden: int
    embedding: int | None = None

    @property
    def name(self) -> str:
        """Short name, such as `2x128`."""
        return f"{self.layers}x{self.hidden}"


def open_encoder(source: Path) -> tuple[PreTrainedModel, bool]:
    """A bare encoder in float32, and whether its pooler (if its family has one) came from the checkpoint.

    Raises:
        StageError: if the folder does not open, or encoder weights are missing or unexpected.
    """
    try:
        with quiet_transformers():
            model, info = AutoModel.from_pretrained(
                source, dtype=torch.float32, output_loading_info=True, local_files_only=True
            )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise StageError(f"{source}: not an encoder that transformers can open ({error})") from error
    missing = sorted(key for key in info["missing_keys"] if not key.startswith(POOLER))
    stack = layer_stack(model)
    more = sorted(key for key in info["unexpected_keys"] if f"{stack}." in key)
    for what, keys in (("missing", missing), ("unexpected", more)):
        if keys:
            raise StageError(
                f"{source}: {len(keys)} weights are {what}, such as {keys[0]}. Weights and config.json "
                "belong together."
            )
    has_pooler = getattr(model, POOLER, None) is not None and len(missing) == len(info["missing_keys"])
    opened: PreTrainedModel = model
    return opened, has_pooler


def spread_layers(depth: int, layers: int) -> tuple[int, ...]:
    """Which of `depth` layers to keep: evenly spaced, the first and the last among them; of one, the last.

    >>> spread_layers(6, 2), spread_layers(6, 3), spread_layers(6, 1)
    ((0, 5), (0, 2, 5), (5,))
    """
    return tuple(int(i) for i in np.linspace(depth - 1, 0, layers))[::-1]


def make_student(
    teacher: PreTrainedModel,
    size: StudentSize,
    *,
    kept: tuple[int, ...],
    tokens: Ints | None = None,
    seed: int = 0,
) -> PreTrainedModel:
    """A model of the teacher's family at another size.

    Weights of equal shape are the teacher's own, layer i of the student from layer `kept[i]`. Tables of
    embeddings, less their mean, become narrower along the principal directions of the teacher's token table
    (which keep as much of it as any linear map can). All else is drawn anew.

    Args:
        teacher: the large encoder.
        size: of the student.
        kept: for each layer of the student, the layer of the teacher that it starts from.
        tokens: (vocabulary,) the teacher's token number behind each of the student's; default all.
        seed: of what is drawn.

    Raises:
        StageError: if the teacher's family cannot be made at this size.
    """
    stack = layer_stack(teacher)
    config = _config(teacher.config, size, kept, tokens)
    with quiet_transformers(), torch.random.fork_rng():
        torch.manual_seed(seed)
        student: PreTrainedModel = AutoModel.from_config(config, dtype=torch.float32)
    given, own = teacher.state_dict(), student.state_dict()
    tables = {f"{name}.weight" for name, part in student.named_modules() if isinstance(part, nn.Embedding)}
    table = token_table(teacher)
    rows = None if tokens is None else torch.from_numpy(tokens)
    if rows is not None:
        given[table] = given[table][rows]
    narrow = principal(given[table], own[token_table(student)].shape[1])
    for name, weight in own.items():
        source = given.get(_behind(name, stack, kept))
        if source is None:
            continue
        if source.shape == weight.shape:
            weight.copy_(source)
        elif name in tables and source.shape[0] == weight.shape[0]:
            weight.copy_((source - source.mean(dim=0)) @ narrow)
    return student


def layer_stack(model: PreTrainedModel) -> str:
    """The name of a model's one list of layers.

    Raises:
        StageError: if there is not exactly one of the depth that its configuration names.
    """
    depth = model.config.num_hidden_layers
    stacks = [name for name, stack in layer_lists(model).items() if len(stack) == depth]
    if len(stacks) != 1:
        raise StageError(f"{type(model).__name__} has no single stack of {depth} layers that could be cut")
    return stacks[0]


def check_size(config: PreTrainedConfig, size: StudentSize) -> None:
    """Refuse a size that is not smaller than the teacher, or that its heads do not divide.

    Raises:
        StageError: naming what is possible.
    """
    depth, width = config.num_hidden_layers, config.hidden_size
    if not 1 <= size.layers <= depth:
        raise StageError(
            f"the large model has {depth} layers; --num-layers must be 1 to {depth}, not {size.layers}"
        )
    head = width // config.num_attention_heads
    hidden = size.hidden
    if not head <= hidden <= width or hidden % head:
        raise StageError(
            f"the large model is {width} wide with heads of {head}; --hidden-size must be a multiple of {head} "
            f"up to {width}, not {hidden}"
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
            AutoModel.from_config(_config(config, size, spread_layers(depth, size.layers), None))
    except (ValueError, KeyError, RuntimeError, AttributeError) as error:
        raise StageError(f"no {config.model_type} model can be made at {size.name} ({error})") from error


def _config(
    config: PreTrainedConfig, size: StudentSize, kept: tuple[int, ...], tokens: Ints | None
) -> PreTrainedConfig:
    """The teacher's configuration at the student's size; heads stay as wide, all else in proportion."""
    before, hidden = config.hidden_size, size.hidden
    heads = config.num_attention_heads * hidden // before
    sizes: dict[str, Any] = {"num_hidden_layers": size.layers, "hidden_size": hidden}
    sizes["num_attention_heads"] = heads
    inner = "hidden_dim" if hasattr(config, "hidden_dim") else "intermediate_size"
    sizes[inner] = getattr(config, inner) * hidden // before
    if hasattr(config, "embedding_size"):
        apart = config.embedding_size != before
        sizes["embedding_size"] = size.embedding or (config.embedding_size if apart else hidden)
    if hasattr(config, "pooler_hidden_size"):
        sizes["pooler_hidden_size"] = hidden
    if getattr(config, "num_key_value_heads", None) is not None:
        sizes["num_key_value_heads"] = max(1, config.num_key_value_heads * hidden // before)
    if getattr(config, "layer_types", None) is not None:
        sizes["layer_types"] = [config.layer_types[i] for i in kept]
    given = {config.attribute_map.get(name, name): value for name, value in sizes.items()}
    if tokens is not None:
        given |= {"vocab_size": len(tokens), **_renumbered(config.to_dict(), tokens)}
    return type(config).from_dict({**config.to_dict(), **given})


def _renumbered(config: Mapping[str, Any], tokens: Ints) -> dict[str, int]:
    """Entries such as `pad_token_id` with the student's numbers."""
    new = {int(old): number for number, old in enumerate(tokens)}
    named = {k: v for k, v in config.items() if k.endswith("_token_id") and isinstance(v, int)}
    return {name: new[old] for name, old in named.items() if old in new}


def token_table(model: PreTrainedModel) -> str:
    """The name of a model's table of token embeddings."""
    table = model.get_input_embeddings()
    return next(f"{name}.weight" for name, part in model.named_modules() if part is table)


def _behind(name: str, stack: str, kept: tuple[int, ...]) -> str:
    """The teacher's name of a student's weight."""
    if not name.startswith(f"{stack}."):
        return name
    number, _, rest = name.removeprefix(f"{stack}.").partition(".")
    return f"{stack}.{kept[int(number)]}.{rest}"


def principal(table: Tensor, width: int) -> Tensor:
    """(table's width, width) orthonormal directions that keep most of the table."""
    values = (table - table.mean(dim=0)).double()
    _, vectors = torch.linalg.eigh(values.T @ values)
    directions: Tensor = vectors[:, -width:].flip(1).float()
    return directions
