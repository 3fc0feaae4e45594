"""The usual way to run a classifier, `transformers.pipeline`: what others are compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cascadebert.errors import extra
from cascadebert.inference.engines.torch_checkpoint import quiet_transformers
from cascadebert.types import Texts

with extra("train"):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline


class Pipeline:
    """A `text-classification` pipeline in float32."""

    def __init__(self, path: Path, *, max_length: int) -> None:
        with quiet_transformers():
            model = AutoModelForSequenceClassification.from_pretrained(
                path, local_files_only=True, dtype=torch.float32
            )
            tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
            self._run = pipeline("text-classification", model=model, tokenizer=tokenizer)
        self._length, self._ids = max_length, {name: int(i) for i, name in model.config.id2label.items()}

    def __call__(self, texts: Texts, batch_size: int) -> list[int]:
        """The labels of texts or pairs, as numbers of the checkpoint's own, in batches of so many rows."""
        rows: list[Any] = [
            text if isinstance(text, str) else {"text": text[0], "text_pair": text[1]} for text in texts
        ]
        with quiet_transformers():
            found = self._run(rows, batch_size=batch_size, truncation=True, max_length=self._length)
        return [self._ids[one["label"]] for one in found]
