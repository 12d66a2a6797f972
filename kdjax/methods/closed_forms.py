r"""Students that need no training: kernel ridge regression taught again and again, and tables.

Notation: K is a kernel `[N, N]`, y the labels `[N]` or `[N, C]`, λ the regularisation, a the share
of the labels in a target. π* is a teacher's table of probabilities `[S, A]` over A labels for each of S
inputs, n counts how often each pair was seen.
"""

import numpy as np


def repeated_ridge_fits(kernel, labels, *, regularisation, label_weight, generations):
    r"""The fits of kernel ridge regression that learns from labels and from its own fit before.

    .. math:: f_1 = K (K + \lambda I)^{-1} y, \quad
        f_\tau = K (K + \lambda I)^{-1} (a\, y + (1 - a) f_{\tau - 1})

    Args:
        kernel: `[N, N]`, symmetric and positive semi-definite.
        labels: `[N]` or `[N, C]`.
        regularisation: λ > 0.
        label_weight: a in [0, 1].
        generations: how many.

    Returns:
        The targets `[generations, N, ...]` that each generation was fitted to; its predictions at points
        with kernel rows k are `k @ ridge_weights(K, targets, λ)`.

    Reference:
        Borup, Andersen, "Even your Teacher Needs Guidance: Ground-Truth Targets Dampen Regularization
        Imposed by Self-Distillation", 2021.
    """
    _check_fraction(label_weight)
    targets = [np.asarray(labels, float)]
    for _ in range(generations - 1):
        fit = kernel @ ridge_weights(kernel, targets[-1], regularisation)
        targets.append(label_weight * targets[0] + (1 - label_weight) * fit)
    return np.stack(targets)


def ridge_weights(kernel, targets, regularisation):
    """(K + λ I)⁻¹ targets."""
    if regularisation <= 0:
        raise ValueError(f"regularisation must be above 0, got {regularisation}")
    return np.linalg.solve(kernel + regularisation * np.eye(len(kernel)), targets)


def best_label_weight(labels, from_labels, from_teacher):
    r"""The a in [0, 1] with the least squared error, from two fits: prediction is linear in a.

    .. math:: a^* = 1 - \frac{\langle y - u, v - u \rangle}{\lVert v - u \rVert^2}

    Args:
        labels: y on validation.
        from_labels: u, the predictions there of a model fitted to the labels.
        from_teacher: v, of the same model fitted to the teacher's outputs.
    """
    difference = np.ravel(from_teacher - from_labels)
    along = np.ravel(labels - from_labels) @ difference
    return float(np.clip(1 - along / (difference @ difference), 0, 1))


def tabular_students(counts, teacher):
    """The tables that empirical learners end at, by what they see of the teacher.

    Args:
        counts: n `[S, A]`, integers.
        teacher: π* `[S, A]`.

    Returns:
        `{name: [S, A]}`: `hard` sees the sampled labels (cross-entropy); `weighted` also the teacher's
        probability of each, as a weight of its cross-entropy; `squared` matches their logarithms
        (squared error of the log-probability, `label_log_probability_error`) and spreads what is left
        over the labels that it did not see; `full` sees all probabilities of an input. An input that
        was never seen gets the uniform distribution.

    Reference:
        Zhao, Zhu, "Towards the Fundamental Limits of Knowledge Transfer over Finite Domains", 2023.
    """
    counts, teacher = np.asarray(counts), np.asarray(teacher, float)
    seen, unseen = counts > 0, counts == 0
    left = 1 - np.where(seen, teacher, 0).sum(1, keepdims=True)
    squared = np.where(seen, teacher, left / np.maximum(unseen.sum(1, keepdims=True), 1))
    tables = {
        "hard": _normalised(counts.astype(float)),
        "weighted": _normalised(counts * teacher),
        "squared": _normalised(squared),
        "full": teacher,
    }
    uniform = np.full_like(teacher, 1 / teacher.shape[1])
    known = seen.any(1, keepdims=True)
    return {name: np.where(known, table, uniform) for name, table in tables.items()}


def _normalised(table):
    total = table.sum(1, keepdims=True)
    return table / np.where(total > 0, total, 1)


def _check_fraction(value):
    if not 0 <= value <= 1:
        raise ValueError(f"label_weight must be between 0 and 1, got {value}")
