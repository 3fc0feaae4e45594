"""Selects and certifies operating points."""
