"""Losses over labels that do not exclude each other, each a probability of its own.

Notation: `s` are the student's logits `[..., Q]` of Q questions, `σ(s)` its probabilities of yes.
"""

import jax
import jax.numpy as jnp

from kdjax.losses import _arrays


def independent_cross_entropy(student_logits, teacher_logits, *, temperature=1.0, where=None):
    r"""Mean cross-entropy of yes and no, H(teacher, student), over questions answered on their own.

    .. math:: -\frac{1}{Q} \sum_q p_q \log \sigma(s_q) + (1 - p_q) \log \sigma(-s_q),
        \quad p_q = \sigma(t_q / T)

    T softens the teacher's answers alone. At its minimum it is the teacher's own entropy, not zero.

    Args:
        student_logits: `[..., Q]`
        teacher_logits: `[..., Q]`; of a teacher with a logit for yes and one for no, their difference.
        temperature: T > 0.
        where: `[...]` boolean; masked rows give zero, in value and gradient.

    Returns:
        `[...]`

    Raises:
        TypeError: logits that are not floating-point. ValueError: shapes, temperature.

    >>> independent_cross_entropy(jnp.zeros((1, 2)), jnp.array([[0.0, 4.0]])).round(4)
    Array([0.6931], dtype=float32)

    Reference:
        Lee, Bang, Kwon, Kim, "Multi-aspect Knowledge Distillation with Large Language Model", 2025,
        whose questions a multimodal language model answers once per image; the student's outputs for
        them are dropped after training.
    """
    s, t = _arrays.floating(student_logits=student_logits, teacher_logits=teacher_logits)
    _arrays.check_min_rank(1, student_logits=s)
    _arrays.check_same_shape(student_logits=s, teacher_logits=t)
    _arrays.check_positive(temperature=temperature)
    _arrays.check_where(where, s.shape[:-1])
    s, t = _arrays.select(where, s, t)
    p = jax.nn.sigmoid(t / _arrays.per_row(temperature, t))
    # softplus(s) - p s, without the difference of two large numbers.
    values = p * jax.nn.softplus(-s) + (1 - p) * jax.nn.softplus(s)
    return _arrays.select(where, jnp.mean(values, axis=-1))


def asymmetric_multi_label(
    student_logits, labels, *, positive_focus=0.0, negative_focus=4.0, margin=0.05, where=None
):
    r"""Focal cross-entropy of yes and no, summed, in which easy negatives weigh less than positives.

    .. math:: -\sum_q y_q (1 - p_q)^{\gamma_+} \log p_q
        + (1 - y_q) \hat p_q^{\gamma_-} \log(1 - \hat p_q),
        \quad p = \sigma(s), \quad \hat p = \max(p - m, 0)

    A negative below the margin m counts nothing. All focuses and m at 0 are plain cross-entropy.

    Args:
        student_logits: `[..., Q]`
        labels: `[..., Q]` booleans or integers, not 0 for yes.
        positive_focus: γ+ >= 0.
        negative_focus: γ- >= 0.
        margin: m in [0, 1].
        where: `[...]` boolean; masked rows give zero, in value and gradient.

    Returns:
        `[...]`

    Raises:
        TypeError: logits that are not floating-point, labels that are.
        ValueError: shapes, focuses, margin.

    >>> s, y = jnp.zeros((1, 2)), jnp.array([[True, False]])
    >>> plain = asymmetric_multi_label(s, y, negative_focus=0.0, margin=0.0)
    >>> plain.round(4)
    Array([1.3863], dtype=float32)

    Reference:
        Ridnik, Ben-Baruch, Zamir, Noy, Friedman, Protter, Zelnik-Manor, "Asymmetric Loss For
        Multi-Label Classification", 2021, with γ+ = 0, γ- = 4, m = 0.05. Object-aware distillation of
        CLIP into detectors trains its block and global heads with it.
    """
    (s,) = _arrays.floating(student_logits=student_logits)
    _arrays.check_min_rank(1, student_logits=s)
    labels = jnp.asarray(labels)
    if jnp.issubdtype(labels.dtype, jnp.inexact):
        raise TypeError(f"labels must be booleans or integers, got {labels.dtype}")
    _arrays.check_same_shape(student_logits=s, labels=labels)
    _arrays.check_not_negative(positive_focus=positive_focus, negative_focus=negative_focus)
    _arrays.check_fraction(margin=margin)
    _arrays.check_where(where, s.shape[:-1])
    s = _arrays.select(where, s)
    positive = jnp.exp(-positive_focus * jax.nn.softplus(s)) * jax.nn.softplus(-s)
    # log(1 - p̂) = log(σ(-s) + m), at most 0.
    margin = jnp.asarray(margin, s.dtype)
    log_margin = jnp.where(margin > 0, jnp.log(jnp.where(margin > 0, margin, 1)), -jnp.inf)
    log_no = jnp.minimum(jnp.logaddexp(-jax.nn.softplus(s), log_margin), 0)
    shifted = jnp.maximum(jax.nn.sigmoid(s) - margin, 0)
    focus = jnp.asarray(negative_focus, s.dtype)
    weight = jnp.where(focus > 0, _arrays.power(shifted, focus), 1)
    values = jnp.where(labels != 0, positive, -weight * log_no)
    return _arrays.select(where, jnp.sum(values, axis=-1))
