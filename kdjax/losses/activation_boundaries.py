"""Losses on where the teacher's hidden neurons are active, compared before their ReLU.

Notation: `f_s` and `f_t` are pre-activations `[B, ..., C]` of one shape. Both losses sum over the
neurons of an example, as their authors do.
"""

import jax
import jax.numpy as jnp

from kdjax.losses import _arrays


def activation_boundary(student_features, teacher_features, *, margin=1.0, where=None):
    r"""Squared hinge that puts each student neuron on the teacher's side of zero: AB.

    .. math:: \sum_d \begin{cases} (\mu - f_{s,d})_+^2 & f_{t,d} > 0 \\
        (\mu + f_{s,d})_+^2 & f_{t,d} \le 0 \end{cases}

    Only the sign of the teacher's pre-activation matters.

    Args:
        student_features: `[B, ...]`, pre-activations behind a connector if the shapes differ.
        teacher_features: `[B, ...]` of the same shape, pre-activations.
        margin: μ ≥ 0.
        where: `[B]` boolean; masked examples give zero, in value and gradient.

    Returns:
        `[B]`, a sum over neurons. It is not zero for student == teacher, unless every neuron is
        at least μ from zero.

    Raises:
        TypeError: features that are not floating-point. ValueError: shapes that differ, the margin.

    >>> activation_boundary(jnp.array([[0.5, 0.5, 2.0]]), jnp.array([[3.0, -3.0, 3.0]]))
    Array([2.5], dtype=float32)

    Reference:
        Heo, Lee, Yun, Choi, "Knowledge Transfer via Distillation of Activation Boundaries Formed by
        Hidden Neurons", 2019. Margin 1; each stage counts half of the next deeper one. The loss
        initialises the student, before classification is trained.
    """
    f_s, f_t = _pre_activations(student_features, teacher_features, where)
    _arrays.check_not_negative(margin=margin)
    signed = jnp.where(f_t > 0, f_s, -f_s)
    hinge = jax.nn.relu(jnp.asarray(margin, f_s.dtype) - signed)
    values = jnp.sum(jnp.square(hinge), axis=tuple(range(1, f_s.ndim)))
    return _arrays.select(where, values)


def partial_squared_distance(student_features, teacher_features, negative_margin, *, where=None):
    r"""Squared distance to the teacher's margin ReLU, partial where both are inactive: OFD.

    .. math:: \sum_d \begin{cases} 0 & f_{s,d} \le \hat f_{t,d} \le 0 \\
        (f_{s,d} - \hat f_{t,d})^2 & \text{otherwise} \end{cases},
        \quad \hat f_t = \max(f_t, m)

    Args:
        student_features: `[B, ..., C]`, pre-activations behind a connector if the shapes differ.
        teacher_features: `[B, ..., C]` of the same shape, pre-activations.
        negative_margin: `[C]`, m: the mean of the teacher's negative responses in each channel.
        where: `[B]` boolean; masked examples give zero, in value and gradient.

    Returns:
        `[B]`, a sum over neurons.

    Raises:
        TypeError: arrays that are not floating-point. ValueError: shapes that do not fit.

    >>> s, t = jnp.array([[-3.0, 0.0, 2.0]]), jnp.array([[-1.0, -9.0, 1.0]])
    >>> partial_squared_distance(s, t, jnp.full(3, -2.0))
    Array([5.], dtype=float32)

    Reference:
        Heo, Kim, Yun, Park, Kwak, Choi, "A Comprehensive Overhaul of Feature Distillation", 2019.
        The authors take m from the teacher's batch normalisation, divide the sum over the batch by
        1000 B on CIFAR, and count each stage half of the next deeper one.
    """
    f_s, f_t = _pre_activations(student_features, teacher_features, where)
    (margin,) = _arrays.floating(negative_margin=negative_margin)
    if margin.shape != f_s.shape[-1:]:
        raise ValueError(
            f"negative_margin must have shape {f_s.shape[-1:]}, one a channel, got {margin.shape}"
        )
    target = jnp.maximum(f_t, jnp.broadcast_to(margin, f_t.shape).astype(f_t.dtype))
    compared = (f_s > target) | (target > 0)
    squares = jnp.where(compared, jnp.square(f_s - target), 0)
    values = jnp.sum(squares, axis=tuple(range(1, f_s.ndim)))
    return _arrays.select(where, values)


def _pre_activations(student_features, teacher_features, where):
    f_s, f_t = _arrays.floating(
        student_features=student_features, teacher_features=teacher_features
    )
    _arrays.check_min_rank(2, student_features=f_s, teacher_features=f_t)
    _arrays.check_same_shape(student_features=f_s, teacher_features=f_t)
    _arrays.check_where(where, f_s.shape[:1])
    return _arrays.select(where, f_s, f_t)
