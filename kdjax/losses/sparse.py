"""Divergences from a teacher of which only the top of each row is known: its k best classes.

Notation: `s` are student logits `[..., C]`; `l` and `i` are the teacher's log-probabilities and
classes `[..., K]`, normalised over all C classes at temperature 1, so that their mass is at most 1.
The classes of one row are distinct, but a slot at -inf is not used, whatever class it names. The
result has shape `[...]`.

Both distributions are put into K + 1 buckets, the K classes and one for all others, and compared by
the divergences of `kdjax.losses.divergences`; so every other one has a sparse form as well,
`core(*top_k_buckets(s, l, i))`. What the teacher left out, the tail, is a bucket like the others
(`tail=True`) or counts as nothing, and the rest is renormalised (`tail=False`). The student's tail
is exact. Merging classes never increases an f-divergence: at temperature 1 and with the tail the
value is a lower bound of the dense one.
"""

import jax
import jax.numpy as jnp

from kdjax.losses import _arrays, divergences


def top_k_kl_divergence(
    student_logits, teacher_log_probs, classes, *, temperature=1.0, tail=True, where=None
):
    r"""T² · KL(teacher ‖ student) over the teacher's top classes and one bucket for the rest.

    .. math:: T^2 \sum_{b=1}^{K+1} p_b (\log p_b - \log q_b)

    Args:
        student_logits: `[..., C]`
        teacher_log_probs: `[..., K]` at temperature 1.
        classes: `[..., K]` integers, the class of each of them.
        temperature: T > 0, a number or `[...]`. The teacher's leftover mass is tempered as one
            class.
        tail: whether the teacher's leftover mass is kept; without it the rest is renormalised.
        where: `[...]` boolean; masked rows give zero, in value and gradient.

    Returns:
        `[...]`. A bucket in which the student alone has no mass gives +inf if the teacher has some.

    Raises:
        TypeError: logits or log-probabilities that are not floating-point, classes that are not
        integers. ValueError: shapes, temperature.

    >>> s, l, i = jnp.zeros((1, 4)), jnp.log(jnp.array([[0.5]])), jnp.array([[2]])
    >>> round(top_k_kl_divergence(s, l, i).item(), 4)
    0.1438

    Reference:
        Goddard, Atkins, "DistillKit", 2024, whose two rules for missing mass these are; Anshumann,
        Zaidi, Kedia, Ahn, Kwon, Lee, Lee, Lee, "Sparse Logit Sampling: Accelerating Knowledge
        Distillation in LLMs", 2025, shows the bias of dropping the tail.
    """
    log_q, log_p, temperature = _checked(
        student_logits, teacher_log_probs, classes, temperature, tail, where
    )
    values = jnp.square(temperature) * divergences.kl_of_log_probs(log_q, log_p)
    return _arrays.select(where, values)


def top_k_jensen_shannon_divergence(
    student_logits, teacher_log_probs, classes, *, beta=0.5, temperature=1.0, tail=True, where=None
):
    r"""T² · (β KL(teacher ‖ m) + (1 - β) KL(student ‖ m)) over the top classes and the rest.

    .. math:: T^2 \left( \beta \sum_{b=1}^{K+1} p_b \log\frac{p_b}{m_b}
        + (1 - \beta) \sum_{b=1}^{K+1} q_b \log\frac{q_b}{m_b} \right),
        \quad m = \beta p + (1 - \beta) q

    At exactly β = 0 it is KL(teacher ‖ student) and at β = 1 KL(student ‖ teacher), as in
    `generalized_jensen_shannon_divergence`.

    Args:
        student_logits: `[..., C]`
        teacher_log_probs: `[..., K]` at temperature 1.
        classes: `[..., K]` integers, the class of each of them.
        beta: β in [0, 1], a number or `[...]`.
        temperature: T > 0, a number or `[...]`. The teacher's leftover mass is tempered as one
            class.
        tail: whether the teacher's leftover mass is kept; without it the rest is renormalised.
        where: `[...]` boolean; masked rows give zero, in value and gradient.

    Returns:
        `[...]`, finite for 0 < β < 1.

    Raises:
        TypeError: logits or log-probabilities that are not floating-point, classes that are not
        integers. ValueError: shapes, temperature, beta.

    >>> s, l, i = jnp.zeros((1, 4)), jnp.log(jnp.array([[0.5]])), jnp.array([[2]])
    >>> top_k_jensen_shannon_divergence(s, l, i).round(4)
    Array([0.0338], dtype=float32)

    Reference:
        Goddard, Atkins, "DistillKit", 2024, with β = 1/2.
    """
    _arrays.check_fraction(beta=beta)
    log_q, log_p, temperature = _checked(
        student_logits, teacher_log_probs, classes, temperature, tail, where
    )
    values = divergences.generalized_jensen_shannon_of_log_probs(log_q, log_p, beta=beta)
    return _arrays.select(where, jnp.square(temperature) * values)


def top_k_total_variation_distance(
    student_logits, teacher_log_probs, classes, *, temperature=1.0, tail=True, where=None
):
    r"""T² · half the L1 distance of student and teacher over the top classes and the rest.

    .. math:: \frac{T^2}{2} \sum_{b=1}^{K+1} |p_b - q_b|

    Args:
        student_logits: `[..., C]`
        teacher_log_probs: `[..., K]` at temperature 1.
        classes: `[..., K]` integers, the class of each of them.
        temperature: T > 0, a number or `[...]`. The teacher's leftover mass is tempered as one
            class.
        tail: whether the teacher's leftover mass is kept; without it the rest is renormalised.
        where: `[...]` boolean; masked rows give zero, in value and gradient.

    Returns:
        `[...]`, always finite.

    Raises:
        TypeError: logits or log-probabilities that are not floating-point, classes that are not
        integers. ValueError: shapes, temperature.

    >>> s, l, i = jnp.zeros((1, 4)), jnp.log(jnp.array([[0.5]])), jnp.array([[2]])
    >>> top_k_total_variation_distance(s, l, i)
    Array([0.25], dtype=float32)

    Reference:
        Goddard, Atkins, "DistillKit", 2024.
    """
    log_q, log_p, temperature = _checked(
        student_logits, teacher_log_probs, classes, temperature, tail, where
    )
    values = jnp.square(temperature) * divergences.total_variation_of_log_probs(log_q, log_p)
    return _arrays.select(where, values)


def renormalized_top_k_kl_divergence(
    student_logits, teacher_log_probs, classes, *, temperature=1.0, where=None
):
    r"""T² · KL(teacher ‖ student) with BOTH sides renormalised over the teacher's top classes.

    .. math:: T^2 \sum_{k=1}^{K} \hat p_k (\log \hat p_k - \log \hat q_k), \quad
        \hat q = \operatorname{softmax}(s_{i} / T), \ \hat p = \operatorname{softmax}(l / T)

    The student's mass outside the top is free: nothing here takes it down.

    Args:
        student_logits: `[..., C]`
        teacher_log_probs: `[..., K]`, up to a constant of the row: logits do as well.
        classes: `[..., K]` integers, the class of each of them.
        temperature: T > 0, a number or `[...]`.
        where: `[...]` boolean; masked rows give zero, in value and gradient.

    Returns:
        `[...]`. A class at -inf for the student alone gives +inf if the teacher has mass there.

    Raises:
        TypeError: logits or log-probabilities that are not floating-point, classes that are not
        integers. ValueError: shapes, temperature.

    >>> s, l = jnp.zeros((1, 4)), jnp.log(jnp.array([[0.2, 0.6]]))
    >>> renormalized_top_k_kl_divergence(s, l, jnp.array([[2, 0]])).round(4)
    Array([0.1308], dtype=float32)

    Reference:
        Shum, Xu, Zhang, Chen, Diao, Dong, Zhang, Raza, "FIRST: Teach A Reliable Large Language
        Model Through Efficient Trustworthy Distillation", 2024. The authors kept the top 5.
    """
    s, log_p = _checked_inputs(student_logits, teacher_log_probs, classes, where)
    chosen = _chosen(s, log_p, jnp.asarray(classes))
    log_q, log_p, temperature = divergences.softened(chosen, log_p, temperature, where)
    values = jnp.square(temperature) * divergences.kl_of_log_probs(log_q, log_p)
    return _arrays.select(where, values)


def ranking_hinge(student_logits, teacher_log_probs, classes, *, margin=None, where=None):
    r"""Mean over the teacher's ordered pairs of classes of the margin that the student misses.

    .. math:: \operatorname{mean}_{p_k > p_l} \max(0, \delta_{kl} - (q_k - q_l))

    with δ the margin, or p_k - p_l, the teacher's own.

    Args:
        student_logits: `[..., C]`
        teacher_log_probs: `[..., K]` at temperature 1.
        classes: `[..., K]` integers, the class of each of them.
        margin: δ ≥ 0, a difference of probabilities; None for the teacher's gap of each pair.
        where: `[...]` boolean; masked rows give zero, in value and gradient.

    Returns:
        `[...]`. A row without an ordered pair gives zero.

    Raises:
        TypeError: logits or log-probabilities that are not floating-point, classes that are not
        integers. ValueError: shapes, margin.

    >>> s, l, i = jnp.zeros((1, 4)), jnp.log(jnp.array([[0.6, 0.2]])), jnp.array([[0, 3]])
    >>> round(ranking_hinge(s, l, i).item(), 4)
    0.4

    Reference:
        Goddard, Atkins, "DistillKit", 2024.
    """
    s, log_p = _checked_inputs(student_logits, teacher_log_probs, classes, where)
    log_q = jnp.take_along_axis(_arrays.log_softmax(s), jnp.asarray(classes), axis=-1)
    p, q = jnp.exp(log_p), jnp.exp(log_q)
    wanted = p[..., :, None] - p[..., None, :]
    if margin is not None:
        _arrays.check_not_negative(margin=margin)
        wanted = jnp.full_like(wanted, margin)
    missed = jax.nn.relu(wanted - (q[..., :, None] - q[..., None, :]))
    return _arrays.select(where, _mean_over_pairs(missed, ordered_pairs(log_p)))


def logistic_ranking(student_logits, teacher_log_probs, classes, *, where=None):
    r"""Mean over the teacher's ordered pairs of classes of log(1 + exp(-(s_k - s_l))).

    .. math:: \operatorname{mean}_{p_k > p_l} \log(1 + e^{-(s_k - s_l)})

    Args:
        student_logits: `[..., C]`
        teacher_log_probs: `[..., K]`; only their order counts.
        classes: `[..., K]` integers, the class of each of them.
        where: `[...]` boolean; masked rows give zero, in value and gradient.

    Returns:
        `[...]`. A row without an ordered pair gives zero; a student at -inf alone gives +inf where
        the teacher prefers that class.

    Raises:
        TypeError: logits or log-probabilities that are not floating-point, classes that are not
        integers. ValueError: shapes.

    >>> s, l, i = jnp.zeros((1, 4)), jnp.log(jnp.array([[0.6, 0.2]])), jnp.array([[0, 3]])
    >>> logistic_ranking(s, l, i).round(4)
    Array([0.6931], dtype=float32)

    Reference:
        Burges, Shaked, Renshaw, Lazier, Deeds, Hamilton, Hullender, "Learning to Rank using
        Gradient Descent", 2005; between models as in Goddard, Atkins, "DistillKit", 2024.
    """
    s, log_p = _checked_inputs(student_logits, teacher_log_probs, classes, where)
    s = jnp.take_along_axis(s, jnp.asarray(classes), axis=-1)
    pairs = ordered_pairs(log_p)
    # Two classes at -inf have no difference: they count as equal instead of giving nan.
    known = pairs & (jnp.isfinite(s)[..., :, None] | jnp.isfinite(s)[..., None, :])
    first, second = (
        jnp.where(known, jnp.broadcast_to(x, known.shape), 0)
        for x in (s[..., :, None], s[..., None, :])
    )
    return _arrays.select(where, _mean_over_pairs(jax.nn.softplus(second - first), pairs))


def ordered_pairs(log_p):
    """[..., K, K] boolean: the teacher prefers the first class to the second; both have mass."""
    first, second = log_p[..., :, None], log_p[..., None, :]
    return (first > second) & jnp.isfinite(first) & jnp.isfinite(second)


def top_k_buckets(student_logits, teacher_log_probs, classes, *, temperature=1.0, tail=True):
    """(log q, log p) `[..., K + 1]` of student and teacher: the top classes, then all others."""
    s, log_p = _checked_inputs(student_logits, teacher_log_probs, classes, None)
    _arrays.check_positive(temperature=temperature)
    return _buckets(s, log_p, jnp.asarray(classes), temperature, tail)


def _checked(student_logits, teacher_log_probs, classes, temperature, tail, where):
    s, log_p = _checked_inputs(student_logits, teacher_log_probs, classes, where)
    _arrays.check_positive(temperature=temperature)
    log_q, log_p = _buckets(s, log_p, jnp.asarray(classes), temperature, tail)
    return log_q, log_p, jnp.asarray(temperature, log_q.dtype)


def _checked_inputs(student_logits, teacher_log_probs, classes, where):
    s, log_p = _arrays.floating(student_logits=student_logits, teacher_log_probs=teacher_log_probs)
    _arrays.check_min_rank(1, student_logits=s, teacher_log_probs=log_p)
    if s.shape[:-1] != log_p.shape[:-1] or log_p.shape[-1] > s.shape[-1]:
        raise ValueError(
            f"teacher_log_probs {log_p.shape} must have the shape of student_logits {s.shape} but "
            f"for a last axis of at most {s.shape[-1]}"
        )
    _arrays.check_labels(log_p.shape, classes=classes)
    _arrays.check_where(where, s.shape[:-1])
    return _arrays.select(where, s, log_p)


def _buckets(s, log_p, classes, temperature, tail):
    log_q = _arrays.log_softmax(s / _arrays.per_row(temperature, s))
    beyond = jnp.where(jnp.isfinite(log_p), classes, s.shape[-1])
    others = jnp.put_along_axis(log_q, beyond, -jnp.inf, axis=-1, inplace=False, mode="drop")
    log_q = jnp.concatenate([_chosen(log_q, log_p, classes), _log_total(others)], axis=-1)
    nothing = jnp.full((*log_p.shape[:-1], 1), -jnp.inf, log_p.dtype)
    # K = C leaves no other class; what rounding leaves of the mass must not meet a student's -inf.
    leftover = _log_leftover(log_p) if tail and log_p.shape[-1] < s.shape[-1] else nothing
    log_p = jnp.concatenate([log_p, leftover], axis=-1)
    return log_q, _arrays.log_softmax(log_p / _arrays.per_row(temperature, log_p))


def _chosen(x, log_p, classes):
    """The student's `x` at the teacher's classes, -inf in a slot that is not used."""
    return jnp.where(jnp.isfinite(log_p), jnp.take_along_axis(x, classes, axis=-1), -jnp.inf)


def _log_total(log_x):
    """log of the sum of exp over the last axis, kept, -inf if nothing is there."""
    top = jax.lax.stop_gradient(jnp.max(log_x, axis=-1, keepdims=True))
    top = jnp.where(jnp.isfinite(top), top, jnp.zeros_like(top))
    total = jnp.sum(jnp.exp(log_x - top), axis=-1, keepdims=True)
    empty = total == 0
    return jnp.where(empty, -jnp.inf, top + jnp.log(jnp.where(empty, jnp.ones_like(total), total)))


def _log_leftover(log_p):
    """log(1 - sum p) over the last axis, kept; -inf where rounding cannot tell it from zero."""
    leftover = 1 - jnp.sum(jnp.exp(log_p), axis=-1, keepdims=True)
    some = leftover > 8 * jnp.finfo(log_p.dtype).eps
    return jnp.where(some, jnp.log(jnp.where(some, leftover, jnp.ones_like(leftover))), -jnp.inf)


def _mean_over_pairs(values, pairs):
    total = jnp.sum(jnp.where(pairs, values, jnp.zeros_like(values)), axis=(-2, -1))
    return _arrays.divide(total, jnp.sum(pairs, axis=(-2, -1), dtype=values.dtype))
