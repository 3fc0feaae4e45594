"""Columns, readers, writers, splits and corpora."""
