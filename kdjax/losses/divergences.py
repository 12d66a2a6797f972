"""Divergences between the student's and the teacher's categorical distribution, per row of logits.

Notation, for every function of this file: `s` and `t` are student and teacher logits of shape
`[..., C]`, q = softmax(s / T) and p = softmax(t / T) for the temperature T, and the result has shape
`[...]`. T is a number or an array of the result's shape. Everything is computed in log space.

Every divergence is `distributions -> value` at heart: the functions `*_of_log_probs(log_q, log_p)`
take the two rows of log-probabilities, student first, and are what `kdjax.signals` applies chunk by
chunk to vocabularies that do not fit.
"""

import jax.numpy as jnp

from kdjax.losses import _arrays


def softened_kl_divergence(student_logits, teacher_logits, *, temperature=1.0, where=None):
    r"""T² · KL(teacher ‖ student) of softened distributions: the loss of knowledge distillation.

    .. math:: T^2 \sum_c p_c (\log p_c - \log q_c)

    The factor T² keeps the gradient's scale as T grows; for large T the loss tends to
    `mean((s - mean(s) - t + mean(t))²) / 2`.

    Args:
        student_logits: `[..., C]`
        teacher_logits: `[..., C]`
        temperature: T > 0, a number or `[...]`.
        where: `[...]` boolean; masked rows give zero, in value and gradient.

    Returns:
        `[...]`. Classes at -inf on both sides carry nothing; a class at -inf for the student alone
        gives +inf if the teacher has mass there.

    Raises:
        TypeError: logits that are not floating-point. ValueError: shapes, temperature.

    >>> s, t = jnp.array([[0.0, 0.0]]), jnp.array([[0.0, jnp.log(3.0)]])
    >>> softened_kl_divergence(s, t).round(4)
    Array([0.1308], dtype=float32)

    Reference:
        Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015.
        The authors used T between 1 and 20, and T = 20 for their MNIST nets.
    """
    log_q, log_p, temperature = softened(student_logits, teacher_logits, temperature, where)
    values = jnp.square(temperature) * kl_of_log_probs(log_q, log_p)
    return _arrays.select(where, values)


def kl_of_log_probs(log_q, log_p):
    """KL(teacher ‖ student) from log-probabilities `[..., C]` of student and teacher -> `[...]`."""
    return _arrays.expectation(log_p, _arrays.log_ratio(log_p, log_q))


def softened(student_logits, teacher_logits, temperature, where):
    """(log q, log p, T of the result's shape or scalar), checked, for a divergence over logits."""
    s, t = _arrays.floating(student_logits=student_logits, teacher_logits=teacher_logits)
    _arrays.check_min_rank(1, student_logits=s, teacher_logits=t)
    _arrays.check_same_shape(student_logits=s, teacher_logits=t)
    _arrays.check_positive(temperature=temperature)
    _arrays.check_where(where, s.shape[:-1])
    s, t = _arrays.select(where, s, t)
    log_q = _arrays.log_softmax(s / _arrays.per_row(temperature, s))
    log_p = _arrays.log_softmax(t / _arrays.per_row(temperature, t))
    return log_q, log_p, jnp.asarray(temperature, s.dtype)
