"""The embedded demo: a generated task, a classifier from scratch, and `build` end to end."""
