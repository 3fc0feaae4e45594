"""The static stage in torch: a weighted mean of token embeddings and a linear head.

A bag of token embeddings (Joulin et al. 2017, "Bag of Tricks for Efficient Text Classification") whose table
starts from the large model's, along its principal directions, with a learned weight per token.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cascadebert.errors import extra
from cascadebert.inference.engines.static import MODEL_TYPE
from cascadebert.inference.engines.torch import quiet_transformers
from cascadebert.training.distillation.student import open_encoder, principal_directions, token_table
from cascadebert.training.tokenizer_files import copy_tokenizer

with extra("train"):
    import torch
    from torch import Tensor, nn
    from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel
    from transformers.modeling_outputs import SequenceClassifierOutput

WIDTH, INITIAL_STD = 128, 0.1


class StaticConfig(PreTrainedConfig):
    """Sizes of a static stage."""

    model_type = MODEL_TYPE

    def __init__(self, vocab_size: int = 1, hidden_size: int = WIDTH, **kwargs: Any) -> None:
        self.vocab_size, self.hidden_size, self.num_hidden_layers = vocab_size, hidden_size, 0
        super().__init__(**kwargs)


class StaticClassifier(PreTrainedModel):
    """Weighted mean of token embeddings, then a linear head."""

    config_class = StaticConfig

    def __init__(self, config: StaticConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.amounts = nn.Embedding(config.vocab_size, 1)  # logarithm of a token's weight
        self.classifier = nn.Linear(config.hidden_size, len(config.id2label or ()))
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: nn.Module) -> None:
        if module is self.amounts:
            nn.init.zeros_(module.weight)
        elif module is self.classifier:
            module.reset_parameters()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> SequenceClassifierOutput:
        """(rows, num_labels) logits."""
        weights = self.amounts(input_ids).exp()
        if attention_mask is not None:
            weights = weights * attention_mask[:, :, None]
        pooled = (self.embeddings(input_ids) * weights).sum(dim=1) / weights.sum(dim=1)
        return SequenceClassifierOutput(logits=self.classifier(pooled))


AutoConfig.register(MODEL_TYPE, StaticConfig)
AutoModelForSequenceClassification.register(StaticConfig, StaticClassifier)


def create_static_checkpoint(large: Path, output: Path) -> Path:
    """Write an untrained static checkpoint with the large encoder's token table and tokenizer."""
    teacher = open_encoder(large)
    table = teacher.get_parameter(token_table(teacher)).detach().float()
    width = min(WIDTH, table.shape[1])
    projected = (table - table.mean(dim=0)) @ principal_directions(table, width)
    config = StaticConfig(len(table), width, pad_token_id=teacher.config.pad_token_id)
    with quiet_transformers(), torch.random.fork_rng():
        torch.manual_seed(0)
        model = StaticClassifier(config)
    with torch.no_grad():
        model.embeddings.weight.copy_(projected * (INITIAL_STD / projected.std()))
    output.mkdir()
    with quiet_transformers():
        model.save_pretrained(output)
    copy_tokenizer(large, output)
    return output
