"""Tables of numbers with class labels, as arrays."""

import numpy as np


def breast_cancer(features: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """The 569 tumours inside scikit-learn: their first measurements in [0, 1], and 1 for a benign one.

    The range of a measurement counts as known; it comes with the table.

    Args:
        features: how many of the 30 columns, 1 to 30.

    Returns:
        (`float32[569, features]`, `int32[569]`).

    Raises:
        ValueError: features out of range.

    Reference:
        Street, Wolberg, Mangasarian, "Nuclear Feature Extraction for Breast Tumor Diagnosis", 1993.

    >>> breast_cancer(4)[0].shape
    (569, 4)
    """
    from sklearn.datasets import load_breast_cancer  # heavy, and few read a table

    if not 1 <= features <= 30:
        raise ValueError(f"features must be 1 to 30, got {features}")
    table, label = load_breast_cancer(return_X_y=True)
    table = table[:, :features]
    low, high = table.min(axis=0), table.max(axis=0)
    return ((table - low) / (high - low)).astype(np.float32), label.astype(np.int32)
