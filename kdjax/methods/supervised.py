"""Training on labels alone: the teacher's own training and every table's first row."""

from kdjax.methods import classification
from kdjax.train.method import Method, one_phase


def supervised() -> Method:
    """Cross-entropy of the player `student` on the labelled stream."""
    return one_phase(classification.label_term)
