"""Stages, the cascade and offline batch inference; runs without torch."""
