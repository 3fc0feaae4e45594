"""One complete classifier: its own tokenizer, its own configuration, an engine that runs it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from tokenizers import Encoding, Tokenizer

from cascadebert.batching import COARSE, Rows, batches, join_rows
from cascadebert.confidence import max_probability, softmax
from cascadebert.engines.base import Engine, TokenBatch
from cascadebert.engines.load import load_engine
from cascadebert.errors import DataError, StageError
from cascadebert.types import Flops, Ints, Logits, Predictions, Texts

BATCH_TOKENS = 2048
ENCODE_CHUNK = 8192
DEFAULT_LENGTH = 128
CHECKPOINT_FILES = ("*.json", "*.safetensors", "*.onnx", "*.txt", "*.model", "*.npz", "*.md", "stage-*/*")
PICKLED_WEIGHTS = ("pytorch_model*.bin",)


class TextEncoder:
    """Texts to tokens by a checkpoint's own `tokenizer.json`, cut to a maximum length.

    Training and inference both go through here, so they see the same tokens.
    """

    def __init__(self, path: Path, *, max_length: int) -> None:
        file = path / "tokenizer.json"
        if not file.is_file():
            raise StageError(f"{path}: no tokenizer.json. Save the checkpoint with its fast tokenizer.")
        content = file.read_bytes()
        self.max_length = max_length
        self.pad_id = _pad_id(path)
        self.key = f"{hashlib.sha256(content).hexdigest()}-{max_length}"
        self._tokenizer = Tokenizer.from_buffer(content)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length)
        self.vocabulary = self._tokenizer.get_vocab_size()

    def encode(self, texts: Texts) -> Rows:
        """Tokens of each text or pair, special tokens included.

        Raises:
            DataError: if it is given one string, or something that is no text.
        """
        if isinstance(texts, str):
            raise DataError("expected a list of texts (or of pairs), got one string: put it in a list")
        for place, text in enumerate(texts, start=1):
            if not (isinstance(text, str) or (isinstance(text, (tuple, list)) and len(text) == 2)):
                raise DataError(f"text {place}: expected a string or a pair of strings, got {text!r:.40}")
        found: list[Encoding] = []
        for start in range(0, len(texts), ENCODE_CHUNK):
            found.extend(self._tokenizer.encode_batch_fast(list(texts[start : start + ENCODE_CHUNK])))
        empty = next((place for place, one in enumerate(found, start=1) if not one.ids), None)
        if empty is not None:
            raise DataError(f"text {empty} has no tokens; expected one or more")
        typed = any(not isinstance(text, str) for text in texts) or any(one.type_ids[0] for one in found[:1])
        types = [one.type_ids for one in found] if typed else None
        return join_rows([one.ids for one in found], types, self.pad_id)

    def cuts(self, texts: Texts) -> list[bool]:
        """Whether each text or pair is longer than a row and is cut."""
        return [bool(one.overflowing) for one in self._tokenizer.encode_batch(list(texts))]

    def both_ends(self, texts: Texts) -> list[str]:
        """Texts too long for one row, cut to their first and last words that fill it together.

        Args:
            texts: single texts.

        Raises:
            DataError: if they are pairs.
        """
        whole = Tokenizer.from_str(self._tokenizer.to_str())
        whole.no_truncation()
        half = (self.max_length - whole.num_special_tokens_to_add(False)) // 2
        cut: list[str] = []
        for text in texts:
            if not isinstance(text, str):
                raise DataError("pairs cannot be cut to both ends; expected single texts")
            cut.append(_both_ends(text, whole.encode(text, add_special_tokens=False), half))
        return cut


@dataclass(frozen=True)
class Stage:
    """One complete classifier, ready to run.

    Attributes:
        name: what it was made from, for people.
        path: its folder, which plain `transformers` opens too.
        label_names: in the order of the columns of its logits.
        layers: number of transformer layers.
        hidden: width of a layer.
        encoder: its tokenizer.
        engine: what runs it.
        flops: of one row, where known.
        batch_tokens: budget of a batch, in padded tokens; answers do not depend on it.
        columns: order in which the checkpoint's own labels are given out.
    """

    name: str
    path: Path
    label_names: tuple[str, ...]
    layers: int
    hidden: int
    encoder: TextEncoder
    engine: Engine
    flops: Flops | None = None
    batch_tokens: int = BATCH_TOKENS
    columns: tuple[int, ...] | None = None

    @classmethod
    def from_pretrained(
        cls,
        path_or_repo: str | Path,
        *,
        engine: str = "auto",
        precision: str = "auto",
        max_length: int | None = None,
    ) -> Stage:
        """Open a fine-tuned classifier from a folder or the Hugging Face Hub.

        Args:
            path_or_repo: a folder with config.json, model.safetensors and tokenizer.json, or a repository.
            engine: "openvino", "onnxruntime", "torch" or "auto" (see `load_engine`).
            precision: "float32", "bfloat16" or "auto" for the engine's own choice.
            max_length: longest row in tokens; default 128, or less where the model reads less.

        Raises:
            StageError: if it is not one complete single-label classifier.
        """
        path = local_folder(path_or_repo)
        config = read_config(path)
        labels = config_labels(config, path)
        return cls(
            name=Path(str(path_or_repo)).name,
            path=path,
            label_names=labels,
            layers=config_number(config, "num_hidden_layers", path),
            hidden=config_number(config, "hidden_size", path),
            encoder=TextEncoder(path, max_length=fitting_length(config, max_length, path)),
            engine=load_engine(path, engine=engine, precision=precision),
        )

    @cached_property
    def num_labels(self) -> int:
        """Number of labels."""
        return len(self.label_names)

    def encode(self, texts: Texts) -> Rows:
        """Tokens of each text or pair."""
        return self.encoder.encode(texts)

    def logits(self, rows: Rows, positions: Ints | None = None) -> Logits:
        """Logits of the rows at the given positions.

        Batches hold rows of one padded length, and as many run at the same time as the engine likes.

        Args:
            rows: tokens from `encode`.
            positions: (m,) which rows; default all.

        Returns:
            (m, num_labels) in the order of `positions`.
        """
        wanted = np.arange(len(rows)) if positions is None else positions
        place = np.empty(len(rows), dtype=np.int64)
        place[wanted] = np.arange(len(wanted))
        answers = np.empty((len(wanted), self.num_labels), dtype=np.float32)

        def run(batch: Ints) -> None:
            answers[place[batch]] = self.run(rows.batch(batch))

        lengths, streams = rows.padded_lengths, self.engine.streams
        budget = min(self.batch_tokens, max(1, int(lengths[wanted].sum()) // streams))
        in_parallel(run, list(batches(lengths, wanted, tokens=budget)), streams)
        return answers

    def run(self, batch: TokenBatch) -> Logits:
        """(rows, num_labels) logits of one batch, as it is given."""
        answers = self.engine.logits(batch)
        return answers if self.columns is None else answers[:, list(self.columns)]

    def predict(self, texts: Texts) -> Predictions:
        """Answers of this stage alone."""
        probabilities = softmax(self.logits(self.encode(texts)))
        return Predictions(
            label_ids=probabilities.argmax(axis=1),
            probabilities=probabilities,
            confidences=max_probability(probabilities),
            stages=np.ones(len(texts), dtype=np.int64),
            label_names=self.label_names,
        )

    def with_labels(self, names: Sequence[str]) -> Stage:
        """This stage with the columns of its logits in the order of `names`, matched by name.

        Raises:
            StageError: if the labels are not the same; shows both lists.
        """
        own = config_labels(read_config(self.path), self.path)
        if sorted(own) != sorted(names):
            raise StageError(
                f"the labels of {self.name} are not the expected ones. Its config.json: {', '.join(own)}. "
                f"Expected: {', '.join(names)}."
            )
        return replace(self, label_names=tuple(names), columns=tuple(own.index(name) for name in names))


def _both_ends(text: str, tokens: Encoding, half: int) -> str:
    """The whole words within the first and within the last so many tokens."""
    words, count = tokens.word_ids, len(tokens.ids)
    if count <= 2 * half:
        return text
    head, tail = half, count - half
    while head > 1 and words[head] is not None and words[head] == words[head - 1]:
        head -= 1
    while tail < count - 1 and words[tail] is not None and words[tail] == words[tail - 1]:
        tail += 1
    return f"{text[: tokens.offsets[head - 1][1]]} {text[tokens.offsets[tail][0] :]}"


def in_parallel(run: Callable[[Ints], object], batches: Sequence[Ints], streams: int) -> None:
    """Run each batch, so many at the same time."""
    if streams == 1 or len(batches) < 2:
        for batch in batches:
            run(batch)
        return
    with ThreadPoolExecutor(streams) as threads:
        for _ in threads.map(run, batches):
            pass


def local_folder(path_or_repo: str | Path) -> Path:
    """The folder itself, or the downloaded files of a repository of the Hugging Face Hub.

    Raises:
        StageError: if there is neither.
    """
    path = Path(path_or_repo)
    if path.is_dir():
        return path
    try:
        folder = Path(snapshot_download(str(path_or_repo), allow_patterns=list(CHECKPOINT_FILES)))
        if not any(folder.rglob("*.safetensors")):  # older encoders; opened for their tensors only
            snapshot_download(str(path_or_repo), allow_patterns=list(PICKLED_WEIGHTS))
        return folder
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise StageError(
            f"{path_or_repo}: neither a folder nor a repository that can be downloaded ({reason})"
        ) from error


def read_config(path: Path) -> dict[str, Any]:
    """The checkpoint's config.json.

    Raises:
        StageError: if it is absent or not JSON.
    """
    try:
        config: dict[str, Any] = json.loads((path / "config.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise StageError(f"{path}: no readable config.json ({error})") from error
    return config


def config_labels(config: dict[str, Any], path: Path) -> tuple[str, ...]:
    """Label names of a classifier, in the order of its logits; the unnamed `LABEL_3` is "3".

    Raises:
        StageError: if it is no single-label classifier of two labels or more.
    """
    named = config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}  # transformers leaves these two out
    names = tuple(str(named[key]) for key in sorted(named, key=int))
    if config.get("problem_type") in ("multi_label_classification", "regression"):
        raise StageError(f"{path}: a {config['problem_type']} model; expected a single-label classifier")
    if len(names) < 2 or len(set(names)) < len(names):
        raise StageError(f"{path}: expected two or more distinct labels in id2label, found {list(names)}")
    if names == tuple(f"LABEL_{i}" for i in range(len(names))):
        return tuple(str(i) for i in range(len(names)))
    return names


ALIASES = {
    "num_hidden_layers": ("n_layers", "num_layers", "n_layer"),
    "hidden_size": ("dim", "d_model", "n_embd", "emb_dim"),
    "max_position_embeddings": ("n_positions",),
}


def config_number(config: dict[str, Any], name: str, path: Path) -> int:
    """A size from a configuration, under its usual name or that of another family.

    Raises:
        StageError: if it is not there.
    """
    for key in (name, *ALIASES.get(name, ())):
        if key in config:
            return int(config[key])
    raise StageError(f"{path}: config.json does not say {name}")


def fitting_length(config: dict[str, Any], wanted: int | None, path: Path) -> int:
    """The maximum length in tokens: as wanted, or 128, within what the model reads.

    Raises:
        StageError: if more is wanted than the model reads.
    """
    if not any(name in config for name in ("max_position_embeddings", *ALIASES["max_position_embeddings"])):
        return wanted or DEFAULT_LENGTH  # relative positions: no limit
    reads = config_number(config, "max_position_embeddings", path)
    if config.get("model_type") in ("roberta", "xlm-roberta", "camembert"):
        reads -= int(config.get("pad_token_id", 1)) + 1  # positions are counted from behind the padding id
    reads -= reads % COARSE
    if wanted is not None and not 4 <= wanted <= reads:
        raise StageError(f"{path}: a maximum length of 4 to {reads} tokens is possible, not {wanted}")
    return min(DEFAULT_LENGTH, reads) if wanted is None else wanted


def _pad_id(path: Path) -> int:
    """The padding token's number: from the configuration, else 0 as in BERT."""
    number = read_config(path).get("pad_token_id")
    return 0 if number is None else int(number)
