"""From a fine-tuned classifier to the fastest cascade: the steps of `build`."""
