"""From labeled examples to a saved cascade; needs the `train` extra."""

from cascadebert.environment import limit_spinning

limit_spinning()  # before a module of this package imports torch
