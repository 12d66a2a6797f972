"""Tables of numbers with class labels, as arrays, and tables of probabilities of labels."""

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


def from_moments(rng, rows, label, size: int, *, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows drawn like a table's: independent Gaussians of noised means and variances of every class.

    Noised are a class's count, sums and sums of squares, 1 + 2F numbers, of which a row in [0, 1]
    moves each by at most 1.

    Args:
        rng: a NumPy generator.
        rows: `[N, F]` in [0, 1].
        label: `[N]` integers from 0.
        size: how many rows of every class are drawn.
        noise: the standard deviation of what is added to each number.

    Returns:
        (`float32[C size, F]` in [0, 1], `int[C size]`), class after class.

    >>> rows, label = np.full((40, 2), 0.5), np.repeat([0, 1], 20)
    >>> drawn, said = from_moments(np.random.default_rng(0), rows, label, 3, noise=0.0)
    >>> said.tolist(), round(float(abs(drawn - 0.5).mean()), 2)
    ([0, 0, 0, 1, 1, 1], 0.02)
    """
    classes = label.max() + 1
    made = []
    for each, added in enumerate(rng.normal(0, noise, size=(classes, 1 + 2 * rows.shape[1]))):
        own = rows[label == each]
        sums = np.concatenate([[len(own)], own.sum(axis=0), (own**2).sum(axis=0)]) + added
        mean, square = np.split(sums[1:] / max(sums[0], 1), 2)
        spread = np.sqrt(np.clip(square - mean**2, 1e-3, 1))
        made.append(np.clip(mean + spread * rng.normal(size=(size, len(mean))), 0, 1))
    return np.concatenate(made).astype(np.float32), np.repeat(np.arange(classes), size)


# --- Conditional probabilities --------------------------------------------------------------------
# `(table [S, A], weights [S])`: of A labels for each of S inputs, and how often each input comes. Each
# is nearly the hardest for a sample of so many pairs that shows something else of the table.


def nearly_uniform(rng, inputs: int, labels: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of neighbouring labels that differ by as little as a sample of labels hardly tells.

    Which of two is likelier is drawn; inputs come equally often.

    Reference:
        Zhao, Zhu, "Towards the Fundamental Limits of Knowledge Transfer over Finite Domains", 2023.

    >>> table, weights = nearly_uniform(np.random.default_rng(0), 3, 4, 300)
    >>> np.abs(table - 0.25).round(3).max(), table.sum(1).tolist(), weights.sum()
    (np.float64(0.025), [1.0, 1.0, 1.0], np.float64(1.0))
    """
    step = 0.5 * np.sqrt(inputs * labels / size)
    signs = rng.choice([-1, 1], (inputs, labels // 2, 1)) * [1, -1]
    return (1 + step * signs).reshape(inputs, labels) / labels, np.full(inputs, 1 / inputs)


def rare_labels(inputs: int, labels: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """One likely label and half as many rare ones as there are labels, seen about once or never.

    >>> rare_labels(1, 6, 10)[0].round(2).tolist()
    [[0.8, 0.1, 0.1, 0.0, 0.0, 0.0]]
    """
    table = np.zeros((inputs, labels))
    table[:, 1 : labels // 2] = inputs / size
    table[:, 0] = 1 - table.sum(1)
    return table, np.full(inputs, 1 / inputs)


def rare_inputs(rng, inputs: int, labels: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A drawn label for each input, and inputs that but for the first are seen about once or never.

    >>> table, weights = rare_inputs(np.random.default_rng(0), 3, 4, 10)
    >>> table.sum(1).tolist(), weights.tolist()
    ([1.0, 1.0, 1.0], [0.8, 0.1, 0.1])
    """
    weights = np.full(inputs, 1 / size)
    weights[0] = 1 - weights[1:].sum()
    return np.eye(labels)[rng.integers(labels, size=inputs)], weights
