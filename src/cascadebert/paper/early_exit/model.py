"""An encoder with a classifier after every layer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cascadebert.errors import StageError, extra
from cascadebert.inference.engines.torch import quiet_transformers, takes_token_types
from cascadebert.paper.early_exit.exits import ExitRule, Reads
from cascadebert.paper.early_exit.layers import LayeredClassifier
from cascadebert.persistence.checkpoint_config import config_label_names, read_config
from cascadebert.training.checkpoints import flops_polynomial
from cascadebert.types import Floats, Flops

with extra("train"):
    import torch
    from safetensors.torch import load_file, save_file
    from torch import Tensor, nn
    from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel

WEIGHTS, SETTINGS = "multi_exit.safetensors", "exits.json"
_DOT = "/"  # for the dots in names of parameters
FEW_EXITS = (1 / 12, 1 / 3, 1 / 2)
"""Depths of the exits before the last, where there are few: after layers 1, 4 and 6 of 12."""


@dataclass(frozen=True)
class ExitHeads:
    """Architecture of the exits of a model, as stored beside its weights."""

    shared_pooler: bool = False  # one pooler for all exits (PABEE), or one each
    # a linear layer, shared by all exits, estimates the probability of an error (BERxiT)
    learned: bool = False
    # "mean" is for encoders whose first token hardly differs between texts until their last layers; the last
    # exit reads what the classifier reads in any case
    reads: Reads = "first"
    few: bool = False  # exits after the layers of `FEW_EXITS` and the last (SWEET), or after every layer
    separate: bool = False  # a layer learns from the next exit alone (SWEET), or from all that follow


class MultiExitModel(nn.Module):
    """A Hugging Face classifier that can predict after some or all of its layers.

    The last exit is the classifier's own head, so without the other exits the model is that classifier. The
    heads of the others have its form. Their parameters start as copies of its own, or of the `pretrained`
    ones by name; the linear layers that give the logits are drawn anew. Raises StageError for a classifier
    that cannot be a `LayeredClassifier`.
    """

    def __init__(
        self,
        classifier: PreTrainedModel,
        heads: ExitHeads,
        *,
        pretrained: Mapping[str, Tensor] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.encoder_config: PreTrainedConfig = classifier.config
        self.label_names = config_label_names(classifier.config.to_dict(), Path(str(classifier.name_or_path)))
        self.num_labels = len(self.label_names)
        self.heads = heads
        self.takes_types = takes_token_types(classifier)
        self.layered = LayeredClassifier(classifier)
        depth = self.layered.depth
        before = [max(1, round(depth * part)) for part in FEW_EXITS] if heads.few else range(1, depth)
        self.exit_layers = (*sorted({layer for layer in before if layer < depth}), depth)
        own = {name: classifier.get_parameter(name).detach() for name in self.layered.head_names}
        own |= {name: value.detach() for name, value in (pretrained or {}).items() if name in own}
        out = {name: own.pop(name) for name in list(own) if name.startswith(f"{self.layered.out_name}.")}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            drawn = [self._drawn(out) for _ in self.exit_layers[1:]]
            lte = self._linear(self.layered.width, 1) if heads.learned else None
        self.lte = lte
        copied = {} if heads.shared_pooler else own
        self.exits = nn.ModuleList(_parameters({**copied, **linear}) for linear in drawn)

    @property
    def num_exits(self) -> int:
        """Number of exits, the last one included."""
        return len(self.exit_layers)

    def embed(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """(rows, length, hidden) before the first layer, from the output of `model_inputs`."""
        return self.layered.embed(inputs)

    def layer(self, number: int, hidden: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """(rows, length, hidden) after a layer, counted from 1."""
        return self.layered.layer(number, hidden, inputs)

    def features(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """(rows, hidden) that an exit before the last reads, from (rows, length, hidden) and the mask."""
        if self.heads.reads == "first":
            return hidden[:, 0]
        weights = mask.to(hidden.dtype)[:, :, None]
        return (hidden * weights).sum(dim=1) / weights.sum(dim=1)

    def classify(self, number: int, features: Tensor) -> Tensor:
        """(rows, num_labels) logits of an exit before the last, counted from 1."""
        own: Any = self.exits[number - 1]
        parameters = {name.replace(_DOT, "."): value for name, value in own.items()}
        return self.layered.logits_of(features, parameters)

    def error_probability(self, features: Tensor) -> Tensor | None:
        """(rows,) estimated probability that an exit is wrong, or None where it was not learned."""
        return None if self.lte is None else self.lte(features).squeeze(-1).sigmoid()

    def exit(self, number: int, hidden: Tensor, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """(rows, num_labels) logits and (rows,) error probabilities or None of an exit, counted from 1."""
        features = self.features(hidden, inputs["attention_mask"])
        error = self.error_probability(features)
        if number == self.num_exits:
            return self.layered.logits(hidden, inputs), error
        return self.classify(number, features), error

    def forward(self, **inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """(exits, rows, num_labels) logits and (exits, rows) error probabilities or None, in one pass."""
        detached = self.exit_layers[:-1] if self.heads.separate else ()
        states = self.layered.states(inputs, detached_after=detached)
        found = [
            self.exit(number, states[layer - 1], inputs) for number, layer in enumerate(self.exit_layers, 1)
        ]
        errors = [error for _, error in found if error is not None]
        return torch.stack([logits for logits, _ in found]), torch.stack(errors) if errors else None

    def save(self, folder: Path, *, max_length: int) -> None:
        """Write configuration, weights and exits into an existing folder that has a tokenizer."""
        self.encoder_config.save_pretrained(folder)
        weights = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        save_file(weights, folder / WEIGHTS)
        settings = {**asdict(self.heads), "max_length": max_length}
        (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", "utf-8")

    @classmethod
    def load(cls, folder: Path) -> tuple[MultiExitModel, int]:
        """Model in evaluation mode, and its maximum length. Raises StageError if files are not as saved."""
        read_config(folder)
        try:
            settings = json.loads((folder / SETTINGS).read_text("utf-8"))
            max_length = int(settings.pop("max_length"))
            with quiet_transformers(), torch.random.fork_rng():
                config = AutoConfig.from_pretrained(folder, local_files_only=True)
                classifier = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
            model = cls(classifier, ExitHeads(**settings))
            model.load_state_dict(load_file(folder / WEIGHTS))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise StageError(f"{folder}: not a model with exits ({error})") from error
        return model.eval(), max_length

    def _drawn(self, out: Mapping[str, Tensor]) -> dict[str, Tensor]:
        (width,) = {value.shape[1] for value in out.values() if value.ndim == 2}
        linear = self._linear(width, self.num_labels)
        return {name: linear.get_parameter(name.rpartition(".")[2]).detach() for name in out}

    def _linear(self, width: int, outputs: int) -> nn.Linear:
        layer = nn.Linear(width, outputs)
        nn.init.normal_(layer.weight, std=getattr(self.encoder_config, "initializer_range", 0.02))
        nn.init.zeros_(layer.bias)
        return layer


def _parameters(values: Mapping[str, Tensor]) -> nn.ParameterDict:
    """Parameters of their own, by names without dots."""
    return nn.ParameterDict(
        {name.replace(".", _DOT): nn.Parameter(value.clone()) for name, value in values.items()}
    )


def exit_flops(model: MultiExitModel, rule: ExitRule) -> tuple[Flops, ...]:
    """Operations of a text that takes exit 1, 2, ... with a rule.

    Matrix products are counted, two operations per multiply-add; embedding look-ups are free. A text pays for
    its layers and, for every exit that was evaluated, for its head and (where the rule needs it)
    learning-to-exit layer.
    """
    layered, device = model.layered, next(model.parameters()).device

    def count(run: Callable[[Tensor, dict[str, Tensor]], object]) -> Floats:
        def run_ids(ids: Tensor) -> object:
            ids = torch.full_like(ids, layered.token)
            return run(torch.zeros(*ids.shape, layered.width, device=device), {"input_ids": ids})

        return np.array(astuple(flops_polynomial(run_ids, str(device))))

    with _countable(model):
        before = count(lambda hidden, inputs: layered.embed(inputs))
        layer = count(lambda hidden, inputs: layered.layer(1, hidden, inputs)) - before
        head = count(lambda hidden, inputs: layered.logits(hidden, inputs)) - before
        doubt = count(lambda hidden, inputs: model.error_probability(hidden[:, 0]))
    evaluated, exits = rule.evaluated_exits(model.num_exits), []
    for number, depth in enumerate(model.exit_layers, 1):
        heads = int(evaluated[: number - 1].sum()) + 1  # where a text exits, the head is evaluated
        ltes = min(heads, int(evaluated[:-1].sum())) if rule.needs_lte else 0
        exits.append(Flops(*(before + depth * layer + heads * head + ltes * doubt).tolist()))
    return tuple(exits)


@contextmanager
def _countable(model: MultiExitModel) -> Iterator[None]:
    """A state in which torch counts all operations: no fused attention, and no gradients."""
    classifier, learning = model.layered.classifier, [p for p in model.parameters() if p.requires_grad]
    attention = classifier.config._attn_implementation
    classifier.set_attn_implementation("eager")
    model.requires_grad_(False)
    try:
        yield
    finally:
        classifier.set_attn_implementation(attention)
        for parameter in learning:
            parameter.requires_grad_(True)
