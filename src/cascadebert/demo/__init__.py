"""The embedded demo: a generated task, two transformers from scratch, the public path end to end."""
