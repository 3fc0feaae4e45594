"""Random checkpoints of many families, some kilobytes each, with a word-piece vocabulary."""

from __future__ import annotations

import inspect
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    CONFIG_MAPPING,
    AutoModel,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from samples import BAD, GOOD, PLAIN, SPECIAL

LETTERS = tuple("abcdefghijklmnopqrstuvwxyz0123456789.,!?")
VOCABULARY = (*SPECIAL, *GOOD, *BAD, *PLAIN, *LETTERS, *(f"##{letter}" for letter in LETTERS))
POSITIONS = 66
ENCODERS = (
    "albert bert big_bird camembert convbert data2vec-text deberta deberta-v2 distilbert electra ernie esm "
    "eurobert flaubert fnet funnel gte ibert jina_embeddings_v3 layoutlm longformer luke megatron-bert "
    "mobilebert modernbert mpnet mra nomic_bert nystromformer rembert roberta roberta-prelayernorm roformer "
    "squeezebert xlm xlm-roberta xlm-roberta-xl xlnet xmod yoso"
).split()
DECODERS = (
    "biogpt bloom falcon gemma gemma2 gemma3_text gpt2 gpt_neo gpt_neox llama mistral modernbert-decoder "
    "openai-gpt opt phi qwen2 qwen3 stablelm"
).split()
ENCODER_DECODERS = ("bart", "mbart", "mt5", "t5")


def tokenizer(*, token_types: bool = True) -> PreTrainedTokenizerFast:
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
        model_input_names=["input_ids", *["token_type_ids"] * token_types, "attention_mask"],
    )


def configuration(family: str, layers: int, hidden: int, spread: float) -> PreTrainedConfig:
    """The configuration of a family at a tiny size."""
    kind = CONFIG_MAPPING[family]
    sizes = {
        "vocab_size": len(VOCABULARY),
        "max_position_embeddings": POSITIONS,
        **dict.fromkeys(("num_hidden_layers", "encoder_layers", "decoder_layers"), layers),
        **dict.fromkeys(("hidden_size", "word_embed_proj_dim", "true_hidden_size"), hidden),
        **dict.fromkeys(("intermediate_size", "hidden_dim", "d_ff", "d_inner", "ffn_dim"), 2 * hidden),
        **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 2 * hidden),
        **dict.fromkeys(("num_attention_heads", "decoder_attention_heads", "num_key_value_heads"), 2),
        **dict.fromkeys(("head_dim", "d_head"), hidden // 2),
        **dict.fromkeys(("embedding_size", "input_embedding_size", "output_embedding_size"), 8),
        **dict.fromkeys(("entity_vocab_size", "entity_emb_size", "max_2d_position_embeddings"), 8),
        **dict.fromkeys(("initializer_range", "init_std", "embed_init_std"), spread),
        **{"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3},
        **{"mask_token_id": 4, "decoder_start_token_id": 2},
    }
    relative = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
    special = {
        "deberta": relative,
        "deberta-v2": {
            **relative,
            **{"type_vocab_size": 0, "position_biased_input": False, "norm_rel_ebd": "layer_norm"},
        },
        "funnel": {"block_sizes": [1] * layers},
        "gpt_neo": {"attention_types": [[["global"], layers]]},
        "longformer": {"attention_window": 8},
        "mobilebert": {
            **{"intra_bottleneck_size": 16, "num_feedforward_networks": 1},
            "initializer_range": spread / 4,  # it does not normalize: wider weights lose all digits
        },
        "roberta": {"type_vocab_size": 1},
        "squeezebert": {"embedding_size": hidden},
        "t5": {"decoder_start_token_id": 2},
        "xlm-roberta": {"type_vocab_size": 1},
        "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    }
    known = {*inspect.signature(kind).parameters, *kind.attribute_map}
    usual = {name: value for name, value in sizes.items() if name in known}
    return kind(**{**usual, **special.get(family, {})})


def checkpoint(
    root: Path,
    family: str = "bert",
    *,
    layers: int = 2,
    hidden: int = 16,
    seed: int = 0,
    labels: tuple[str, ...] | None = ("negative", "positive"),
    **settings: object,
) -> Path:
    """Save a random checkpoint once and return its folder; `labels=None` makes a bare encoder.

    `settings` replace entries of the configuration.
    Weights of classifiers are drawn wide, so that answers of random models differ from row to row.
    """
    changes = [f"{key}={value}" for key, value in settings.items()]
    name = "-".join(map(str, (family, layers, hidden, seed, *(labels or ("encoder",)), *changes)))
    folder = root / name
    if folder.is_dir():
        return folder
    logging.disable_progress_bar()
    torch.manual_seed(seed)
    spread = 0.05 if labels is None else 0.4
    config = configuration(family, layers, hidden, spread)
    config.update(settings)
    if labels is None:
        model = AutoModel.from_config(config)
    else:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: i for i, label in enumerate(labels)}
        model = AutoModelForSequenceClassification.from_config(config)
    model.save_pretrained(folder)
    types = getattr(config, "type_vocab_size", 2 if family == "xlnet" else 0)
    tokenizer(token_types=types > 1).save_pretrained(folder)
    return folder
