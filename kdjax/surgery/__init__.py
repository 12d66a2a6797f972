"""Surgery on parameter trees: pure functions from weights to weights."""

from kdjax.surgery.initialise import kept_layers
from kdjax.surgery.merge import arcee_fusion, task_arithmetic, weight_average
from kdjax.surgery.quantise import fake_quantised, quantised_values
