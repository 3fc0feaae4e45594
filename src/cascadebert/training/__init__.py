"""From labeled examples to a saved cascade; needs the `train` extra."""

from cascadebert.environment import use_passive_waiting

use_passive_waiting()  # before a module of this package imports torch
