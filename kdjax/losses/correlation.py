"""Losses on relations inside a batch of predictions: of classes, of examples, of channels.

Notation: `s` and `t` are logits `[B, C]`, Q = softmax(s / T) and P = softmax(t / T) row by row, and

    relation(a, b) = 1 - Pearson correlation of a and b = ½ ‖u(a) - u(b)‖²

with u(a) the centred vector over its norm. The right side is what is computed: at a = b nothing has
to cancel. A vector that varies by no more than rounding has u = 0 and passes no gradient.
"""

import jax
import jax.numpy as jnp

from kdjax.losses import _arrays


def inter_class_relation(
    student_logits, teacher_logits, *, temperature=1.0, epsilon=0.0, where=None
):
    r"""T² · (1 - Pearson correlation) of the two predictions of an example, over the classes.

    .. math:: T^2 (1 - \rho(q_i, p_i))

    Args:
        student_logits: `[..., C]`
        teacher_logits: `[..., C]`
        temperature: T > 0, a number or `[...]`.
        epsilon: at least 0, added to the product of the two norms under the covariance.
        where: `[...]` boolean; masked rows give zero, in value and gradient.

    Returns:
        `[...]`, between 0 and 2 T². Any scaling and shift of a prediction that keeps its order of
        likelihoods and their proportions costs nothing.

    Raises:
        TypeError: logits that are not floating-point. ValueError: shapes, temperature, epsilon.

    >>> inter_class_relation(jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 9.0]])).round(4)
    Array([2.], dtype=float32)

    Reference:
        Huang, You, Wang, Qian, Xu, "Knowledge Distillation from A Stronger Teacher", 2022. In the
        authors' code both relations have the weight 1, T = 1 unless set, and epsilon = 1e-8.
    """
    _arrays.check_not_negative(epsilon=epsilon)
    q, p, temperature = _softened(student_logits, teacher_logits, temperature, where)
    values = jnp.square(temperature) * _relation(q, p, axis=-1, epsilon=epsilon)
    return _arrays.select(where, values)


def intra_class_relation(
    student_logits, teacher_logits, *, temperature=1.0, epsilon=0.0, where=None
):
    r"""T² · (1 - Pearson correlation) of the two columns of a class, over the batch.

    .. math:: T^2 (1 - \rho(Q_{:, c}, P_{:, c}))

    Args:
        student_logits: `[B, C]`; dense predictions become rows first.
        teacher_logits: `[B, C]`
        temperature: T > 0, a number.
        epsilon: at least 0, added to the product of the two norms under the covariance.
        where: `[B]` boolean; masked examples take no part.

    Returns:
        `[C]`, one value a class; the mean over classes is the published term.

    Raises:
        TypeError: logits that are not floating-point. ValueError: shapes, temperature, epsilon.

    >>> s = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    >>> intra_class_relation(s, s[::-1]).round(4)
    Array([2., 2.], dtype=float32)

    Reference:
        Huang, You, Wang, Qian, Xu, "Knowledge Distillation from A Stronger Teacher", 2022. In the
        authors' code both relations have the weight 1, T = 1 unless set, and epsilon = 1e-8.
    """
    _arrays.check_not_negative(epsilon=epsilon)
    q, p, temperature = _predictions(student_logits, teacher_logits, temperature, where)
    return jnp.square(temperature) * _relation(q, p, axis=0, kept=where, epsilon=epsilon)


def channel_relation(student_features, teacher_features, *, where=None):
    r"""1 - Pearson correlation of two feature vectors at one position, over the channels.

    .. math:: 1 - \rho(f^s_{bhw,:}, f^t_{bhw,:})

    Args:
        student_features: `[B, ..., D]`, channel-last, after the projector if the shapes differ.
        teacher_features: `[B, ..., D]` of the same shape.
        where: `[B, ...]` boolean; masked positions give zero, in value and gradient.

    Returns:
        `[B, ...]`

    Raises:
        TypeError: features that are not floating-point. ValueError: shapes that differ.

    >>> channel_relation(jnp.array([[1.0, 2.0, 3.0]]), jnp.array([[3.0, 5.0, 7.0]])).round(4)
    Array([0.], dtype=float32)

    Reference:
        Huang, You, Wang, Qian, Xu, "DIST+: Knowledge Distillation From a Stronger Adaptive
        Teacher", 2025, with weight 1 beside the two relations of the logits.
    """
    f_s, f_t = _features(student_features, teacher_features, 2)
    _arrays.check_where(where, f_s.shape[:-1])
    f_s, f_t = _arrays.select(where, f_s, f_t)
    return _arrays.select(where, _relation(f_s, f_t, axis=-1))


def spatial_relation(student_features, teacher_features, *, where=None):
    r"""1 - Pearson correlation of the two feature maps at one position, over the examples.

    .. math:: 1 - \rho(a^s_{:,hw}, a^t_{:,hw}), \quad a_{bhw} = \sum_d f_{bhwd}

    Args:
        student_features: `[B, H, W, D_s]`
        teacher_features: `[B, H, W, D_t]`; the numbers of channels may differ.
        where: `[B]` boolean; masked examples take no part.

    Returns:
        `[H, W]`, one value a position; the mean over positions is the published term.

    Raises:
        TypeError: features that are not floating-point. ValueError: shapes.

    >>> x = jnp.array([[[[1.0]]], [[[4.0]]], [[[2.0]]]])
    >>> spatial_relation(x, 2 * x + 1).round(4)
    Array([[0.]], dtype=float32)

    Reference:
        Huang, You, Wang, Qian, Xu, "DIST+: Knowledge Distillation From a Stronger Adaptive
        Teacher", 2025, with weight 1 beside the two relations of the logits.
    """
    f_s, f_t = _arrays.floating(
        student_features=student_features, teacher_features=teacher_features
    )
    _arrays.check_rank(4, student_features=f_s, teacher_features=f_t)
    _arrays.check_same_batch(3, student_features=f_s, teacher_features=f_t)
    _arrays.check_where(where, f_s.shape[:1])
    f_s, f_t = _arrays.select(where, f_s, f_t)
    return _relation(jnp.sum(f_s, axis=-1), jnp.sum(f_t, axis=-1), axis=0, kept=where)


def batch_level_correlation(student_logits, teacher_logits, *, temperature=1.0, where=None):
    r"""Squared difference of the two Gram matrices of the examples' predictions, per anchor.

    .. math:: \ell_i = \sum_j (P P^\top - Q Q^\top)_{ij}^2

    Args:
        student_logits: `[B, C]`
        teacher_logits: `[B, C]`; the numbers of classes may differ.
        temperature: T > 0, a number.
        where: `[B]` boolean; a pair needs both ends, a masked anchor gives zero.

    Returns:
        `[B]`, one value an anchor; the mean over anchors is the published term.

    Raises:
        TypeError: logits that are not floating-point. ValueError: shapes, temperature.

    >>> s, t = jnp.array([[9.0, -9.0], [9.0, -9.0]]), jnp.array([[9.0, -9.0], [-9.0, 9.0]])
    >>> batch_level_correlation(s, t).round(4)
    Array([1., 1.], dtype=float32)

    Reference:
        Jin, Wang, Lin, "Multi-level Logit Distillation", 2023. The authors sum it over temperatures
        2, 3, 4, 5, 6 with weight 9 beside the instance-level KL.
    """
    q, p, _ = _predictions(student_logits, teacher_logits, temperature, where, same_classes=False)
    return jnp.sum(jnp.square(_gram(p) - _gram(q)), axis=1)


def class_level_correlation(student_logits, teacher_logits, *, temperature=1.0, where=None):
    r"""Squared difference of the two Gram matrices of the classes' columns, per class.

    .. math:: \ell_c = \sum_d (P^\top P - Q^\top Q)_{cd}^2

    Args:
        student_logits: `[B, C]`
        teacher_logits: `[B, C]`
        temperature: T > 0, a number.
        where: `[B]` boolean; masked examples take no part.

    Returns:
        `[C]`, one value a class; the mean over classes is the published term.

    Raises:
        TypeError: logits that are not floating-point. ValueError: shapes, temperature.

    >>> class_level_correlation(jnp.array([[9.0, -9.0]]), jnp.array([[-9.0, 9.0]])).round(4)
    Array([1., 1.], dtype=float32)

    Reference:
        Jin, Wang, Lin, "Multi-level Logit Distillation", 2023. The authors sum it over temperatures
        2, 3, 4, 5, 6 with weight 9 beside the instance-level KL.
    """
    q, p, _ = _predictions(student_logits, teacher_logits, temperature, where)
    return jnp.sum(jnp.square(_gram(p.T) - _gram(q.T)), axis=1)


def gram_mahalanobis_distance(student_logits, teacher_logits, *, tikhonov=0.1, where=None):
    r"""Mahalanobis norm of the difference of the two cosine matrices of the logits, per anchor.

    .. math:: \ell_i = \sqrt{D_i^\top (\operatorname{cov} D + \lambda I)^{-1} D_i},
        \quad D = \bar S \bar S^\top - \bar T \bar T^\top

    with rows of unit length and the covariance over the rows of D (divided by B - 1), which is
    differentiated too.

    Args:
        student_logits: `[B, C]`
        teacher_logits: `[B, C]`; the numbers of classes may differ.
        tikhonov: λ > 0.
        where: `[B]` boolean; a pair needs both ends, a masked anchor gives zero.

    Returns:
        `[B]`, one value an anchor; the mean over anchors is the published term. A logit at -inf
        counts as zero: it has no direction.

    Raises:
        TypeError: logits that are not floating-point. ValueError: shapes, λ.

    >>> s, t = jnp.array([[1.0, 0.0], [1.0, 0.0]]), jnp.array([[1.0, 0.0], [0.0, 1.0]])
    >>> gram_mahalanobis_distance(s, t, tikhonov=1.0).round(4)
    Array([0.866, 0.866], dtype=float32)

    Reference:
        Jeong, Lee, Choi, "Streamlined Knowledge Distillation", 2026, in its printed form; λ = 0.1
        beside the KL divergence with T = 4 in the authors' code.
    """
    s, t = _arrays.floating(student_logits=student_logits, teacher_logits=teacher_logits)
    _arrays.check_rank(2, student_logits=s, teacher_logits=t)
    _arrays.check_same_batch(student_logits=s, teacher_logits=t)
    _arrays.check_positive(tikhonov=tikhonov)
    _arrays.check_where(where, s.shape[:1])
    s, t = _arrays.select(where, s, t)
    differences = _gram(_row_directions(s)) - _gram(_row_directions(t))
    size = s.shape[0]
    examples = size if where is None else jnp.sum(where, dtype=s.dtype)
    mean = jnp.sum(differences, axis=0, keepdims=True) / jnp.maximum(examples, 1)
    centred = _arrays.select(where, differences - mean)
    covariance = _gram(centred.T) / jnp.maximum(examples - 1, 1)
    factor = jnp.linalg.cholesky(covariance + tikhonov * jnp.eye(size, dtype=s.dtype))
    whitened = jax.scipy.linalg.solve_triangular(factor, differences.T, lower=True)
    return _arrays.norm(whitened, axis=0)


def _softened(student_logits, teacher_logits, temperature, where):
    """(Q, P, T), checked and masked."""
    s, t = _arrays.floating(student_logits=student_logits, teacher_logits=teacher_logits)
    _arrays.check_min_rank(1, student_logits=s, teacher_logits=t)
    _arrays.check_same_shape(student_logits=s, teacher_logits=t)
    _arrays.check_positive(temperature=temperature)
    _arrays.check_where(where, s.shape[:-1])
    s, t = _arrays.select(where, s, t)
    softer = _arrays.per_row(temperature, s)
    q, p = (jnp.exp(_arrays.log_softmax(x / softer)) for x in (s, t))
    return q, p, jnp.asarray(temperature, s.dtype)


def _predictions(student_logits, teacher_logits, temperature, where, same_classes=True):
    """(Q, P, T) of a batch `[B, C]`, with zeros in the rows that `where` masks."""
    s, t = _arrays.floating(student_logits=student_logits, teacher_logits=teacher_logits)
    _arrays.check_rank(2, student_logits=s, teacher_logits=t)
    _arrays.check_same_batch(student_logits=s, teacher_logits=t)
    if same_classes:
        _arrays.check_same_shape(student_logits=s, teacher_logits=t)
    _arrays.check_positive(temperature=temperature)
    _arrays.check_where(where, s.shape[:1])
    s, t = _arrays.select(where, s, t)
    q, p = (jnp.exp(_arrays.log_softmax(x / temperature)) for x in (s, t))
    q, p = _arrays.select(where, q, p)
    return q, p, jnp.asarray(temperature, s.dtype)


def _features(student_features, teacher_features, rank):
    f_s, f_t = _arrays.floating(
        student_features=student_features, teacher_features=teacher_features
    )
    _arrays.check_min_rank(rank, student_features=f_s, teacher_features=f_t)
    _arrays.check_same_shape(student_features=f_s, teacher_features=f_t)
    return f_s, f_t


def _relation(a, b, axis, kept=None, epsilon=0.0):
    """½ ‖u(a) - u(b)‖² along `axis`, one minus their Pearson correlation; `kept` masks axis 0."""
    a, b = (_centred(x, axis, kept) for x in (a, b))
    differences = _direction(*a, axis) - _direction(*b, axis)
    distances = 0.5 * jnp.sum(jnp.square(differences), axis=axis)
    if isinstance(epsilon, int | float) and epsilon == 0:
        return distances
    # 1 - cov / (n + ε) with n the product of the norms: 1 - (1 - distance) n / (n + ε).
    lost = _arrays.divide(epsilon, _arrays.norm(a[0], axis) * _arrays.norm(b[0], axis) + epsilon)
    return distances + (1 - distances) * lost


def _centred(x, axis, kept):
    """(x minus its mean along `axis`, x's largest size there)."""
    count = x.shape[axis] if kept is None else jnp.sum(kept, dtype=x.dtype)
    mean = jnp.sum(x, axis=axis, keepdims=True) / jnp.maximum(count, 1)
    level = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=axis, keepdims=True))
    return _arrays.select(kept, x - mean), level


def _direction(centred, level, axis):
    """A centred x of unit length; zero where it varies by no more than the rounding of its level.

    Dividing by the largest entry first changes no direction and keeps the squares of columns of
    tiny probabilities from underflowing.
    """
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(centred), axis=axis, keepdims=True))
    eps = jnp.finfo(centred.dtype).eps
    varies = (largest > eps * (8 + centred.shape[axis] ** 0.5) * level) & (largest > eps**4)
    scaled = jnp.where(varies, centred, 0) / jnp.where(varies, largest, 1)
    return _arrays.unit(scaled, axis=axis)


def _row_directions(x):
    return _arrays.unit(jnp.where(jnp.isneginf(x), 0, x))


def _gram(x):
    return jnp.matmul(x, x.T, precision=jax.lax.Precision.HIGHEST)
