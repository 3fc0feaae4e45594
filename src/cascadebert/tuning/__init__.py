"""Selects and certifies points of saved cascades; the algorithms are in `cascadebert.thresholds`."""
