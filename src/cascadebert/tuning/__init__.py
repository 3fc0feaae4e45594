"""Selects and certifies operating points of saved cascades; the algorithms are in `cascadebert.thresholds`."""
