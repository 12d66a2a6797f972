r"""What a sequence of tasks did to each of them, read from one matrix.

Notation: `accuracy` is R `[..., T, T]`; R_{i,j} is the accuracy on task j after training on tasks
1 to i. Every function gives `[...]`, so that seeds stay apart.

References: D. Lopez-Paz, M. Ranzato, "Gradient Episodic Memory for Continual Learning", 2017 (average
accuracy, backward and forward transfer); A. Chaudhry, P. K. Dokania, T. Ajanthan, P. H. S. Torr,
"Riemannian Walk for Incremental Learning: Understanding Forgetting and Intransigence", 2018
(forgetting).
"""

import jax.numpy as jnp
import numpy as np


def average_accuracy(accuracy):
    r"""The accuracy over all tasks after the last one.

    .. math:: \mathrm{ACC} = \frac{1}{T} \sum_{j=1}^{T} R_{T,j}

    >>> average_accuracy(jnp.array([[0.9, 0.5], [0.7, 0.8]]))
    Array(0.75, dtype=float32)
    """
    return _checked(accuracy, 1)[..., -1, :].mean(axis=-1)


def backward_transfer(accuracy):
    r"""How later tasks changed the accuracy on earlier ones; negative where they were forgotten.

    .. math:: \mathrm{BWT} = \frac{1}{T - 1} \sum_{j=1}^{T-1} (R_{T,j} - R_{j,j})

    >>> backward_transfer(jnp.array([[0.9, 0.5], [0.7, 0.8]]))
    Array(-0.2, dtype=float32)
    """
    accuracy = _checked(accuracy, 2)
    learned = jnp.diagonal(accuracy, axis1=-2, axis2=-1)
    return (accuracy[..., -1, :-1] - learned[..., :-1]).mean(axis=-1)


def forward_transfer(accuracy, untrained):
    r"""How earlier tasks changed the accuracy on a task before it was trained.

    .. math:: \mathrm{FWT} = \frac{1}{T - 1} \sum_{j=2}^{T} (R_{j-1,j} - b_j)

    Args:
        accuracy: R, `[..., T, T]`.
        untrained: b, `[..., T]`, the accuracy of the network at its initialisation.

    Returns:
        `[...]`.

    Raises:
        ValueError: `untrained` without one value per task.

    >>> forward_transfer(jnp.array([[0.9, 0.5], [0.7, 0.8]]), jnp.array([0.2, 0.25]))
    Array(0.25, dtype=float32)
    """
    accuracy, untrained = _checked(accuracy, 2), jnp.asarray(untrained)
    if untrained.shape != accuracy.shape[:-1]:
        raise ValueError(f"untrained must be {accuracy.shape[:-1]}, got {untrained.shape}")
    before = jnp.diagonal(accuracy, offset=1, axis1=-2, axis2=-1)
    return (before - untrained[..., 1:]).mean(axis=-1)


def forgetting(accuracy):
    r"""How far each earlier task fell from the best accuracy that it ever had.

    .. math:: F = \frac{1}{T - 1} \sum_{j=1}^{T-1} \Bigl(\max_{1 \le l < T} R_{l,j} - R_{T,j}\Bigr)

    Unlike backward transfer it looks at the best time, not at the time of training.

    >>> forgetting(jnp.array([[0.9, 0.5], [0.7, 0.8]]))
    Array(0.2, dtype=float32)
    """
    accuracy = _checked(accuracy, 2)
    best = accuracy[..., :-1, :-1].max(axis=-2)
    return (best - accuracy[..., -1, :-1]).mean(axis=-1)


def equivalence_factor(ratios, scores, target):
    r"""How many times as much other data do what the real ones do: the smallest ratio that reaches it.

    Between two ratios the score is taken as linear in the ratio's logarithm.

    Args:
        ratios: `[n]`, rising, above 0.
        scores: `[n]`, with that much more of the other data.
        target: the score with the real data.

    Returns:
        The ratio; the first one where it does already; inf where none does.

    >>> float(equivalence_factor([1, 4, 16], [0.5, 0.7, 0.8], 0.75))
    8.0
    """
    ratios, scores = np.asarray(ratios, float), np.asarray(scores, float)
    reached = np.flatnonzero(scores >= target)
    if not len(reached):
        return np.inf
    last = reached[0]
    if last == 0:
        return ratios[0]
    share = (target - scores[last - 1]) / (scores[last] - scores[last - 1])
    return np.exp((1 - share) * np.log(ratios[last - 1]) + share * np.log(ratios[last]))


def _checked(accuracy, tasks):
    accuracy = jnp.asarray(accuracy)
    shape = accuracy.shape
    if accuracy.ndim < 2 or shape[-1] != shape[-2] or shape[-1] < tasks:
        raise ValueError(f"accuracy must be [..., T, T] with T of {tasks} or more, got {shape}")
    return accuracy
