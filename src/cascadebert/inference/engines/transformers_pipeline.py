"""The usual way to run a classifier, `transformers.pipeline`: the baseline of benchmarks."""

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
        self._max_length = max_length
        self._label_ids = {name: int(i) for i, name in model.config.id2label.items()}

    def __call__(self, texts: Texts, batch_size: int) -> list[int]:
        """Label ids of the checkpoint's own, for texts or pairs."""
        inputs: list[Any] = [
            text if isinstance(text, str) else {"text": text[0], "text_pair": text[1]} for text in texts
        ]
        with quiet_transformers():
            outputs = self._run(inputs, batch_size=batch_size, truncation=True, max_length=self._max_length)
        return [self._label_ids[output["label"]] for output in outputs]
