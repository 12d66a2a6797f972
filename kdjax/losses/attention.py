"""Losses that compare where two networks look: attention maps, and differences they weight.

Notation: maps are channel-last, `A_s` `[B, H, W, C_s]` and `A_t` `[B, H, W, C_t]`; the spatial sizes
agree (pool the larger map first), the channels need not unless it is said. An attention map is one
number a position, and is compared after division by its Euclidean norm.
"""

import jax
import jax.numpy as jnp

from kdjax.losses import _arrays, _maps


def attention_transfer(student_maps, teacher_maps, *, power=2.0, where=None):
    r"""Euclidean distance of two unit-norm spatial attention maps, per example: AT.

    .. math:: \Bigl\lVert \frac{Q_s}{\lVert Q_s \rVert} - \frac{Q_t}{\lVert Q_t \rVert}
        \Bigr\rVert_2, \quad Q_{hw} = \sum_c \lvert A_{hwc} \rvert^p

    This is the paper's equation. The authors' code, and most others, use its square divided by the
    number of positions.

    Args:
        student_maps: `[B, H, W, C_s]`
        teacher_maps: `[B, H, W, C_t]`
        power: p ≥ 1.
        where: `[B]` boolean; masked examples give zero, in value and gradient.

    Returns:
        `[B]`, between 0 and √2. A map of zeros has attention zero, with a zero gradient.

    Raises:
        TypeError: maps that are not floating-point. ValueError: shapes, a power below 1.

    >>> left = jnp.array([1.0, 0.0]).reshape(1, 1, 2, 1)
    >>> attention_transfer(left, left[:, :, ::-1]).round(4)
    Array([1.4142], dtype=float32)

    Reference:
        Zagoruyko, Komodakis, "Paying More Attention to Attention: Improving the Performance of
        Convolutional Neural Networks via Attention Transfer", 2017. p = 2; weight 1000 for the
        squared mean form, on the outputs of the residual groups.
    """
    a_s, a_t = _maps.aligned(where, student_maps=student_maps, teacher_maps=teacher_maps)
    _arrays.check_at_least_one(power=power)
    return _arrays.norm(_attention(a_s, power) - _attention(a_t, power))


def gradient_attention(
    student_maps, teacher_maps, student_gradients, teacher_gradients, *, where=None
):
    r"""Absolute difference of two unit-norm class activation maps (Grad-CAM), per example: LwM.

    .. math:: \Bigl\lVert \frac{Q_s}{\lVert Q_s \rVert_2} - \frac{Q_t}{\lVert Q_t \rVert_2}
        \Bigr\rVert_1, \quad Q_{hw} = \Bigl( \sum_c A_{hwc} \frac{1}{HW} \sum_{h'w'}
        \frac{\partial z}{\partial A_{h'w'c}} \Bigr)_+

    Args:
        student_maps: `[B, H, W, C_s]`
        teacher_maps: `[B, H, W, C_t]`
        student_gradients: `[B, H, W, C_s]`, of the student's logit z of one class by its maps.
        teacher_gradients: `[B, H, W, C_t]`, of the teacher's logit of the same class.
        where: `[B]` boolean; masked examples give zero, in value and gradient.

    Returns:
        `[B]`. A map that is nowhere positive is zero, with a zero gradient.

    Raises:
        TypeError: arrays that are not floating-point. ValueError: shapes that do not fit.

    >>> a, ones = jnp.array([2.0, 0.0]).reshape(1, 1, 2, 1), jnp.ones((1, 1, 2, 1))
    >>> gradient_attention(a, a[:, :, ::-1], ones, ones)
    Array([2.], dtype=float32)

    Reference:
        Dhar, Singh, Peng, Wu, Chellappa, "Learning without Memorizing", 2019: between the models
        before and after a new task, for the most likely of the old classes.
    """
    a_s, a_t, g_s, g_t = _maps.aligned(
        where,
        student_maps=student_maps,
        teacher_maps=teacher_maps,
        student_gradients=student_gradients,
        teacher_gradients=teacher_gradients,
    )
    _arrays.check_same_shape(student_maps=a_s, student_gradients=g_s)
    _arrays.check_same_shape(teacher_maps=a_t, teacher_gradients=g_t)
    differences = _class_activation(a_s, g_s) - _class_activation(a_t, g_t)
    return jnp.sum(_arrays.absolute(differences), axis=-1)


def channel_attentive_distance(
    student_maps, teacher_maps, channel_attention, *, epsilon=0.0, where=None
):
    r"""Squared difference of unit-norm channel maps, weighted by attention over channels: AFD.

    .. math:: \sum_c \frac{\rho_c}{HW} \Bigl\lVert \frac{A_{s,c}}{\lVert A_{s,c} \rVert}
        - \frac{A_{t,c}}{\lVert A_{t,c} \rVert} \Bigr\rVert^2

    Args:
        student_maps: `[B, H, W, C]`
        teacher_maps: `[B, H, W, C]` of the same shape.
        channel_attention: `[B, C]`, ρ ≥ 0, predicted from the teacher's map; it sums to 1.
        epsilon: added to each channel's norm.
        where: `[B]` boolean; masked examples give zero, in value and gradient.

    Returns:
        `[B]`. A channel of zeros stays zero, with a zero gradient.

    Raises:
        TypeError: arrays that are not floating-point. ValueError: shapes that do not fit,
        epsilon.

    >>> x = jnp.array([1.0, 0.0]).reshape(1, 1, 2, 1)
    >>> channel_attentive_distance(x, x[:, :, ::-1], jnp.ones((1, 1)))
    Array([1.], dtype=float32)

    Reference:
        Wang, Gao, Ren, Zhu, "Pay Attention to Features, Transfer Learn Faster CNNs", 2020.
    """
    a_s, a_t = _maps.aligned(where, student_maps=student_maps, teacher_maps=teacher_maps)
    _arrays.check_same_shape(student_maps=a_s, teacher_maps=a_t)
    (attention,) = _arrays.floating(channel_attention=channel_attention)
    _check_shape((a_s.shape[0], a_s.shape[3]), channel_attention=attention)
    attention = _arrays.select(where, attention)
    _arrays.check_not_negative(epsilon=epsilon)
    s, t = (_unit_channels(x, epsilon) for x in (a_s, a_t))
    per_channel = jnp.mean(jnp.square(s - t), axis=1)
    return jnp.sum(attention * per_channel, axis=-1)


def attention_guided_distance(
    student_maps, teacher_maps, spatial_attention, channel_attention, *, where=None
):
    r"""Euclidean distance of two maps, weighted by attention over positions and channels: FBKD.

    .. math:: \Bigl( \sum_{hwc} (A_{s,hwc} - A_{t,hwc})^2 M^s_{hw} M^c_c \Bigr)^{1/2}

    The authors' other terms are Euclidean distances of attention maps and of non-local relations,
    √(D `feature_hint`). The attentions are of both networks together and no gradient should pass
    through them: the caller detaches them.

    Args:
        student_maps: `[B, H, W, C]`
        teacher_maps: `[B, H, W, C]` of the same shape.
        spatial_attention: `[B, H, W]`, M^s ≥ 0.
        channel_attention: `[B, C]`, M^c ≥ 0.
        where: `[B]` boolean; masked examples give zero, in value and gradient.

    Returns:
        `[B]`, with a zero gradient where it is zero.

    Raises:
        TypeError: arrays that are not floating-point. ValueError: shapes that do not fit.

    >>> x, ones = jnp.array([3.0, 2.0]).reshape(1, 1, 2, 1), jnp.ones((1, 1))
    >>> attention_guided_distance(x, 0 * x, jnp.array([[[1.0, 4.0]]]), ones)
    Array([5.], dtype=float32)

    Reference:
        Zhang, Ma, "Improve Object Detection with Feature-based Knowledge Distillation: Towards
        Accurate and Efficient Detectors", 2021. Attentions are softmax of mean absolute values at
        T = 0.5; weights 7e-5 for this, 4e-3 for attention, 7e-5 for relations (two-stage detectors).
    """
    a_s, a_t = _maps.aligned(where, student_maps=student_maps, teacher_maps=teacher_maps)
    _arrays.check_same_shape(student_maps=a_s, teacher_maps=a_t)
    spatial, channels = _arrays.floating(
        spatial_attention=spatial_attention, channel_attention=channel_attention
    )
    _check_shape(a_s.shape[:3], spatial_attention=spatial)
    _check_shape((a_s.shape[0], a_s.shape[3]), channel_attention=channels)
    spatial, channels = _arrays.select(where, spatial, channels)
    weighted = jnp.square(a_s - a_t) * spatial[..., None] * channels[:, None, None, :]
    return _arrays.sqrt(jnp.sum(weighted, axis=(1, 2, 3)))


def _attention(maps, exponent):
    """`[B, H, W, C]` -> `[B, H * W]` of norm 1: the sum over channels of powers of absolute values."""
    sizes = jnp.abs(_maps.pixels(maps))
    # The result does not depend on the scale; relative to the largest, no power overflows.
    largest = jax.lax.stop_gradient(jnp.max(sizes, axis=(1, 2), keepdims=True))
    relative = _arrays.divide(sizes, jnp.broadcast_to(largest, sizes.shape))
    raised = _arrays.power(relative, jnp.asarray(exponent, sizes.dtype))
    return _arrays.unit(jnp.sum(raised, axis=-1))


def _class_activation(maps, gradients):
    """`[B, H, W, C]` twice -> `[B, H * W]` of norm 1: positive part of the gradient-weighted sum."""
    weights = jnp.mean(gradients, axis=(1, 2))[:, None, :]
    return _arrays.unit(jax.nn.relu(jnp.sum(_maps.pixels(maps) * weights, axis=-1)))


def _unit_channels(maps, epsilon):
    """`[B, H, W, C]` -> `[B, H * W, C]`, each channel over its norm and epsilon."""
    x = _maps.pixels(maps)
    norms = _arrays.norm(x, axis=1, keepdims=True) + jnp.asarray(epsilon, x.dtype)
    return _arrays.divide(x, jnp.broadcast_to(norms, x.shape))


def _check_shape(shape, **arrays):
    for name, x in arrays.items():
        if x.shape != tuple(shape):
            raise ValueError(f"{name} must have shape {tuple(shape)}, got {x.shape}")
