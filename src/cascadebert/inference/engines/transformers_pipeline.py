"""The usual way to run a classifier, `transformers.pipeline`: the baseline of benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cascadebert.errors import extra
from cascadebert.inference.engines.torch_checkpoint import quiet_transformers
from cascadebert.types import Texts

with extra("train"):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline


def load_pipeline(path: Path, *, max_length: int) -> Callable[[Texts, int], list[int]]:
    """A float32 pipeline: (texts or pairs, batch size) to label ids of the checkpoint's own."""
    with quiet_transformers():
        model = AutoModelForSequenceClassification.from_pretrained(
            path, local_files_only=True, dtype=torch.float32
        )
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        classify = pipeline("text-classification", model=model, tokenizer=tokenizer)
    label_ids = {name: int(i) for i, name in model.config.id2label.items()}

    def predict(texts: Texts, batch_size: int) -> list[int]:
        inputs: list[Any] = [
            text if isinstance(text, str) else {"text": text[0], "text_pair": text[1]} for text in texts
        ]
        with quiet_transformers():
            outputs = classify(inputs, batch_size=batch_size, truncation=True, max_length=max_length)
        return [label_ids[output["label"]] for output in outputs]

    return predict
