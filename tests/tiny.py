"""Random checkpoints of five families, a few kilobytes each, with a word-piece vocabulary."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
)
from transformers.utils import logging

from samples import BAD, GOOD, PLAIN, SPECIAL

LETTERS = tuple("abcdefghijklmnopqrstuvwxyz0123456789.,!?")
VOCABULARY = (*SPECIAL, *GOOD, *BAD, *PLAIN, *LETTERS, *(f"##{letter}" for letter in LETTERS))


def tokenizer() -> PreTrainedTokenizerFast:
    """Word pieces over the tiny vocabulary, with BERT's frame for singles and pairs."""
    made = Tokenizer(models.WordPiece({t: i for i, t in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def configuration(family: str, layers: int, hidden: int, spread: float) -> object:
    """The configuration of a family at a tiny size."""
    heads, wide, words = 2, 2 * hidden, len(VOCABULARY)
    usual = {
        "vocab_size": words,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": wide,
        "max_position_embeddings": 66,
        "pad_token_id": 0,
        "initializer_range": spread,
    }
    special = {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
    made = {
        "bert": lambda: BertConfig(**usual),
        "roberta": lambda: RobertaConfig(**usual, type_vocab_size=1),
        "electra": lambda: ElectraConfig(**usual, embedding_size=8),
        "distilbert": lambda: DistilBertConfig(
            vocab_size=words, dim=hidden, n_layers=layers, n_heads=heads, hidden_dim=wide,
            max_position_embeddings=66, pad_token_id=0, initializer_range=spread,
        ),
        "modernbert": lambda: ModernBertConfig(**usual, **special),
    }  # fmt: skip
    return made[family]()


def checkpoint(
    root: Path,
    family: str = "bert",
    *,
    layers: int = 2,
    hidden: int = 16,
    seed: int = 0,
    labels: tuple[str, ...] | None = ("negative", "positive"),
) -> Path:
    """Save a random checkpoint once and return its folder; `labels=None` makes a bare encoder.

    Weights of classifiers are drawn wide, so that answers of random models differ from row to row.
    """
    name = f"{family}-{layers}-{hidden}-{seed}-{'-'.join(labels or ('encoder',))}"
    folder = root / name
    if folder.is_dir():
        return folder
    logging.disable_progress_bar()
    torch.manual_seed(seed)
    spread = 0.05 if labels is None else 0.4
    config = configuration(family, layers, hidden, spread)
    if labels is None:
        model = AutoModel.from_config(config)
    else:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: i for i, label in enumerate(labels)}
        model = AutoModelForSequenceClassification.from_config(config)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder
