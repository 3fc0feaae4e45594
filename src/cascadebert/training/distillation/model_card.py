"""What a small model's README says it was made from."""

from __future__ import annotations

from cascadebert.data.corpus import Corpus
from cascadebert.environment import versions
from cascadebert.errors import extra
from cascadebert.training.checkpoints import display_name
from cascadebert.training.config import DistillConfig
from cascadebert.training.distillation.trainer import DistillationResult
from cascadebert.training.trainer import use_bf16

with extra("train"):
    from transformers import PreTrainedModel

NOT_COMPLETE = (
    "This model is the first {layers} of the {depth} layers of {name}, copied as they are. It is NOT a "
    "complete model in the sense of CascadeBERT: its layers were trained to feed the ones cut off, and "
    "fine-tuning has to make up for that. A model pre-trained at this depth (such as "
    "google/bert_uncased_L-2_H-768_A-12), or one distilled to it (`cascadebert distill --corpus`), makes a "
    "better first stage."
)

_CARD = """\
---
library_name: transformers
tags: [cascadebert, distillation]
---

# {title}

A complete small encoder of {layers} layers, {hidden} wide ({parameters:,} parameters), distilled from
{large} on unlabelled text by `cascadebert distill`. It has no head: fine-tune it, as the first stage of a
cascade or alone.

| | |
|---|---|
| large model | {large} (fingerprint `{key}`) |
| corpus | {corpus} |
| its sha256 | `{sha256}` |
| learned from | {tokens:,} tokens |
| vocabulary | {vocabulary:,} tokens{pruned} |
| objective | {objective} |
| held-out loss | {loss:.4f} |
| learning rate, warm-up | {rate:g}, {warmup_ratio:g} of the steps |
| tokens a step | {batch:,} |
| longest passage | {length} tokens |
| precision, seed | {precision}, {seed} |
| versions | {versions} |

Models that were pre-trained at this size on billions of words (such as Google's BERT miniatures) have seen
orders of magnitude more text.
"""


def cut_card(large: str, layers: int, depth: int) -> str:
    """Of layers that were cut off."""
    name = display_name(large)
    return (
        f"# First {layers} layers of {name}\n\n{NOT_COMPLETE.format(layers=layers, depth=depth, name=name)}\n"
    )


def card(
    large: str,
    student: PreTrainedModel,
    corpus: Corpus,
    taught: DistillationResult,
    config: DistillConfig,
    *,
    key: str,
    objective: str,
    loss: float,
) -> str:
    """Of a distilled student.

    Args:
        large: folder or repository of the large model.
        student: the small one.
        corpus: what it read.
        taught: how it went.
        config: how it was trained.
        key: fingerprint of the large model's files.
        objective: what was learned, in words.
        loss: of the objective on held-out passages.
    """
    sizes, name = student.config, display_name(large)
    pruned = (
        ""
        if config.vocabulary is None
        else ", the most frequent of the corpus (`token_map.json`: their numbers in the large model)"
    )
    return _CARD.format(
        title=f"{name}, {sizes.num_hidden_layers} layers x {sizes.hidden_size}",
        layers=sizes.num_hidden_layers,
        hidden=sizes.hidden_size,
        parameters=sum(weight.numel() for weight in student.parameters()),
        large=name,
        corpus=corpus.words(),
        sha256=corpus.sha256,
        tokens=taught.tokens,
        vocabulary=sizes.vocab_size,
        pruned=pruned,
        key=key,
        objective=objective,
        loss=loss,
        rate=config.learning_rate,
        warmup_ratio=config.warmup_ratio,
        batch=config.batch_tokens,
        length=config.max_length,
        precision="bfloat16" if use_bf16(config.bf16) else "float32",
        seed=config.seed,
        versions=", ".join(f"{key} {value}" for key, value in versions().items()),
    )
