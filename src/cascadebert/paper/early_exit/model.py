"""An encoder with a classifier after every layer."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cascadebert.errors import StageError, extra
from cascadebert.inference.engines.torch import quiet_transformers, takes_token_types
from cascadebert.paper.early_exit.exits import ExitRule, Reads
from cascadebert.persistence.checkpoint_config import config_label_names, read_config
from cascadebert.training.checkpoints import flops_polynomial
from cascadebert.types import Flops

with extra("train"):
    import torch
    from safetensors.torch import load_file, save_file
    from torch import Tensor, nn
    from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel

WEIGHTS, SETTINGS = "multi_exit.safetensors", "exits.json"
PADDING_BIAS = -1e30
"""Added to the attention scores of padding: its weight is exactly 0 in float32 and bfloat16."""
FAMILIES = ("bert", "roberta", "xlm-roberta", "camembert", "electra")
"""Families whose layers can be run one by one."""


@dataclass(frozen=True)
class ExitHeads:
    """Architecture of the exits of a model, as stored beside its weights."""

    shared_pooler: bool = False  # one pooler for all exits (PABEE), or one each (DeeBERT, BERxiT)
    # a linear layer, shared by all exits, estimates the probability of an error (BERxiT)
    learned: bool = False
    # "mean" is for encoders whose first token hardly differs between texts until their last layers; the last
    # exit reads the first token in any case
    reads: Reads = "first"


class MultiExitModel(nn.Module):
    """A Hugging Face classifier that can predict after any of its layers.

    The last exit is the classifier's own pooler and linear layer, so without the other exits the model is
    that classifier, a BERT, RoBERTa or ELECTRA, whose parts it takes over. The other poolers start as copies
    of the last, or, if the classifier is fine-tuned, of the pretrained `pooler`; their linear layers are
    drawn anew. Raises StageError for another family, or a model of one layer.
    """

    def __init__(
        self, classifier: PreTrainedModel, heads: ExitHeads, *, pooler: nn.Linear | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        encoder, (last, out) = _encoder(classifier), _head(classifier)
        self.encoder_config: PreTrainedConfig = classifier.config
        self.label_names = config_label_names(classifier.config.to_dict(), Path(str(classifier.name_or_path)))
        self.num_labels = len(self.label_names)
        self.heads = heads
        self.takes_types = takes_token_types(classifier)
        self.embeddings: nn.Module = encoder.embeddings
        self.project: nn.Module = getattr(encoder, "embeddings_project", nn.Identity())
        self.layers: nn.ModuleList = encoder.encoder.layer
        earlier = [] if heads.shared_pooler else [deepcopy(last) for _ in self.layers[1:]]
        if pooler is not None:
            for copied in earlier:
                copied.get_submodule("dense").load_state_dict(pooler.state_dict())
        self.poolers = nn.ModuleList([*earlier, last])
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            drawn = [self._linear(out.out_features) for _ in self.layers[1:]]
            self.lte = self._linear(1) if heads.learned else None
        self.classifiers = nn.ModuleList([*drawn, out])

    @property
    def depth(self) -> int:
        """Number of layers, which is the number of exits."""
        return len(self.layers)

    def embed(self, inputs: dict[str, Tensor]) -> Tensor:
        """(rows, length, hidden) before the first layer, from the output of `model_inputs`."""
        tokens = {name: tensor for name, tensor in inputs.items() if name != "attention_mask"}
        hidden: Tensor = self.project(self.embeddings(**tokens))
        return hidden

    def layer(self, number: int, hidden: Tensor, bias: Tensor | None) -> Tensor:
        """(rows, length, hidden) after a layer, counted from 1; `bias` comes from `padding_bias`."""
        after = self.layers[number - 1](hidden, bias)
        hidden = after[0] if isinstance(after, tuple) else after
        return hidden

    def features(self, number: int, hidden: Tensor, mask: Tensor) -> Tensor:
        """(rows, hidden) input of the exit after layer 1, ... from (rows, length, hidden) and the mask."""
        if self.heads.reads == "first" or number == self.depth:
            return hidden[:, 0]
        weights = mask.to(hidden.dtype)[:, :, None]
        return (hidden * weights).sum(dim=1) / weights.sum(dim=1)

    def classify(self, number: int, features: Tensor) -> Tensor:
        """(rows, num_labels) logits of the exit after a layer, counted from 1."""
        pooler = self.poolers[0 if self.heads.shared_pooler else number - 1]
        logits: Tensor = self.classifiers[number - 1](pooler(features))
        return logits

    def error_probability(self, features: Tensor) -> Tensor | None:
        """(rows,) estimated probability that an exit is wrong, or None where it was not learned."""
        return None if self.lte is None else self.lte(features).squeeze(-1).sigmoid()

    def forward(self, **inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """(exits, rows, num_labels) logits and (exits, rows) error probabilities or None, in one pass."""
        mask = inputs["attention_mask"]
        hidden, bias = self.embed(inputs), padding_bias(mask)
        logits, errors = [], []
        for number in range(1, self.depth + 1):
            hidden = self.layer(number, hidden, bias)
            features = self.features(number, hidden, mask)
            logits.append(self.classify(number, features))
            error = self.error_probability(features)
            errors += [] if error is None else [error]
        return torch.stack(logits), torch.stack(errors) if errors else None

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

    def _linear(self, outputs: int) -> nn.Linear:
        layer = nn.Linear(self.encoder_config.hidden_size, outputs)
        nn.init.normal_(layer.weight, std=self.encoder_config.initializer_range)
        nn.init.zeros_(layer.bias)
        return layer


def padding_bias(mask: Tensor) -> Tensor | None:
    """(rows, 1, 1, length) addend to attention scores of a (rows, length) mask; None without padding."""
    if bool(mask.all()):
        return None
    return (1.0 - mask[:, None, None, :].float()) * PADDING_BIAS


def exit_flops(model: MultiExitModel, rule: ExitRule) -> tuple[Flops, ...]:
    """Operations of a text that exits after layer 1, 2, ... with a rule; nothing is computed with the model.

    Matrix products are counted, two operations per multiply-add; embedding look-ups are free. A text pays for
    its layers and, for every exit that was evaluated, for pooler, classifier and (where the rule needs it)
    learning-to-exit layer.
    """
    with torch.device("meta"):
        classifier = AutoModelForSequenceClassification.from_config(
            model.encoder_config, attn_implementation="eager", dtype=torch.float32
        )
        shape = MultiExitModel(classifier, model.heads).eval()

    def hidden(ids: Tensor) -> Tensor:
        return torch.empty(*ids.shape, shape.encoder_config.hidden_size, device="meta")

    parts: list[Callable[[Tensor], object]] = [
        lambda ids: shape.embed({"input_ids": ids}),
        lambda ids: shape.layer(1, hidden(ids), None),
        lambda ids: shape.classify(1, hidden(ids)[:, 0]),
        lambda ids: shape.error_probability(hidden(ids)[:, 0]),
    ]
    flops = [astuple(flops_polynomial(part, "meta")) for part in parts]
    evaluated, exits = rule.evaluated_exits(shape.depth), []
    for depth in range(1, shape.depth + 1):
        heads = int(evaluated[: depth - 1].sum()) + 1  # where a text exits, the classifier is evaluated
        ltes = min(heads, int(evaluated[:-1].sum())) if rule.needs_lte else 0
        exits.append(Flops(*np.dot((1, depth, heads, ltes), flops).tolist()))
    return tuple(exits)


def _encoder(classifier: PreTrainedModel) -> Any:
    family = classifier.config.model_type
    if family not in FAMILIES or getattr(classifier.config, "is_decoder", False):
        raise StageError(
            f"exits cannot be put into a {family} model; expected an encoder of one of {', '.join(FAMILIES)}"
        )
    if classifier.config.num_hidden_layers < 2:
        raise StageError(f"exits need two layers or more; the {family} model has one")
    return classifier.base_model


def _head(classifier: PreTrainedModel) -> tuple[nn.Sequential, nn.Linear]:
    model: Any = classifier
    head, family = model.classifier, model.config.model_type
    activation: nn.Module = nn.GELU() if family == "electra" else nn.Tanh()
    if family == "bert":  # its pooler belongs to the encoder, that of the others to the classifier
        dense, out, before, after = model.base_model.pooler.dense, head, 0.0, model.dropout.p
    else:
        dense, out, before, after = head.dense, head.out_proj, head.dropout.p, head.dropout.p
    first, last = nn.Dropout(before), nn.Dropout(after)
    return nn.Sequential(OrderedDict(before=first, dense=dense, activation=activation, after=last)), out
