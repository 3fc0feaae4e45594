"""Opens tokenizers as transformers does, and stores them as it uses them."""

from __future__ import annotations

import json
from pathlib import Path

from cascadebert.atomic import write_text_atomically
from cascadebert.errors import StageError, extra, reason
from cascadebert.inference.engines.torch import quiet_transformers

with extra("train"):
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

VOCABULARY_FILES = ("tokenizer.json", "vocab*", "*.model", "*.tokenizer", "*.vocab")


def has_tokenizer(source: Path) -> bool:
    """True if some file holds a vocabulary."""
    return any(any(source.glob(pattern)) for pattern in VOCABULARY_FILES)


def check_tokenizer(source: Path) -> None:
    """Raise StageError if no file holds a vocabulary: transformers would make up an empty tokenizer."""
    if not has_tokenizer(source):
        raise StageError(
            f"{source}: no tokenizer (such as tokenizer.json). Save the checkpoint with the tokenizer that "
            "it was trained with."
        )
    if not (source / "tokenizer.json").is_file() and any(source.glob("*.model")):
        with extra("train"):
            import sentencepiece  # noqa: F401  (without it transformers takes the file for another format)


def open_tokenizer(source: Path) -> PreTrainedTokenizerBase:
    """The tokenizer that transformers makes of a checkpoint folder.

    Raises StageError if there is none, or none with a fast form.
    """
    check_tokenizer(source)
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
    except Exception as error:  # tokenizers of each family fail in their own ways on what they cannot read
        raise StageError(f"{source}: no tokenizer that transformers can open ({reason(error)})") from error
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise StageError(f"{source}: its tokenizer has no fast form (tokenizer.json)")
    return tokenizer


def copy_tokenizer(source: Path, target: Path) -> None:
    """Store a tokenizer with the settings that take effect in transformers.

    A tokenizer.json alone does not decide the tokens: transformers changes it by tokenizer_config.json and
    by the class of the tokenizer (lower case, prefix space, vocabulary files, frame of a pair). The stored
    tokenizer.json is what results; the class that goes with it leaves it as it is. Raises StageError if there
    is no tokenizer, or none with a fast form.
    """
    tokenizer = open_tokenizer(source)
    effective = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()),
        truncation_side=tokenizer.truncation_side,
        padding_side=tokenizer.padding_side,
        model_max_length=tokenizer.model_max_length,
        **tokenizer.special_tokens_map,
    )
    effective.backend_tokenizer.no_padding()
    effective.backend_tokenizer.no_truncation()
    effective.save_pretrained(target)
    file = target / "tokenizer_config.json"
    settings = json.loads(file.read_text("utf-8"))
    # written even where they are the default, which depends on the class and on transformers' version
    settings |= {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": tokenizer.model_input_names,
    }
    write_text_atomically(file, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")


def check_vocabulary(name: str, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    """Raise StageError if the tokenizer has token ids that are not in the model's embedding table."""
    rows = int(model.get_input_embeddings().weight.shape[0])  # type: ignore[index]
    token, largest = max(tokenizer.get_vocab().items(), key=lambda item: item[1])
    if largest >= rows:
        raise StageError(
            f"{name}: its tokenizer has token ids up to {largest:,} ({token!r}), its model embeds {rows:,}. "
            "They do not belong together: save the checkpoint with the tokenizer that it was trained with, "
            "or train it after model.resize_token_embeddings(len(tokenizer))."
        )
