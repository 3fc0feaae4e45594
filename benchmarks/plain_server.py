"""The server that one writes first: FastAPI, and the `transformers` pipeline of the large model behind it.

    python benchmarks/plain_server.py CHECKPOINT --max-length 64

It answers `/predict` in the same form as `cascadebert serve`: torch in float32 on as many threads as there
are cores, the texts of a request as one batch of the pipeline, one request after the other. Says where it is
in one line of JSON.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from cascadebert.environment import cores
from cascadebert.server.http.runner import listen


class Asked(BaseModel):
    """A batch of texts, each in a list."""

    inputs: list[list[str]]


def make_app(checkpoint: Path, max_length: int) -> FastAPI:
    """The application."""
    torch.set_num_threads(cores())
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None)
    app = FastAPI()

    @app.post("/predict")
    async def predict(asked: Asked) -> list[list[dict[str, Any]]]:
        texts = [row[0] for row in asked.inputs]
        found: Any = classify(texts, batch_size=len(texts), truncation=True, max_length=max_length)
        return list(found)

    return app


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--max-length", type=int, required=True)
    asked = parser.parse_args()
    app, listener = make_app(asked.checkpoint, asked.max_length), listen("127.0.0.1", 0)
    print(json.dumps({"url": f"http://127.0.0.1:{listener.getsockname()[1]}"}), flush=True)
    config = uvicorn.Config(app, log_level="error", access_log=False)
    uvicorn.Server(config).run([listener])


if __name__ == "__main__":
    main()
