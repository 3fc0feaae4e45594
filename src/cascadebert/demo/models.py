"""Two BERT models with random weights, and the word-level tokenizer of the generated task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cascadebert.errors import extra
from cascadebert.inference.engines.torch import quiet_transformers

with extra("train"):
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, set_seed

SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}


@dataclass(frozen=True)
class ModelSize:
    """Dimensions of a BERT model."""

    layers: int
    hidden: int
    heads: int
    intermediate: int


def random_encoder(path: Path, size: ModelSize, words: Sequence[str], *, seed: int) -> Path:
    """Save an untrained encoder and its tokenizer of `words` in a folder, and return the folder."""
    vocabulary = [*SPECIAL.values(), *words]
    set_seed(seed)
    config = BertConfig(
        vocab_size=len(vocabulary),
        num_hidden_layers=size.layers,
        hidden_size=size.hidden,
        num_attention_heads=size.heads,
        intermediate_size=size.intermediate,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=0,
    )
    with quiet_transformers():
        BertModel(config).save_pretrained(path)
        _tokenizer(vocabulary).save_pretrained(path)
    return path


def _tokenizer(vocabulary: Sequence[str]) -> PreTrainedTokenizerFast:
    ids = {word: i for i, word in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=SPECIAL["unk_token"]))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    cls, sep = SPECIAL["cls_token"], SPECIAL["sep_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(cls, ids[cls]), (sep, ids[sep])],
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL)
