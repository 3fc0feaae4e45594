"""Distills complete small encoders from a large one."""
