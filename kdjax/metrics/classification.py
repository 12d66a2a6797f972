"""What a classifier is measured by, per example: an evaluation sums them over a whole split.

Notation: `logits` are `[B, C]`, `labels` `[B]` integers; every function returns one value (or one row)
per example, so that totals over batches and devices are exact.
"""

import jax
import jax.numpy as jnp


def correct(logits, labels):
    """1.0 where the largest logit is the label: its mean is the accuracy. `[B]`.

    >>> correct(jnp.array([[0.0, 2.0], [3.0, 1.0]]), jnp.array([1, 1]))
    Array([1., 0.], dtype=float32)
    """
    return (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)


def agreement(student_logits, teacher_logits):
    """1.0 where student and teacher choose the same class: its mean is top-1 agreement. `[B]`.

    >>> agreement(jnp.array([[0.0, 2.0]]), jnp.array([[0.0, 9.0]]))
    Array([1.], dtype=float32)
    """
    return correct(student_logits, jnp.argmax(teacher_logits, axis=-1))


def negative_log_likelihood(logits, labels):
    """-log q(label) in nats. `[B]`."""
    log_q = jax.nn.log_softmax(logits.astype(jnp.float32))
    return -jnp.take_along_axis(log_q, labels[..., None], axis=-1)[..., 0]


def calibration_gaps(logits, labels, *, bins: int = 15):
    """Confidence minus correctness, in the column of the example's confidence bin. `[B, bins]`.

    With totals over a split, `expected_calibration_error(total, count)` is the error of Naeini,
    Cooper, Hauskrecht, "Obtaining Well Calibrated Probabilities Using Bayesian Binning", 2015, over
    bins of equal width as in Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural
    Networks", 2017, who used 15.
    """
    confidence = jnp.max(jax.nn.softmax(logits.astype(jnp.float32)), axis=-1)
    column = jnp.clip(jnp.ceil(confidence * bins) - 1, 0, bins - 1).astype(jnp.int32)
    gap = confidence - correct(logits, labels)
    return gap[:, None] * jax.nn.one_hot(column, bins)


def expected_calibration_error(total, count):
    """The calibration error from the totals `[..., bins]` of `calibration_gaps` and their count.

    >>> expected_calibration_error(jnp.array([1.0, -2.0]), 10)
    Array(0.3, dtype=float32)
    """
    return jnp.sum(jnp.abs(total), axis=-1) / count
