"""Losses on orders: of the neighbours of an example, of the candidates of a query, of hypotheses.

Notation: `s` and `t` are scores `[..., C]` of C candidates by student and teacher, higher is better;
the result has the leading shape. A candidate that the teacher scores -inf takes no part.
"""

import jax.numpy as jnp

from kdjax.losses import _arrays, divergences


def listwise_likelihood(student_scores, teacher_scores, *, length=None, where=None):
    r"""Negative log-likelihood of the teacher's order under the student's Plackett-Luce model.

    .. math:: -\sum_{i=1}^{L} \left( s_{\pi_i} - \log \sum_{j=i}^{L} e^{s_{\pi_j}} \right)

    with `π` the teacher's order, best first. Only the order of the teacher's scores matters, and it
    passes no gradient; equal scores keep the order of their positions.

    Args:
        student_scores: `[..., C]`
        teacher_scores: `[..., C]`
        length: L >= 1, a Python integer: only the teacher's best L are ordered, among themselves.
            None orders all.
        where: `[...]` boolean; masked rows give zero, in value and gradient.

    Returns:
        `[...]`, +inf where the student alone scores one of the best L -inf.

    Raises:
        TypeError: scores that are not floating-point. ValueError: shapes, length.

    >>> s, t = jnp.array([[0.0, 0.0]]), jnp.array([[1.0, 2.0]])
    >>> listwise_likelihood(s, t).round(4)
    Array([0.6931], dtype=float32)

    Reference:
        Xia, Liu, Wang, Zhang, Li, "Listwise Approach to Learning to Rank: Theory and Algorithm", 2008.
        As a distillation loss: Chen, Wang, Zhang, "DarkRank", 2018 (`rank_likelihood`).
    """
    s, t = _scores(student_scores, teacher_scores, where)
    _check_length(length)
    length = s.shape[-1] if length is None else length
    return _arrays.select(where, _plackett_luce(s, t, jnp.isfinite(t), length))


def rank_likelihood(
    student_features, teacher_features, *, scale=3.0, power=3.0, length=4, where=None
):
    r"""Negative log-likelihood of the teacher's order of each anchor's nearest examples, per anchor.

    .. math:: -\sum_{i=1}^{L} \left( s_{\pi_i} - \log \sum_{j=i}^{L} e^{s_{\pi_j}} \right),
        \quad s_j = -\alpha \lVert f^s_j - f^s_a \rVert^{\beta}

    with `π` the teacher's L nearest neighbours of the anchor `a`, nearest first, the anchor left out.

    Args:
        student_features: `[B, D_s]`
        teacher_features: `[B, D_t]`; widths may differ, only orders are compared.
        scale: α > 0.
        power: β > 0; at or below 1 the gradient of equal rows is taken as zero.
        length: L >= 1, a Python integer; with fewer other examples all of them are ordered.
        where: `[B]` boolean; masked examples are nobody's neighbours and give zero.

    Returns:
        `[B]`, one value an anchor.

    Raises:
        TypeError: features that are not floating-point. ValueError: ranks, batch sizes, parameters.

    >>> x = jnp.array([[0.0], [1.0], [3.0]])
    >>> [round(float(v), 4) for v in rank_likelihood(x, x, scale=1.0, power=1.0)]
    [0.1269, 0.3133, 0.3133]

    Reference:
        Chen, Wang, Zhang, "DarkRank: Accelerating Deep Metric Learning via Cross Sample Similarities
        Transfer", 2018: the hard form. The code of relational distillation, which has it among its
        baselines, uses α = 3, β = 3 and orders the nearest 4.
    """
    f_s, f_t = _arrays.floating(
        student_features=student_features, teacher_features=teacher_features
    )
    _arrays.check_rank(2, student_features=f_s, teacher_features=f_t)
    _arrays.check_same_batch(student_features=f_s, teacher_features=f_t)
    _arrays.check_positive(scale=scale, power=power)
    _check_length(length)
    _arrays.check_where(where, f_s.shape[:1])
    f_s, f_t = _arrays.select(where, f_s, f_t)
    kept = _arrays.pairs(where, f_s.shape[0])
    squares = jnp.where(kept, _arrays.squared_distances(f_s), 0)
    powers = jnp.where(squares > 0, jnp.where(squares > 0, squares, 1) ** (power / 2), 0)
    values = _plackett_luce(-scale * powers, -_arrays.squared_distances(f_t), kept, length)
    return _arrays.select(where, values)


def listwise_divergence(student_scores, teacher_scores, *, temperature=1.0, where=None):
    r"""KL(teacher ‖ student) of the two distributions over a query's candidates; no factor T².

    .. math:: \sum_c p_c (\log p_c - \log q_c), \quad q = \operatorname{softmax}(s),
        \ p = \operatorname{softmax}(t / T)

    The temperature is the teacher's alone: scores of different layers and of dual and cross encoders
    live on different scales, and the student keeps its own.

    Args:
        student_scores: `[..., C]`
        teacher_scores: `[..., C]`
        temperature: T > 0 of the teacher, a number or `[...]`.
        where: `[...]` boolean; masked rows give zero, in value and gradient.

    Returns:
        `[...]`, +inf where the student alone scores a candidate -inf that carries teacher mass.

    Raises:
        TypeError: scores that are not floating-point. ValueError: shapes, temperature.

    >>> s, t = jnp.array([[0.0, 0.0]]), jnp.array([[0.0, jnp.log(3.0)]])
    >>> listwise_divergence(s, t).round(4)
    Array([0.1308], dtype=float32)

    Reference:
        Sun, Liu, Gong, et al., "LEAD: Liberal Feature-based Distillation for Dense
        Retrieval", 2024. Applied to matched layers, each weighted by the teacher layer's quality.
    """
    s, t = _scores(student_scores, teacher_scores, where)
    _arrays.check_positive(temperature=temperature)
    log_q = _arrays.log_softmax(s)
    log_p = _arrays.log_softmax(t / _arrays.per_row(temperature, t))
    return _arrays.select(where, divergences.kl_of_log_probs(log_q, log_p))


def minimum_word_error(student_scores, errors, *, where=None):
    r"""Expected number of errors of the student's hypotheses, relative to their mean.

    .. math:: \sum_n \operatorname{softmax}(s)_n \left( W_n - \bar W \right),
        \quad \bar W = \frac{1}{N} \sum_n W_n

    The distribution is renormalised over the N best; the mean changes no gradient and its variance.

    Args:
        student_scores: `[..., N]` scores of hypotheses, such as log-probabilities of sequences.
        errors: `[..., N]` W, the edit distance of each hypothesis to the reference.
        where: `[...]` boolean; masked rows give zero, in value and gradient.

    Returns:
        `[...]`

    Raises:
        TypeError: scores or errors that are not floating-point. ValueError: shapes.

    >>> minimum_word_error(jnp.array([[0.0, 0.0, -jnp.inf]]), jnp.array([[0.0, 1.0, 5.0]]))
    Array([-1.5], dtype=float32)

    Reference:
        Prabhavalkar, Sainath, Wu, Nguyen, Chen, Chiu, Kannan, "Minimum Word Error Rate Training for
        Attention-based Sequence-to-Sequence Models", 2018, who add 0.01 of cross-entropy.
    """
    s, errors = _arrays.floating(student_scores=student_scores, errors=errors)
    _arrays.check_min_rank(1, student_scores=s)
    _arrays.check_same_shape(student_scores=s, errors=errors)
    _arrays.check_where(where, s.shape[:-1])
    s, errors = _arrays.select(where, s, errors)
    excess = errors - jnp.mean(errors, axis=-1, keepdims=True)
    return _arrays.select(where, _arrays.expectation(_arrays.log_softmax(s), excess))


def _scores(student_scores, teacher_scores, where):
    s, t = _arrays.floating(student_scores=student_scores, teacher_scores=teacher_scores)
    _arrays.check_min_rank(1, student_scores=s, teacher_scores=t)
    _arrays.check_same_shape(student_scores=s, teacher_scores=t)
    _arrays.check_where(where, s.shape[:-1])
    return _arrays.select(where, s, t)


def _check_length(length):
    if length is not None and (not isinstance(length, int) or length < 1):
        raise ValueError(f"length must be an integer of at least 1, got {length}")


def _plackett_luce(s, t, valid, length):
    """Negative log-likelihood `[...]` of the order of `t` among its best valid `length`, under `s`."""
    best = jnp.argsort(jnp.where(valid, -t, jnp.inf), axis=-1)[..., :length]
    ordered, counted = (jnp.take_along_axis(x, best, axis=-1) for x in (s, valid))
    size = best.shape[-1]
    counted_later = jnp.broadcast_to(counted[..., None, :], (*best.shape, size))
    remaining = jnp.triu(counted_later)
    log_q = _arrays.log_softmax(jnp.where(remaining, ordered[..., None, :], -jnp.inf))
    chosen = jnp.diagonal(log_q, axis1=-2, axis2=-1)
    return -jnp.sum(jnp.where(counted, chosen, jnp.zeros_like(chosen)), axis=-1)
