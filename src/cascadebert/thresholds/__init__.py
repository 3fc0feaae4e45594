"""Confidence scores, threshold search and risk control on arrays."""
