"""Engines turn a batch of tokens into logits; nothing above this room knows which library does it."""

from cascadebert.engines.base import ENGINES, Engine, TokenBatch, load_engine

__all__ = ["ENGINES", "Engine", "TokenBatch", "load_engine"]
