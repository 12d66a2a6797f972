"""Losses that a generator of examples is trained with: functions of what the teacher says of them.

Notation: `t` are the teacher's logits `[B, C]` for generated examples and p = softmax(t). The
gradient goes through the teacher into the generator.
"""

import jax.numpy as jnp

from kdjax.losses import _arrays


def one_hot_cross_entropy(teacher_logits, *, where=None):
    r"""Cross-entropy of the teacher with its own most likely class: how far it is from one-hot.

    .. math:: -\log \max_c p_c

    Args:
        teacher_logits: `[..., C]`
        where: `[...]` boolean; masked rows give zero, in value and gradient.

    Returns:
        `[...]`; of equal classes the first counts.

    Raises:
        TypeError: logits that are not floating-point. ValueError: shapes.

    >>> one_hot_cross_entropy(jnp.array([[0.0, 0.0]])).round(4)
    Array([0.6931], dtype=float32)

    Reference:
        Chen, Wang, Xu, Yang, Liu, Shi, Xu, Xu, Tian, "Data-Free Learning of Student Networks",
        2019. The authors weight it 1 beside 0.1 for activations and 5 for the entropy.
    """
    t = _logits(teacher_logits, where)
    values = -_arrays.at_label(_arrays.log_softmax(t), jnp.argmax(t, axis=-1))
    return _arrays.select(where, values)


def negative_information_entropy(teacher_logits, *, where=None):
    r"""Negative entropy of the mean prediction of a batch: least when all classes are made equally.

    .. math:: \sum_c \bar p_c \log \bar p_c, \quad \bar p = \frac{1}{B} \sum_b p_b

    Args:
        teacher_logits: `[B, C]`
        where: `[B]` boolean; masked examples take no part.

    Returns:
        A scalar between -log C and 0, in nats; 0 if nothing is kept.

    Raises:
        TypeError: logits that are not floating-point. ValueError: shapes.

    >>> negative_information_entropy(jnp.array([[50.0, 0.0], [0.0, 50.0]])).round(4)
    Array(-0.6931, dtype=float32)

    Reference:
        Chen, Wang, Xu, Yang, Liu, Shi, Xu, Xu, Tian, "Data-Free Learning of Student Networks",
        2019. The authors weight it 5 beside 1 for one-hotness, with logarithms to base 10 in their
        code.
    """
    t = _logits(teacher_logits, where)
    _arrays.check_rank(2, teacher_logits=t)
    p = _arrays.select(where, jnp.exp(_arrays.log_softmax(t)))
    examples = t.shape[0] if where is None else jnp.sum(where, dtype=t.dtype)
    mean = jnp.sum(p, axis=0) / jnp.maximum(examples, 1)
    present = mean > 0
    return jnp.sum(mean * jnp.log(jnp.where(present, mean, 1)))


def negative_activation(teacher_features, *, where=None):
    r"""Negative mean size of the teacher's activations: low where an example excites its filters.

    .. math:: -\frac{1}{D} \sum_d |f_d|

    Args:
        teacher_features: `[B, ...]`, of the layer before the classifier.
        where: `[B]` boolean; masked examples give zero, in value and gradient.

    Returns:
        `[B]`; the gradient is zero where a feature is zero.

    Raises:
        TypeError: features that are not floating-point. ValueError: shapes.

    >>> negative_activation(jnp.array([[1.0, -3.0]]))
    Array([-2.], dtype=float32)

    Reference:
        Chen, Wang, Xu, Yang, Liu, Shi, Xu, Xu, Tian, "Data-Free Learning of Student Networks",
        2019. The authors weight it 0.1 beside 1 for one-hotness.
    """
    (f_t,) = _arrays.floating(teacher_features=teacher_features)
    _arrays.check_min_rank(2, teacher_features=f_t)
    _arrays.check_where(where, f_t.shape[:1])
    f_t = _arrays.select(where, f_t)
    # Unlike jnp.abs this has a zero gradient at zero, where rectified features are.
    sizes = jnp.sign(f_t) * f_t
    return _arrays.select(where, -jnp.mean(sizes, axis=tuple(range(1, f_t.ndim))))


def _logits(teacher_logits, where):
    (t,) = _arrays.floating(teacher_logits=teacher_logits)
    _arrays.check_min_rank(1, teacher_logits=t)
    _arrays.check_where(where, t.shape[:-1])
    return _arrays.select(where, t)
