"""Losses for knowledge transfer: pure functions, arrays in, arrays out.

Student before teacher; hyperparameters by keyword; every axis that the definition does not reduce is
kept; computed in at least float32; `where` masks. `total_and_count` reduces.
"""

from kdjax.losses.divergences import softened_kl_divergence
from kdjax.losses.features import feature_hint
from kdjax.losses.reduction import total_and_count
from kdjax.losses.relational import relational_distance

# The losses whose value mixes the examples of a batch: they need the global batch on every device.
COUPLING = frozenset({"relational_distance"})
