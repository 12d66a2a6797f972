"""Losses whose rows are weighted by how good teacher and student are on them.

Notation: `s` and `t` are logits `[..., C]`, q and p their softened distributions, y a label
`[...]`.
"""

import jax
import jax.numpy as jnp

from kdjax.losses import _arrays, divergences, logits


def weighted_soft_label_cross_entropy(
    student_logits, teacher_logits, labels, *, temperature=2.0, where=None
):
    r"""T² · H(teacher, student), small where the student already predicts the label better: WSLD.

    .. math:: \Big(1 - \exp\frac{\log q_y^{(1)}}{-\log p_y^{(1)}}\Big) \cdot
        \Big(-T^2 \sum_c p_c \log q_c\Big)

    The weight compares the two cross-entropies with the label at T = 1 and passes no gradient.

    Args:
        student_logits: `[..., C]`
        teacher_logits: `[..., C]`
        labels: `[...]` integers in [0, C).
        temperature: T > 0, a number or `[...]`.
        where: `[...]` boolean; masked rows give zero, in value and gradient.

    Returns:
        `[...]`; the weight is zero where the teacher rules the label out.

    Raises:
        TypeError: logits that are not floating-point, labels that are not integers.
        ValueError: shapes, temperature.

    >>> x = jnp.array([[0.0, 0.0]])
    >>> weighted_soft_label_cross_entropy(x, x, jnp.array([1]), temperature=1.0).round(4)
    Array([0.4382], dtype=float32)

    Reference:
        Zhou, Song, Chen, Zhou, Wang, Yuan, Zhang, "Rethinking Soft Labels for Knowledge
        Distillation: A Bias-Variance Tradeoff Perspective", 2021. The authors used T = 2 and a
        weight of 2.5 on ImageNet, T = 4 and 2.25 on CIFAR-100.
    """
    _arrays.check_positive(temperature=temperature)
    s, t, labels = logits.labelled(student_logits, teacher_logits, labels, where)
    softer = _arrays.per_row(temperature, s)
    log_q, log_p = (_arrays.log_softmax(x / softer) for x in (s, t))
    weights = _bias_weights(jax.lax.stop_gradient(s), jax.lax.stop_gradient(t), labels)
    entropies = -jnp.square(jnp.asarray(temperature, s.dtype)) * _arrays.expectation(log_p, log_q)
    values = weights * jnp.where(weights > 0, entropies, 0)
    return _arrays.select(where, values)


def confidence_weighted_cross_entropy(student_logits, teacher_logits, labels, *, where=None):
    r"""Cross-entropy with the label, each example weighted by the teacher's confidence.

    .. math:: -w_i \log q_{i, y_i}, \quad w_i = \frac{B \max_c p_{i,c}}{\sum_j \max_c p_{j,c}}

    Nothing else of the teacher is used: a control for what its similarities of classes add. The
    mean over the batch is the published loss.

    Args:
        student_logits: `[B, C]`
        teacher_logits: `[B, C]`
        labels: `[B]` integers in [0, C).
        where: `[B]` boolean; masked examples give zero and take no part in the sum; B counts the
            rest.

    Returns:
        `[B]`

    Raises:
        TypeError: logits that are not floating-point, labels that are not integers.
        ValueError: shapes.

    >>> s = jnp.zeros((2, 2))
    >>> confidence_weighted_cross_entropy(s, s, jnp.array([0, 1])).round(4)
    Array([0.6931, 0.6931], dtype=float32)

    Reference:
        Furlanello, Lipton, Tschannen, Itti, Anandkumar, "Born-Again Neural Networks", 2018, there
        called confidence-weighted by teacher max; T = 1.
    """
    s, t, labels = logits.labelled(student_logits, teacher_logits, labels, where)
    _arrays.check_rank(2, student_logits=s, teacher_logits=t)
    confidence = _arrays.select(where, jnp.exp(jnp.max(_arrays.log_softmax(t), axis=-1)))
    examples = s.shape[0] if where is None else jnp.sum(where, dtype=s.dtype)
    mean = jnp.sum(confidence) / jnp.maximum(examples, 1)
    weights = _arrays.divide(confidence, jnp.broadcast_to(mean, confidence.shape))
    return _arrays.select(where, -weights * _arrays.at_label(_arrays.log_softmax(s), labels))


def average_precision_weighted_divergence(
    student_logits, teacher_logits, labels, *, k=10, tolerance=5, temperature=1.0, where=None
):
    r"""T² · KL(teacher ‖ student) over positions, weighted by how well the teacher ranks the batch.

    .. math:: a \, T^2 \, \mathrm{KL}(p_i \,\|\, q_i), \quad
        a = \operatorname{mean}_i \frac{\sum_{r \le k} h_{ir} \sum_{r' \le r} h_{ir'} / r}
        {\sum_{r \le k} h_{ir}}

    h_ir says whether the teacher's r-th best position is within the tolerance of the label; without
    any hit the fraction is 0. The weight a is one number for the batch: a poor teacher counts less.

    Args:
        student_logits: `[B, L]` over positions (the starts or the ends of spans).
        teacher_logits: `[B, L]`
        labels: `[B]` integers in [0, L), the right positions.
        k: how many of the teacher's best positions are looked at, at least 1.
        tolerance: how far a hit may be from the label, at least 0.
        temperature: T > 0, a number or `[B]`.
        where: `[B]` boolean; masked examples give zero and take no part in a.

    Returns:
        `[B]`; positions at -inf for the teacher are never hits.

    Raises:
        TypeError: logits that are not floating-point, labels that are not integers.
        ValueError: shapes, temperature, k, tolerance.

    >>> s, t = jnp.array([[0.0, 0.0]]), jnp.array([[0.0, jnp.log(3.0)]])
    >>> average_precision_weighted_divergence(s, t, jnp.array([0]), k=2, tolerance=0).round(4)
    Array([0.0654], dtype=float32)

    Reference:
        Carrino, Escolano, Fonollosa, "Promoting Generalized Cross-lingual Question Answering in
        Few-resource Scenarios via Self-knowledge Distillation", 2023. k = 10 and a tolerance of 5
        positions, as in the authors' code.
    """
    _arrays.check_positive(temperature=temperature, k=k)
    _arrays.check_not_negative(tolerance=tolerance)
    s, t, labels = logits.labelled(student_logits, teacher_logits, labels, where)
    _arrays.check_rank(2, student_logits=s, teacher_logits=t)
    softer = _arrays.per_row(temperature, s)
    log_q, log_p = (_arrays.log_softmax(x / softer) for x in (s, t))
    precision = _arrays.select(where, _average_precision(t, labels, min(k, t.shape[-1]), tolerance))
    examples = s.shape[0] if where is None else jnp.sum(where, dtype=s.dtype)
    weight = jnp.sum(precision) / jnp.maximum(examples, 1)
    divergence = divergences.kl_of_log_probs(log_q, log_p)
    values = jnp.square(jnp.asarray(temperature, s.dtype)) * divergence
    return _arrays.select(where, weight * jnp.where(weight > 0, values, 0))


def _bias_weights(s, t, labels):
    """1 - exp(-CE(s) / CE(t)) at T = 1."""
    student, teacher = (-_arrays.at_label(_arrays.log_softmax(x), labels) for x in (s, t))
    possible = jnp.isfinite(teacher)
    # The constant is the published one: it bounds the ratio for a teacher sure of the label.
    ratio = jnp.where(possible, student, 0) / (jnp.where(possible, teacher, 1) + 1e-7)
    return -jnp.expm1(-ratio)


def _average_precision(t, labels, k, tolerance):
    """[B] average precision of the k best positions, hits within `tolerance` of the label."""
    best, positions = jax.lax.top_k(t, k)
    near = jnp.abs(positions - labels[:, None].astype(positions.dtype)) <= tolerance
    hits = (near & ~jnp.isneginf(best)).astype(t.dtype)
    ranks = jnp.broadcast_to(jnp.arange(1, k + 1, dtype=t.dtype), hits.shape)
    precisions = jnp.cumsum(hits, axis=-1) / ranks
    return _arrays.divide(jnp.sum(hits * precisions, axis=-1), jnp.sum(hits, axis=-1))
