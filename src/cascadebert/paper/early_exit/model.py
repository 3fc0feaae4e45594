"""One encoder with a classifier after every layer."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cascadebert.errors import StageError, extra
from cascadebert.inference.engines.torch import takes_token_types
from cascadebert.inference.engines.torch_checkpoint import quiet_transformers
from cascadebert.paper.early_exit.exit_outputs import Reads
from cascadebert.persistence.checkpoint_config import config_label_names, read_config

with extra("train"):
    import torch
    from safetensors.torch import load_file, save_file
    from torch import Tensor, nn
    from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel

WEIGHTS, SETTINGS = "multi_exit.safetensors", "exits.json"
BLOCKED = -1e30
"""Added to the attention score of padding: its share is 0 exactly, in float32 and bfloat16."""
POOLED_BEFORE = ("bert",)
"""Families whose pooler is part of the encoder; in the others it is part of the classifier."""
FAMILIES = (*POOLED_BEFORE, "roberta", "xlm-roberta", "camembert", "electra")


@dataclass(frozen=True)
class ExitHeads:
    """What the exits of a model are made of.

    Attributes:
        shared_pooler: one pooler for all exits (PABEE), or one each (DeeBERT, BERxiT).
        learned: whether a linear layer, shared by all exits, estimates the chance of being wrong (BERxiT).
        reads: what an exit looks at: the "first" token, as published; or, before the last layer, the "mean"
            of all, for encoders whose first token hardly differs between texts until their last layers.
    """

    shared_pooler: bool = False
    learned: bool = False
    reads: Reads = "first"


class Pooler(nn.Module):
    """What an exit reads of the hidden states, made ready for a linear classifier."""

    def __init__(self, dense: nn.Linear, activation: nn.Module, *, before: float, after: float) -> None:
        super().__init__()
        self.before, self.dense, self.activation = nn.Dropout(before), dense, activation
        self.after = nn.Dropout(after)

    def forward(self, read: Tensor) -> Tensor:
        """(rows, hidden) to (rows, hidden)."""
        pooled: Tensor = self.after(self.activation(self.dense(self.before(read))))
        return pooled


class MultiExitModel(nn.Module):
    """A Hugging Face classifier that can answer after any of its layers.

    The last exit is the classifier's own pooler and linear layer, so with the other exits switched off it
    is that classifier. The other poolers start as copies of the last; their linear layers are drawn anew.

    Args:
        classifier: BERT, RoBERTa or ELECTRA with a classification head; its parts become this module's.
        exits: what the exits are made of.
        pooler: what poolers of the exits before the last start from, instead of the classifier's own: the
            pretrained pooler, where the classifier is already fine-tuned.
        seed: of what is drawn.

    Attributes:
        label_names: in the order of the logits.
        num_labels: how many.
        exits: what the exits are made of.
        takes_types: whether the two texts of a pair are told apart by token types.

    Raises:
        StageError: for another family, or a model of one layer.
    """

    def __init__(
        self, classifier: PreTrainedModel, exits: ExitHeads, *, pooler: nn.Linear | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        encoder, (last, out) = _encoder(classifier), _head(classifier)
        self.encoder_config: PreTrainedConfig = classifier.config
        self.label_names = config_label_names(classifier.config.to_dict(), Path(str(classifier.name_or_path)))
        self.num_labels = len(self.label_names)
        self.exits = exits
        self.takes_types = takes_token_types(classifier)
        self.embeddings: nn.Module = encoder.embeddings
        self.project: nn.Module = getattr(encoder, "embeddings_project", nn.Identity())
        self.layers: nn.ModuleList = encoder.encoder.layer
        earlier = [] if exits.shared_pooler else [deepcopy(last) for _ in self.layers[1:]]
        if pooler is not None:
            for one in earlier:
                one.dense.load_state_dict(pooler.state_dict())
        self.poolers = nn.ModuleList([*earlier, last])
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            drawn = [self._linear(out.out_features) for _ in self.layers[1:]]
            self.lte = self._linear(1) if exits.learned else None
        self.classifiers = nn.ModuleList([*drawn, out])

    @property
    def depth(self) -> int:
        """Number of layers, which is that of exits."""
        return len(self.layers)

    def embed(self, inputs: dict[str, Tensor]) -> Tensor:
        """(rows, length, hidden) before the first layer, from what `model_inputs` gives."""
        given = {name: one for name, one in inputs.items() if name != "attention_mask"}
        hidden: Tensor = self.project(self.embeddings(**given))
        return hidden

    def layer(self, number: int, hidden: Tensor, blocked: Tensor | None) -> Tensor:
        """One layer.

        Args:
            number: counted from 1.
            hidden: (rows, length, hidden).
            blocked: from `padding_blocked`.
        """
        after = self.layers[number - 1](hidden, blocked)
        hidden = after[0] if isinstance(after, tuple) else after
        return hidden

    def read(self, number: int, hidden: Tensor, mask: Tensor) -> Tensor:
        """(rows, hidden) what an exit looks at; that of the last layer is the classifier's own first token.

        Args:
            number: its layer, counted from 1.
            hidden: (rows, length, hidden) after that layer.
            mask: (rows, length) 1 for a token, 0 for padding.
        """
        if self.exits.reads == "first" or number == self.depth:
            return hidden[:, 0]
        share = mask.to(hidden.dtype)[:, :, None]
        return (hidden * share).sum(dim=1) / share.sum(dim=1)

    def answer(self, number: int, read: Tensor) -> Tensor:
        """(rows, num_labels) logits of an exit.

        Args:
            number: its layer, counted from 1.
            read: (rows, hidden) from `read`.
        """
        pooler = self.poolers[0 if self.exits.shared_pooler else number - 1]
        logits: Tensor = self.classifiers[number - 1](pooler(read))
        return logits

    def doubt(self, read: Tensor) -> Tensor | None:
        """(rows,) estimated chance that an exit is wrong, or None where it was not learned.

        Args:
            read: (rows, hidden) from `read`.
        """
        return None if self.lte is None else self.lte(read).squeeze(-1).sigmoid()

    def all_exits(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """What every exit says, in one pass.

        Args:
            inputs: from `model_inputs`.

        Returns:
            (exits, rows, num_labels) logits, and (exits, rows) chances of being wrong or None.
        """
        hidden, blocked = self.embed(inputs), padding_blocked(inputs["attention_mask"])
        answers, doubts = [], []
        for number in range(1, self.depth + 1):
            hidden = self.layer(number, hidden, blocked)
            read = self.read(number, hidden, inputs["attention_mask"])
            answers.append(self.answer(number, read))
            doubts.append(self.doubt(read))
        known = [one for one in doubts if one is not None]
        return torch.stack(answers), torch.stack(known) if known else None

    def forward(self, **inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """As `all_exits`."""
        return self.all_exits(inputs)

    def save(self, folder: Path, *, max_length: int) -> None:
        """Write configuration, weights and exits into a folder that has a tokenizer.

        Args:
            folder: there already.
            max_length: in tokens, that it was trained with.
        """
        self.encoder_config.save_pretrained(folder)
        save_file({name: one.contiguous() for name, one in self.state_dict().items()}, folder / WEIGHTS)
        settings = {**asdict(self.exits), "max_length": max_length}
        (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", "utf-8")

    @classmethod
    def load(cls, folder: Path) -> tuple[MultiExitModel, int]:
        """What `save` wrote, ready to run, with its maximum length.

        Raises:
            StageError: if the folder is not such a model, or weights are missing or unexpected.
        """
        read_config(folder)
        try:
            settings = json.loads((folder / SETTINGS).read_text("utf-8"))
            length = int(settings.pop("max_length"))
            with quiet_transformers(), torch.random.fork_rng():
                config = AutoConfig.from_pretrained(folder, local_files_only=True)
                classifier = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
            model = cls(classifier, ExitHeads(**settings))
            model.load_state_dict(load_file(folder / WEIGHTS))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise StageError(f"{folder}: not a model with exits ({error})") from error
        return model.eval(), length

    def _linear(self, outputs: int) -> nn.Linear:
        made = nn.Linear(self.encoder_config.hidden_size, outputs)
        nn.init.normal_(made.weight, std=self.encoder_config.initializer_range)
        nn.init.zeros_(made.bias)
        return made


def padding_blocked(mask: Tensor) -> Tensor | None:
    """What is added to attention scores so that nothing attends to padding; None where there is none.

    Args:
        mask: (rows, length) 1 for a token, 0 for padding.

    Returns:
        (rows, 1, 1, length).
    """
    if bool(mask.all()):
        return None
    return (1.0 - mask[:, None, None, :].float()) * BLOCKED


def _encoder(classifier: PreTrainedModel) -> Any:
    """Its encoder, if it is of a family whose layers can be run one by one."""
    family = classifier.config.model_type
    if family not in FAMILIES or getattr(classifier.config, "is_decoder", False):
        raise StageError(
            f"exits cannot be put into a {family} model; expected an encoder of one of {', '.join(FAMILIES)}"
        )
    if classifier.config.num_hidden_layers < 2:
        raise StageError(f"exits need two layers or more; the {family} model has one")
    return classifier.base_model


def _head(classifier: PreTrainedModel) -> tuple[Pooler, nn.Linear]:
    """Its pooler and linear layer, whichever module they are part of."""
    whole: Any = classifier
    head, family = whole.classifier, whole.config.model_type
    if family in POOLED_BEFORE:
        dense = whole.base_model.pooler.dense
        return Pooler(dense, nn.Tanh(), before=0.0, after=whole.dropout.p), head
    activation = nn.GELU() if family == "electra" else nn.Tanh()
    return Pooler(head.dense, activation, before=head.dropout.p, after=head.dropout.p), head.out_proj
