"""Metrics of labelled pixels."""

import numpy as np


def mean_overlap(predicted, truth, classes: int) -> np.ndarray:
    """Intersection over union of each class over all pixels, then the mean over the classes.

    Args:
        predicted: `[..., N, H, W]` integers.
        truth: `[N, H, W]`
        classes: how many; one that neither side has counts as 0.

    >>> float(mean_overlap([[[0, 1, 1]]], [[[0, 0, 1]]], 2))
    0.5
    """
    predicted, truth, overlaps = np.asarray(predicted), np.asarray(truth), []
    for c in range(classes):
        ours, theirs = predicted == c, truth == c
        either = np.sum(ours | theirs, axis=(-1, -2, -3))
        overlaps.append(np.sum(ours & theirs, axis=(-1, -2, -3)) / np.maximum(either, 1))
    return np.mean(overlaps, axis=0)
