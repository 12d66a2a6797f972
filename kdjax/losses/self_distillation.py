"""Losses without a better network: designed teachers, corrected teachers, a network's own labels.

Notation: `s` and `t` are logits `[..., C]`, q and p their softened distributions, y a label
`[...]`. The smoothed label u has the probability a at y and (1 - a) / (C - 1) at every other class.
"""

import jax
import jax.numpy as jnp

from kdjax.losses import _arrays, divergences, logits


def virtual_teacher_divergence(
    student_logits, labels, *, correct_probability=0.99, temperature=20.0, where=None
):
    r"""KL(designed teacher ‖ student) for a teacher that is always right, without T².

    .. math:: \mathrm{KL}(\operatorname{softmax}(u / T) \,\|\, \operatorname{softmax}(s))

    T softens the designed probabilities u (not logits), and the student is not softened.

    Args:
        student_logits: `[..., C]`
        labels: `[...]` integers in [0, C).
        correct_probability: a in [0, 1].
        temperature: T > 0, a number or `[...]`.
        where: `[...]` boolean; masked rows give zero, in value and gradient.

    Returns:
        `[...]`; the teacher is designed over the classes that the student does not have at -inf.

    Raises:
        TypeError: logits that are not floating-point, labels that are not integers.
        ValueError: shapes, temperature, probability.

    >>> s, y = jnp.array([[0.0, 0.0]]), jnp.array([0])
    >>> virtual_teacher_divergence(s, y, correct_probability=1.0, temperature=1.0).round(4)
    Array([0.1109], dtype=float32)

    Reference:
        Yuan, Tay, Li, Wang, Feng, "Revisiting Knowledge Distillation via Label Smoothing
        Regularization", 2020. The authors used T = 20 and a = 0.99 beside the cross-entropy.
    """
    (s,) = _arrays.floating(student_logits=student_logits)
    _arrays.check_min_rank(1, student_logits=s)
    _arrays.check_labels(s.shape[:-1], labels=labels)
    _arrays.check_positive(temperature=temperature)
    _arrays.check_fraction(correct_probability=correct_probability)
    _arrays.check_where(where, s.shape[:-1])
    s, labels = _arrays.select(where, s, jnp.asarray(labels))
    carried = ~jnp.isneginf(s)
    u = jnp.exp(_arrays.log_smoothed_label(labels, correct_probability, carried, s.dtype))
    softened = jnp.where(carried, u / _arrays.per_row(temperature, s), -jnp.inf)
    log_p = _arrays.log_softmax(softened)
    values = divergences.kl_of_log_probs(_arrays.log_softmax(s), log_p)
    return _arrays.select(where, values)


def corrected_teacher_divergence(
    student_logits,
    teacher_logits,
    labels,
    *,
    correct_probability=0.9,
    temperature=20.0,
    where=None,
):
    r"""T² · KL(corrected teacher ‖ student): the smoothed label stands in where it is wrong.

    .. math:: T^2 \, \mathrm{KL}(r \,\|\, q), \quad
        r = p \text{ if } \arg\max_c t_c = y, \text{ else } u

    Args:
        student_logits: `[..., C]`
        teacher_logits: `[..., C]`
        labels: `[...]` integers in [0, C).
        correct_probability: a in [0, 1], what the smoothed label gives to y.
        temperature: T > 0 of teacher and student, a number or `[...]`; u is not softened.
        where: `[...]` boolean; masked rows give zero, in value and gradient.

    Returns:
        `[...]`; u gives no mass to classes that the teacher has at -inf.

    Raises:
        TypeError: logits that are not floating-point, labels that are not integers.
        ValueError: shapes, temperature, probability.

    >>> s, t = jnp.array([[0.0, 0.0]]), jnp.array([[0.0, jnp.log(3.0)]])
    >>> corrected_teacher_divergence(s, t, jnp.array([1]), temperature=1.0).round(4)
    Array([0.1308], dtype=float32)

    Reference:
        Wen, Lai, Qian, "Preparing Lessons: Improve Knowledge Distillation with Better Supervision",
        2019, there called knowledge adjustment by label smoothing; `probability_shift` is their
        other one. A public implementation uses T = 20, a = 0.9 and a weight of 0.85 beside the
        label's.
    """
    _arrays.check_positive(temperature=temperature)
    _arrays.check_fraction(correct_probability=correct_probability)
    s, t, labels = logits.labelled(student_logits, teacher_logits, labels, where)
    softer = _arrays.per_row(temperature, s)
    log_q, log_p = (_arrays.log_softmax(x / softer) for x in (s, t))
    label = _arrays.log_smoothed_label(labels, correct_probability, ~jnp.isneginf(t), s.dtype)
    right = jnp.argmax(t, axis=-1) == labels
    values = divergences.kl_of_log_probs(log_q, jnp.where(right[..., None], log_p, label))
    squared = jnp.square(jnp.asarray(temperature, s.dtype))
    return _arrays.select(where, squared * values)


def customised_soft_label_cross_entropy(
    student_logits,
    weak_logits,
    labels,
    *,
    alpha=1.0,
    beta=0.1,
    mu=0.005,
    label_smoothing=0.1,
    where=None,
):
    r"""Cross-entropies with soft labels that a network makes for itself: USKD.

    .. math::
        -\alpha w \log q_y - \beta \sum_{c \ne y} z_c \log \hat q_c - \mu \sum_c v_c \log r_c,
        \quad w = q_y^2 + 1 - \operatorname{mean}_B q_y^2

    r = softmax of the weak logits, v the label with ε spread over all classes, and z Zipf's law
    over the classes other than y: class c has 1 / rank, normalised, ranked among all classes by
    r_c / (1 - r_y) + log q_c / (1 - log q_y), as the authors' code has it. The soft labels w and z
    pass no gradient.

    Args:
        student_logits: `[B, C]`
        weak_logits: `[B, C]` of a classifier on an earlier layer of the student, trained here only.
        labels: `[B]` integers in [0, C).
        alpha: α, the weight of the target class, at least 0.
        beta: β, the weight of the other classes, at least 0.
        mu: μ, the weight of the weak classifier, at least 0.
        label_smoothing: ε in [0, 1], for the weak classifier.
        where: `[B]` boolean; masked examples give zero and take no part in the mean of q_y².

    Returns:
        `[B]`

    Raises:
        TypeError: logits that are not floating-point, labels that are not integers.
        ValueError: shapes, weights, label smoothing.

    >>> s = jnp.zeros((1, 2))
    >>> customised_soft_label_cross_entropy(s, s, jnp.array([0]), beta=0.0, mu=0.0).round(4)
    Array([0.6931], dtype=float32)

    Reference:
        Yang, Zeng, Li, Zhang, Yuan, Li, "From Knowledge Distillation to Self-Knowledge
        Distillation: A Unified Approach with Normalized Loss and Customized Soft Labels", 2023. The
        authors' code has α = 1, β = 0.1, μ = 0.005 and ε = 0.1.
    """
    _arrays.check_not_negative(alpha=alpha, beta=beta, mu=mu)
    _arrays.check_fraction(label_smoothing=label_smoothing)
    s, weak = _arrays.floating(student_logits=student_logits, weak_logits=weak_logits)
    _arrays.check_rank(2, student_logits=s, weak_logits=weak)
    _arrays.check_same_shape(student_logits=s, weak_logits=weak)
    _arrays.check_labels(s.shape[:1], labels=labels)
    _arrays.check_where(where, s.shape[:1])
    s, weak, labels = _arrays.select(where, s, weak, jnp.asarray(labels))
    log_q, log_r = _arrays.log_softmax(s), _arrays.log_softmax(weak)
    weights, zipf = _own_soft_labels(log_q, log_r, labels, where)
    target = -weights * _arrays.at_label(log_q, labels)
    log_q_rest = _arrays.log_softmax(logits.without_label(s, labels))
    rest = -_over_finite(zipf, log_q_rest)
    spread = jnp.full_like(log_r, label_smoothing / s.shape[-1])
    smoothed = (1 - label_smoothing) * jax.nn.one_hot(labels, s.shape[-1], dtype=s.dtype) + spread
    hint = -_over_finite(smoothed, log_r)
    return _arrays.select(where, alpha * target + beta * rest + mu * hint)


def guided_squared_error(student_logits, teacher_logits, labels, *, alpha=0.35, where=None):
    r"""Squared error of probabilities to a mixture of the label and an earlier generation.

    .. math:: \sum_c \alpha (q_c - e_{y,c})^2 + (1 - \alpha) (q_c - p_c)^2

    with e_y the one-hot label. α = 0 repeated over generations ends at the zero function; any α > 0
    bounds how much is smoothed away.

    Args:
        student_logits: `[..., C]`
        teacher_logits: `[..., C]` of the generation before.
        labels: `[...]` integers in [0, C).
        alpha: α in [0, 1], a number or `[...]`.
        where: `[...]` boolean; masked rows give zero, in value and gradient.

    Returns:
        `[...]`

    Raises:
        TypeError: logits that are not floating-point, labels that are not integers.
        ValueError: shapes, α.

    >>> s, t = jnp.array([[0.0, 0.0]]), jnp.array([[0.0, 0.0]])
    >>> guided_squared_error(s, t, jnp.array([0]), alpha=1.0).round(4)
    Array([0.5], dtype=float32)

    Reference:
        Borup, Andersen, "Even your Teacher Needs Guidance: Ground-Truth Targets Dampen
        Regularization Imposed by Self-Distillation", 2021. The authors show α = 0.35 in kernel
        regression.
    """
    _arrays.check_fraction(alpha=alpha)
    s, t, labels = logits.labelled(student_logits, teacher_logits, labels, where)
    q, p = (jnp.exp(_arrays.log_softmax(x)) for x in (s, t))
    one_hot = jax.nn.one_hot(labels, s.shape[-1], dtype=s.dtype)
    to_label = jnp.sum(jnp.square(q - one_hot), axis=-1)
    to_teacher = jnp.sum(jnp.square(q - p), axis=-1)
    return _arrays.select(where, alpha * to_label + (1 - alpha) * to_teacher)


def _own_soft_labels(log_q, log_r, labels, where):
    """(w `[B]`, z `[B, C]`) without gradient: the target's weight, Zipf's law over the others."""
    log_q, log_r = jax.lax.stop_gradient((log_q, log_r))
    log_q_y, r = _arrays.at_label(log_q, labels), jnp.exp(log_r)
    squares = jnp.exp(2 * log_q_y)
    examples = log_q.shape[0] if where is None else jnp.sum(where, dtype=log_q.dtype)
    mean = jnp.sum(_arrays.select(where, squares)) / jnp.maximum(examples, 1)
    # The constant is part of the published ranking: it decides ranks where a target is near one.
    scores = r / (1 - _arrays.at_label(r, labels) + 1e-6)[:, None]
    scores += log_q / (1 - log_q_y + 1e-6)[:, None]
    rank = jnp.argsort(jnp.argsort(-scores, axis=-1), axis=-1)
    others = ~jax.nn.one_hot(labels, log_q.shape[-1], dtype=bool)
    zipf = jnp.where(others, 1 / (1 + rank.astype(log_q.dtype)), 0)
    weights = squares + 1 - mean
    total = jnp.sum(zipf, axis=-1, keepdims=True)
    return weights, _arrays.divide(zipf, jnp.broadcast_to(total, zipf.shape))


def _over_finite(mass, log_p):
    """sum mass * log p over the classes that there are."""
    return jnp.sum(mass * jnp.where(jnp.isfinite(log_p), log_p, 0), axis=-1)
