"""Engines turn a batch of tokens into logits; nothing above this room knows which library does it."""
