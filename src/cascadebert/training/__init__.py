"""From labelled rows to a saved cascade; needs the `train` extra."""
