"""Training on labels alone: the teacher's own training and every table's first row."""

from kdjax.methods import classification
from kdjax.train.method import Method, Phase


def supervised() -> Method:
    """Cross-entropy of the player `student` on the labelled stream."""
    return Method(players={}, phases=(Phase(classification.label_term, ("student",)),))
